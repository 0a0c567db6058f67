//! Python calls, we serve.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use l2isolate_oslo::{Dispatcher, Endpoint, Listen, RemoteError, Request, Version};
use serde_json::{Value, json};

use crate::harness::{broker, inside, python_client, transport, unique, until};

fn endpoint(notes: &Arc<Mutex<Vec<Value>>>) -> Endpoint {
    let notes = Arc::clone(notes);
    Endpoint::new(Version::new(1, 1))
        .method("echo", async |r: Request| Ok(Value::Object(r.arguments)))
        .method("fail", async |_| Err(RemoteError::value("that is wrong")))
        .method("panic", async |_| panic!("at the disco"))
        .method("slow", async |_| {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(json!("done"))
        })
        .method("note", move |request: Request| {
            let note = request.arguments.get("n").cloned().unwrap_or_default();
            notes.lock().unwrap().push(note);
            std::future::ready(Ok(Value::Null))
        })
}

/// Results, exceptions by class, casts of all three kinds.
#[test]
fn a_python_client_is_served() {
    let broker = broker();
    let topic = unique("serving");
    let notes = Arc::default();
    inside(broker, async || {
        let transport = transport(broker);
        let dispatcher = Dispatcher::new().endpoint(endpoint(&notes));
        let server = transport.serve(Listen::new(&topic, "rust"), dispatcher);
        server.listening().await;
        let client = async |how: &str, more: &[&str]| {
            let mut words = vec![topic.as_str(), how];
            words.extend(more);
            python_client(broker, &words).await
        };
        let all = json!({"a": ["ü", null, 1.5]});
        assert_eq!(client("call", &["echo", &all.to_string()]).await, all);
        let fail = client("call", &["fail"]).await;
        // Python raises builtins as such, others only of modules that it trusts.
        assert_eq!(fail["exception"], "ValueError");
        let message = fail["message"].as_str().unwrap();
        assert!(message.contains("that is wrong"), "{fail}");
        let panicked = client("call", &["panic"]).await;
        assert!(
            panicked["message"].as_str().unwrap().contains("panicked"),
            "{panicked}"
        );
        let none = client("call", &["nothing"]).await;
        assert_eq!(none["exception"], "NoSuchMethod_Remote");
        let newer = client("call", &["echo", "{}", "--version", "1.2"]).await;
        assert_eq!(newer["exception"], "UnsupportedVersion_Remote");
        client("cast", &["note", "{\"n\": 1}"]).await;
        client("fanout", &["note", "{\"n\": 2}"]).await;
        client("cast", &["note", "{\"n\": 3}", "--server", "rust"]).await;
        until("all casts arrive", async || {
            let mut notes = notes.lock().unwrap().clone();
            notes.sort_by_key(Value::as_i64);
            notes == [1, 2, 3].map(Value::from)
        })
        .await;
        server.stop().await;
    });
}

/// A client that wants to know whether its call is being worked on is told so:
/// without, this one would give up after a second.
#[test]
fn a_slow_call_gives_signs_of_life() {
    let broker = broker();
    let topic = unique("slow");
    inside(broker, async || {
        let transport = transport(broker);
        let dispatcher = Dispatcher::new().endpoint(endpoint(&Arc::default()));
        let server = transport.serve(Listen::new(&topic, "rust"), dispatcher);
        server.listening().await;
        let slow = [&topic, "call", "slow", "--monitor", "1", "--timeout", "20"];
        assert_eq!(python_client(broker, &slow).await, json!("done"));
    });
}

/// Several servers share a topic; a fanout reaches each; of two with one name
/// the second waits until the first has gone.
#[test]
fn servers_share_a_topic() {
    let broker = broker();
    let topic = unique("shared");
    inside(broker, async || {
        let counts: [Arc<AtomicU32>; 3] = Default::default();
        let serve = |transport: &l2isolate_oslo::Transport, name: &str, number: usize| {
            let count = Arc::clone(&counts[number]);
            let endpoint = Endpoint::new(Version::default()).method("hit", move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Ok(json!(number)))
            });
            transport.serve(
                Listen::new(&topic, name),
                Dispatcher::new().endpoint(endpoint),
            )
        };
        let transports = [transport(broker), transport(broker), transport(broker)];
        let one = serve(&transports[0], "one", 0);
        let two = serve(&transports[1], "two", 1);
        one.listening().await;
        two.listening().await;
        let client = transports[0].client(l2isolate_oslo::Target::new(&topic));
        let context = l2isolate_oslo::Context::admin();
        for _ in 0..10 {
            client
                .call(&context, "hit", Default::default())
                .await
                .unwrap();
        }
        let hits = || counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert_eq!(hits(), [5, 5, 0]);
        client
            .fanout(&context, "hit", Default::default())
            .await
            .unwrap();
        until("both are reached", async || hits() == [6, 6, 0]).await;

        let namesake = serve(&transports[2], "one", 2);
        let alone = client_of(&transports[1], &topic, "one");
        let answer = alone
            .call(&context, "hit", Default::default())
            .await
            .unwrap();
        assert_eq!(answer, json!(0));
        drop(one);
        transports[0].close().await;
        namesake.listening().await;
        let answer = alone
            .call(&context, "hit", Default::default())
            .await
            .unwrap();
        assert_eq!(answer, json!(2));
    });
}

fn client_of(
    transport: &l2isolate_oslo::Transport,
    topic: &str,
    server: &str,
) -> l2isolate_oslo::Client {
    transport.client(l2isolate_oslo::Target::new(topic).server(server))
}

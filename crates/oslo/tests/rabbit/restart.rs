//! The broker goes and comes back.

use std::{collections::BTreeSet, time::Duration};

use l2isolate_lab::broker::Broker;
use l2isolate_oslo::{
    Context, Dispatcher, Endpoint, Error, Listen, State, Target, Transport, Version,
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{
    PythonServer, arguments, connected, inside, options, own_broker, unique, until,
};

fn serve(transport: &Transport, topic: &str) -> l2isolate_oslo::Server {
    let endpoint = Endpoint::new(Version::default())
        .method("never", async |_| std::future::pending().await)
        .method("hit", async |_| Ok(json!(1)));
    transport.serve(
        Listen::new(topic, "rust"),
        Dispatcher::new().endpoint(endpoint),
    )
}

fn impatient(broker: &Broker) -> Transport {
    let mut options = options(broker);
    options.retry.step = Duration::ZERO;
    options.retry.first = Duration::from_millis(200);
    Transport::start(options)
}

/// Killed while a call waits: the call fails at once, saying so; afterwards
/// clients and servers of both languages are there again by themselves.
#[test]
fn all_comes_back_after_a_kill() {
    let (broker, _turn) = own_broker();
    let (ours, theirs) = (unique("ours"), unique("theirs"));
    let _server = PythonServer::start(&broker, &theirs, &[]);
    inside(&broker, async || {
        let transport = impatient(&broker);
        let server = serve(&transport, &ours);
        server.listening().await;
        let context = Context::admin();
        let client = transport
            .client(Target::new(&ours))
            .timeout(Duration::from_secs(50));
        let waiting = client.call(&context, "never", arguments(json!({})));
        let kill = async {
            // The call is on its way by then, and if not, it fails all the same.
            tokio::time::sleep(Duration::from_millis(300)).await;
            broker.kill().unwrap();
        };
        let (result, ()) = tokio::join!(waiting, kill);
        let error = result.unwrap_err();
        assert!(matches!(error, Error::ConnectionLost { .. }), "{error}");
        let quick = client.clone().timeout(Duration::from_millis(300));
        let error = quick
            .call(&context, "hit", arguments(json!({})))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NotConnected { .. }), "{error}");
        assert!(error.to_string().contains("127.0.0.1:5672"), "{error}");
        broker.start().unwrap();
        // A call that is made while there is no broker waits for it.
        let (one, two) = tokio::join!(
            client.call(&context, "hit", arguments(json!({}))),
            client.call(&context, "hit", arguments(json!({}))),
        );
        // Our server may be a moment behind our client.
        assert!(
            one.is_ok() || matches!(one, Err(Error::NoServer { .. })),
            "{one:?}"
        );
        assert!(
            two.is_ok() || matches!(two, Err(Error::NoServer { .. })),
            "{two:?}"
        );
        server.listening().await;
        client
            .call(&context, "hit", arguments(json!({})))
            .await
            .unwrap();
        let python = transport
            .client(Target::new(&theirs))
            .timeout(Duration::from_secs(5));
        until("Python is there again", async || {
            let echo = python
                .call(&context, "echo", arguments(json!({"a": 1})))
                .await;
            echo == Ok(json!({"a": 1}))
        })
        .await;
        assert_eq!(transport.status().borrow().connections, 2);
    });
}

/// A broker that is silent, as behind a cut cable, counts as gone after the
/// heartbeat's time.
#[test]
fn a_silent_broker_is_noticed() {
    let (broker, _turn) = own_broker();
    inside(&broker, async || {
        let mut options = options(&broker);
        options.heartbeat = Duration::from_secs(2);
        options.retry.step = Duration::ZERO;
        let transport = Transport::start(options);
        connected(&transport).await;
        let process = broker.process().unwrap();
        process.signal(Signal::SIGSTOP);
        let mut status = transport.status();
        let gone = status.wait_for(|status| matches!(&status.state, State::Connecting(Some(_))));
        let noticed = tokio::time::timeout(Duration::from_secs(50), gone).await;
        process.signal(Signal::SIGCONT);
        noticed.expect("not noticed").unwrap();
        connected(&transport).await;
    });
}

/// A broker that is short of memory takes no messages: said so, and over when
/// it is over.
#[test]
fn a_broker_short_of_memory_is_waited_for() {
    let (broker, _turn) = own_broker();
    let topic = unique("memory");
    inside(&broker, async || {
        let transport = impatient(&broker);
        let server = serve(&transport, &topic);
        server.listening().await;
        let context = Context::admin();
        let client = transport
            .client(Target::new(&topic))
            .timeout(Duration::from_secs(2));
        let call = async || client.call(&context, "hit", arguments(json!({}))).await;
        call().await.unwrap();
        broker
            .control(&["set_vm_memory_high_watermark", "absolute", "1"])
            .unwrap();
        let mut errors = BTreeSet::new();
        until("the call is refused", async || match call().await {
            Ok(_) => false,
            Err(error) => {
                errors.insert(error.to_string());
                error.to_string().contains("takes no messages")
            }
        })
        .await;
        broker
            .control(&["set_vm_memory_high_watermark", "0.4"])
            .unwrap();
        until("calls work again", async || call().await.is_ok()).await;
        assert_eq!(transport.status().borrow().connections, 1, "{errors:?}");
    });
}

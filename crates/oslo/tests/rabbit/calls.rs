//! We call, Python serves.

use std::time::Duration;

use l2isolate_oslo::{Context, Error, Target};
use serde_json::{Value, json};

use crate::harness::{
    LOCALHOST, PythonServer, arguments, broker, inside, options, remote, transport, unique, until,
};

/// What a client does all day: calls with all that JSON can hold, casts,
/// fanouts, one server alone; and exceptions by their class.
#[test]
fn a_python_server_is_called() {
    let broker = broker();
    let topic = unique("served");
    let _server = PythonServer::start(broker, &topic, &["--server", "one"]);
    inside(broker, async || {
        let transport = transport(broker);
        let context = Context::admin();
        let client = transport.client(Target::new(&topic).version(1, 2));
        let all = json!({"a": [1, null, true, {"b": "ü\"\\\u{1F980}"}], "c": 1.5, "big": "x".repeat(300_000)});
        let result = client.call(&context, "echo", arguments(all.clone())).await;
        assert_eq!(result.unwrap(), all);
        let who = client.call(&context, "whoami", arguments(json!({}))).await;
        assert_eq!(who.unwrap()["is_admin"], true);

        let fail = client.call(&context, "fail", arguments(json!({"text": "no"})));
        let error = remote(fail.await.unwrap_err());
        assert_eq!((&*error.class, &*error.message), ("ValueError", "no"));
        assert!(!error.traceback.is_empty());
        let error = client.call(&context, "nothing", arguments(json!({})));
        let error = remote(error.await.unwrap_err());
        assert_eq!(error.class, "NoSuchMethod");
        assert!(error.is_unsupported());
        let newer = transport.client(Target::new(&topic).version(1, 4));
        let error = newer.call(&context, "echo", arguments(json!({})));
        assert_eq!(remote(error.await.unwrap_err()).class, "UnsupportedVersion");
        let spaced = transport.client(Target::new(&topic).namespace("n"));
        let error = spaced.call(&context, "echo", arguments(json!({})));
        assert_eq!(remote(error.await.unwrap_err()).class, "UnsupportedVersion");

        let alone = transport.client(Target::new(&topic).server("one"));
        client
            .cast(&context, "note", arguments(json!({"by": "cast"})))
            .await
            .unwrap();
        alone
            .cast(&context, "note", arguments(json!({"by": "directed"})))
            .await
            .unwrap();
        client
            .fanout(&context, "note", arguments(json!({"by": "fanout"})))
            .await
            .unwrap();
        until("all casts arrive", async || {
            let noted = client
                .call(&context, "noted", arguments(json!({})))
                .await
                .unwrap();
            let mut by: Vec<_> = noted
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n["by"].clone())
                .collect();
            by.sort_by_key(ToString::to_string);
            by == ["cast", "directed", "fanout"].map(Value::from)
        })
        .await;
        transport.close().await;
        let closed = client.call(&context, "echo", arguments(json!({}))).await;
        assert_eq!(closed.unwrap_err(), Error::Closed);
    });
}

/// A reply that comes too late is dropped, and the time-out of that method grows.
#[test]
fn a_late_reply_does_no_harm() {
    let broker = broker();
    let topic = unique("late");
    let _server = PythonServer::start(broker, &topic, &[]);
    inside(broker, async || {
        let transport = transport(broker);
        let context = Context::admin();
        let second = Duration::from_secs(1);
        let backoff = l2isolate_oslo::Backoff::new(second, 4 * second);
        let client = transport
            .client(Target::new(&topic))
            .backoff(backoff.into());
        let slow = || client.call(&context, "slow", arguments(json!({"seconds": 1.5})));
        let error = slow().await.unwrap_err();
        let Error::Timeout { method, after, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((&**method, *after), ("slow", second));
        // The late reply comes now; the next call has two seconds.
        assert_eq!(slow().await.unwrap(), json!(1.5));
        let echo = client
            .call(&context, "echo", arguments(json!({"a": 1})))
            .await;
        assert_eq!(echo.unwrap(), json!({"a": 1}));
    });
}

/// Nobody serves: known at once, with what to look at.
#[test]
fn that_nobody_serves_is_known_at_once() {
    let broker = broker();
    inside(broker, async || {
        let transport = transport(broker);
        let client = transport.client(Target::new(&unique("nobody")));
        let context = Context::admin();
        let error = client
            .call(&context, "m", arguments(json!({})))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NoServer { .. }), "{error}");
        assert!(
            error.to_string().contains("control_exchange is openstack"),
            "{error}"
        );
        // A cast is lost without a word, as in Python.
        client
            .cast(&context, "m", arguments(json!({})))
            .await
            .unwrap();
        client
            .fanout(&context, "m", arguments(json!({})))
            .await
            .unwrap();
        let long = transport.client(Target::new(&"x".repeat(300)));
        let error = long
            .cast(&context, "m", arguments(json!({})))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::LongName(_)), "{error}");
    });
}

/// What is there with other properties is used as it is: the server's options
/// say durable, ours don't.
#[test]
fn a_durable_exchange_is_used_as_it_is() {
    let broker = broker();
    let (topic, exchange) = (unique("durable"), unique("exchange"));
    let url = format!("{}?amqp_durable_queues=true", broker.url(LOCALHOST));
    let _server = PythonServer::at(broker, &url, &topic, &["--exchange", &exchange]);
    inside(broker, async || {
        let mut options = options(broker);
        options.exchange = exchange.clone();
        let transport = l2isolate_oslo::Transport::start(options);
        let client = transport.client(Target::new(&topic));
        let context = Context::admin();
        let echo = client
            .call(&context, "echo", arguments(json!({"a": 1})))
            .await;
        assert_eq!(echo.unwrap(), json!({"a": 1}));
    });
    let exchanges = broker
        .control(&["list_exchanges", "name", "durable"])
        .unwrap();
    assert!(
        exchanges.contains(&format!("{exchange}\ttrue")),
        "{exchanges}"
    );
}

//! Messages that are none, queues that vanish, exchanges that don't fit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use l2isolate_lab::broker::Broker;
use l2isolate_oslo::{Context, Dispatcher, Endpoint, Error, Listen, Target, Transport, Version};
use lapin::{
    BasicProperties, Channel, ExchangeKind,
    options::{BasicPublishOptions, ExchangeDeclareOptions},
    types::FieldTable,
};
use serde_json::{Value, json};

use crate::harness::{
    LOCALHOST, arguments, broker, inside, options, own_broker, transport, unique, until,
};

/// A client without any rules.
async fn raw(broker: &Broker) -> (lapin::Connection, Channel) {
    let url = broker.url(LOCALHOST).replacen("rabbit", "amqp", 1);
    let connection = lapin::Connection::connect(&url, Default::default()).await;
    let connection = connection.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8], headers: FieldTable) {
    let properties = BasicProperties::default().with_headers(headers);
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish(exchange.into(), key.into(), options, body, properties);
    published.await.unwrap();
}

fn hits() -> (Arc<AtomicU32>, Dispatcher) {
    let hits: Arc<AtomicU32> = Arc::default();
    let count = Arc::clone(&hits);
    let endpoint = Endpoint::new(Version::default()).method("hit", move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(json!(1)))
    });
    (hits, Dispatcher::new().endpoint(endpoint))
}

/// A body as oslo.messaging makes it.
fn envelope(message: &Value) -> Vec<u8> {
    json!({"oslo.version": "2.0", "oslo.message": message.to_string()})
        .to_string()
        .into_bytes()
}

/// A server drops what it can't read and goes on; a message that comes twice
/// is executed once.
#[test]
fn a_server_survives_bad_messages() {
    let broker = broker();
    let topic = unique("bad");
    let (hits, dispatcher) = hits();
    inside(broker, async || {
        let transport = transport(broker);
        let server = transport.serve(Listen::new(&topic, "rust"), dispatcher);
        server.listening().await;
        let (_connection, channel) = raw(broker).await;
        let good = json!({"method": "hit", "args": {}, "version": "1.0", "_unique_id": "same"});
        let newer = json!({"oslo.version": "3.0", "oslo.message": "{}"}).to_string();
        let mut gzip = FieldTable::default();
        gzip.insert(
            "compression".into(),
            lapin::types::AMQPValue::LongString("application/x-gzip".into()),
        );
        let none = FieldTable::default;
        for (body, headers) in [
            (b"\xff\x00 not JSON".to_vec(), none()),
            (Vec::new(), none()),
            (newer.into_bytes(), none()),
            (envelope(&json!({"args": {}})), none()),
            (envelope(&json!([])), none()),
            (envelope(&good), gzip),
            // Replies that nobody can get are given up without holding up others.
            (
                envelope(
                    &json!({"method": "hit", "args": {}, "_msg_id": "1", "_reply_q": "reply_of_nobody"}),
                ),
                none(),
            ),
            (envelope(&good), none()),
            (envelope(&good), none()),
        ] {
            publish(&channel, "openstack", &topic, &body, headers).await;
        }
        let client = transport.client(Target::new(&topic));
        let answer = client
            .call(&Context::admin(), "hit", arguments(json!({})))
            .await;
        assert_eq!(answer.unwrap(), json!(1));
        // The one without a queue for its reply, one of the two, the call.
        assert_eq!(hits.load(Ordering::Relaxed), 3);
    });
}

/// What isn't a reply doesn't disturb the one that is awaited.
#[test]
fn a_client_survives_bad_replies() {
    let broker = broker();
    let topic = unique("replies");
    inside(broker, async || {
        let (_connection, channel) = raw(broker).await;
        let transport = transport(broker);
        let other = channel.clone();
        // The reply queue is known only to who is called, so it plays the villain.
        let endpoint = Endpoint::new(Version::default()).method("hit", move |request| {
            let channel = other.clone();
            async move {
                let queue = request.arguments["queue"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                for body in [
                    b"not JSON".to_vec(),
                    envelope(&json!({"result": 1})),
                    envelope(&json!({"_msg_id": "of another call", "result": 1, "ending": true})),
                    br#"{"oslo.version": "9.9", "oslo.message": "{}"}"#.to_vec(),
                ] {
                    publish(&channel, "", &queue, &body, FieldTable::default()).await;
                }
                Ok(json!("the right one"))
            }
        });
        let server = transport.serve(
            Listen::new(&topic, "rust"),
            Dispatcher::new().endpoint(endpoint),
        );
        server.listening().await;
        let queues = broker
            .control(&["list_queues", "name", "pid", "owner_pid"])
            .unwrap();
        let mine: Vec<_> = queues
            .lines()
            .filter(|line| line.starts_with("reply_"))
            .collect();
        assert!(!mine.is_empty(), "{queues}");
        // Other tests have reply queues as well; theirs drop these just so.
        let client = transport.client(Target::new(&topic));
        for line in mine {
            let queue = line.split('\t').next().unwrap();
            let hit = arguments(json!({ "queue": queue }));
            let answer = client.call(&Context::admin(), "hit", hit).await;
            assert_eq!(answer.unwrap(), json!("the right one"));
        }
    });
}

/// A method that never returns: the caller knows after its time, and others are
/// served meanwhile.
#[test]
fn a_reply_that_never_comes() {
    let broker = broker();
    let topic = unique("never");
    inside(broker, async || {
        let transport = transport(broker);
        let endpoint = Endpoint::new(Version::default())
            .method("never", async |_| std::future::pending().await)
            .method("hit", async |_| Ok(json!(1)));
        let server = transport.serve(
            Listen::new(&topic, "rust"),
            Dispatcher::new().endpoint(endpoint),
        );
        server.listening().await;
        let client = transport
            .client(Target::new(&topic))
            .timeout(Duration::from_secs(1));
        let context = Context::admin();
        let error = client
            .call(&context, "never", arguments(json!({})))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(error.is_transient());
        assert_eq!(
            client
                .call(&context, "hit", arguments(json!({})))
                .await
                .unwrap(),
            json!(1)
        );
    });
}

/// An exchange of another kind can't be used, and the error says what to do.
#[test]
fn an_exchange_of_another_kind_is_named() {
    let broker = broker();
    let name = unique("direct");
    inside(broker, async || {
        let (_connection, channel) = raw(broker).await;
        let declared = channel.exchange_declare(
            name.as_str().into(),
            ExchangeKind::Headers,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        );
        declared.await.unwrap();
        let mut options = options(broker);
        options.exchange = name.clone();
        let transport = Transport::start(options);
        // A passive declaration doesn't look at the kind; nobody is bound there.
        let client = transport.client(Target::new("topic"));
        let error = client
            .call(&Context::admin(), "m", arguments(json!({})))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&name), "{error}");
    });
}

/// The broker cancels a consumer (the queue was deleted, or its node failed):
/// the queue is made anew, for replies and for requests.
#[test]
fn a_deleted_queue_is_made_anew() {
    let (broker, _turn) = own_broker();
    let topic = unique("deleted");
    let (hits, dispatcher) = hits();
    inside(&broker, async || {
        let transport = transport(&broker);
        let server = transport.serve(Listen::new(&topic, "rust"), dispatcher);
        server.listening().await;
        let client = transport
            .client(Target::new(&topic))
            .timeout(Duration::from_secs(5));
        let context = Context::admin();
        let call = async || client.call(&context, "hit", arguments(json!({}))).await;
        call().await.unwrap();
        let queues = broker.control(&["list_queues", "name"]).unwrap();
        let names: Vec<&str> = queues.lines().filter(|name| *name != "name").collect();
        assert_eq!(
            names.len(),
            4,
            "shared, directed, fanout, replies: {queues}"
        );
        for name in names {
            broker.control(&["delete_queue", name]).unwrap();
        }
        until("calls work again", async || call().await.is_ok()).await;
        let before = hits.load(Ordering::Relaxed);
        client
            .fanout(&context, "hit", arguments(json!({})))
            .await
            .unwrap();
        let alone = transport.client(Target::new(&topic).server("rust"));
        alone
            .cast(&context, "hit", arguments(json!({})))
            .await
            .unwrap();
        until("casts arrive", async || {
            hits.load(Ordering::Relaxed) == before + 2
        })
        .await;
        assert_eq!(transport.status().borrow().connections, 1);
    });
}

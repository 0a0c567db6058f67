//! Casts by routing keys that change.

use std::{collections::BTreeSet, sync::Arc};

use l2isolate_oslo::{Bound, Context, Inbox, Target, Transport};
use serde_json::json;

use crate::harness::{arguments, broker, inside, own_broker, transport, unique};

fn keys(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

async fn bound(inbox: &Inbox, queue: u64, wanted: &[&str]) {
    let wanted = Some(Bound {
        queue,
        keys: Arc::new(keys(wanted)),
    });
    let mut bound = inbox.bound();
    bound.wait_for(|bound| *bound == wanted).await.unwrap();
}

async fn cast(transport: &Transport, key: &str, number: u32) {
    let client = transport.client(Target::new(key));
    let arguments = arguments(json!({"number": number}));
    client
        .cast(&Context::admin(), "note", arguments)
        .await
        .unwrap();
}

/// What is sent to a key is heard from the moment that the inbox says it is
/// bound to it, in order, until it isn't any more.
#[test]
fn an_inbox_hears_what_its_keys_say() {
    inside(broker(), async || {
        let transport = transport(broker());
        let (a, b) = (unique("a"), unique("b"));
        let (inbox, mut casts) = transport.inbox(&unique("inbox"), 100, keys(&[&a]));
        bound(&inbox, 1, &[&a]).await;
        cast(&transport, &b, 0).await;
        for number in 1..=50 {
            cast(&transport, &a, number).await;
        }
        for number in 1..=50 {
            let heard = casts.recv().await.unwrap();
            assert_eq!((&heard.key, &*heard.method), (&a, "note"));
            assert_eq!(heard.arguments["number"], number);
        }
        inbox.set_keys(Arc::new(keys(&[&b])));
        bound(&inbox, 1, &[&b]).await;
        cast(&transport, &a, 51).await;
        cast(&transport, &b, 52).await;
        let heard = casts.recv().await.unwrap();
        assert_eq!((&heard.key, &heard.arguments["number"]), (&b, &json!(52)));
        transport.close().await;
    });
}

/// The queue goes with its connection; the next one is another, with the same
/// keys, and says so.
#[test]
fn an_inbox_is_made_anew() {
    let (broker, _turn) = own_broker();
    inside(&broker, async || {
        let transport = transport(&broker);
        let (inbox, mut casts) = transport.inbox("inbox", 100, keys(&["k"]));
        bound(&inbox, 1, &["k"]).await;
        broker.kill().unwrap();
        let mut gone = inbox.bound();
        gone.wait_for(Option::is_none).await.unwrap();
        broker.start().unwrap();
        bound(&inbox, 2, &["k"]).await;
        cast(&transport, "k", 1).await;
        assert_eq!(casts.recv().await.unwrap().arguments["number"], 1);
        transport.close().await;
    });
}

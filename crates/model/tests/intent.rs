//! What the store makes of changes: the last good version stays, the oldest
//! has what two claim, a subnet outlives its ports.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

use l2isolate_model::{
    IfName, PortId,
    document::{self, ObjectId},
    intent::{Change, Intent, Outcome},
};
use serde_json::{Value, json};

fn take(intent: &mut Intent, document: Value) -> Outcome {
    let mut all = json!({"version": 1});
    all.as_object_mut()
        .unwrap()
        .extend(document.as_object().unwrap().clone());
    intent.update(
        document::parse(all.to_string().as_bytes(), "a.json".as_ref())
            .unwrap()
            .objects,
    )
}

fn port(id: &str, tap: &str, day: u8, address: &str) -> Value {
    json!({"id": id, "tap": tap, "mac": "fa:16:3e:00:00:01", "created": format!("2026-01-{day:02}T00:00:00Z"),
        "addresses": [{"address": address, "subnet": "s"}]})
}

fn with_subnet() -> Intent {
    let mut intent = Intent::default();
    take(
        &mut intent,
        json!({"subnets": [{"id": "s", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}]}),
    );
    intent
}

fn holder(intent: &Intent, tap: &str) -> Option<String> {
    let tap: IfName = tap.parse().unwrap();
    intent.on_tap(tap).map(|port| port.port.id.to_string())
}

fn problems(intent: &Intent, id: &str) -> Vec<String> {
    let id: PortId = id.parse().unwrap();
    intent
        .port(&id)
        .unwrap()
        .problems()
        .map(ToString::to_string)
        .collect()
}

/// Whatever is wrong with a newer version, the one that worked stays in force,
/// and the reason names file, port and field.
#[test]
fn the_last_good_version_stays() {
    for (bad, field, reason) in [
        (json!({"mac": "zz"}), "mac", "is not a MAC address"),
        (json!({"tap": "a-name-of-16-byt"}), "tap", "1 to 15"),
        (json!({"tap": "vnet0"}), "tap", "begin with `tap`"),
        (
            json!({"addresses": [{"address": "10.0.1.5", "subnet": "s"}]}),
            "addresses",
            "outside its subnet",
        ),
        (
            json!({"addresses": [{"address": "10.0.0.1", "subnet": "s"}]}),
            "addresses",
            "is the gateway",
        ),
        (
            json!({"addresses": [{"address": "10.0.0.5", "subnet": "x"}]}),
            "addresses",
            "subnet x, which is not known",
        ),
        (
            json!({"addresses": [{"address": "10.0.0.5", "subnet": "s"}, {"address": "10.0.0.5", "subnet": "s"}]}),
            "addresses",
            "twice",
        ),
        (
            json!({"addresses": [{"address": "10.0.0", "subnet": "s"}]}),
            "addresses[0].address",
            "invalid IP address",
        ),
        (json!({"mtu": 60}), "mtu", "68"),
        (json!({"created": "yesterday"}), "created", ""),
    ] {
        let mut intent = with_subnet();
        take(
            &mut intent,
            json!({"ports": [port("p", "tap0", 1, "10.0.0.5")]}),
        );
        let good = intent.on_tap("tap0".parse().unwrap()).cloned();
        assert!(good.is_some());
        let mut changed = port("p", "tap0", 1, "10.0.0.6");
        changed
            .as_object_mut()
            .unwrap()
            .extend(bad.as_object().unwrap().clone());
        let outcome = take(&mut intent, json!({"ports": [changed]}));
        assert_eq!(outcome.accepted, [], "{bad}");
        assert_eq!(
            intent.on_tap("tap0".parse().unwrap()).cloned(),
            good,
            "{bad}"
        );
        let problems = problems(&intent, "p");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with(&format!("a.json: port p: {field}: ")),
            "{problems:?}"
        );
        assert!(problems[0].contains(reason), "{problems:?}");
        // A good one mends it.
        take(
            &mut intent,
            json!({"ports": [port("p", "tap0", 1, "10.0.0.7")]}),
        );
        assert_eq!(crate::problems(&intent, "p"), [""; 0]);
    }
}

/// The older port has the tap or address, whoever came first; when it goes,
/// the next one gets it; and who only lost against a loser loses nothing.
#[test]
fn the_oldest_has_it() {
    let mut intent = with_subnet();
    take(
        &mut intent,
        json!({"ports": [port("young", "tap0", 9, "10.0.0.5")]}),
    );
    assert_eq!(holder(&intent, "tap0").as_deref(), Some("young"));
    let outcome = take(
        &mut intent,
        json!({"ports": [port("old", "tap1", 1, "10.0.0.5")]}),
    );
    assert_eq!(holder(&intent, "tap0"), None);
    assert_eq!(holder(&intent, "tap1").as_deref(), Some("old"));
    assert_eq!(outcome.taps.len(), 2);
    assert_eq!(
        problems(&intent, "young"),
        [
            "a.json: port young: address: address 10.0.0.5 belongs to port old, which was created first"
        ]
    );
    // Claims young's tap; young has no claim that holds, so it isn't in the way.
    take(
        &mut intent,
        json!({"ports": [port("youngest", "tap0", 20, "10.0.0.9")]}),
    );
    assert_eq!(holder(&intent, "tap0").as_deref(), Some("youngest"));
    // Now young gets its address, and with it its older right to the tap.
    intent.update([(ObjectId::Port("old".parse().unwrap()), Change::Gone)]);
    assert_eq!(holder(&intent, "tap0").as_deref(), Some("young"));
    assert_eq!(problems(&intent, "young"), [""; 0]);
    assert!(problems(&intent, "youngest")[0].contains("tap tap0 belongs to port young"));
}

/// Ties go to the smaller id.
#[test]
fn of_the_same_age_the_smaller_id_has_it() {
    let mut intent = with_subnet();
    take(
        &mut intent,
        json!({"ports": [port("b", "tap0", 1, "10.0.0.5"), port("a", "tap0", 1, "10.0.0.6")]}),
    );
    assert_eq!(holder(&intent, "tap0").as_deref(), Some("a"));
}

/// A subnet that goes before its ports stays in force, and in the cache, until
/// the last of them has gone.
#[test]
fn a_subnet_outlives_its_ports() {
    let mut intent = with_subnet();
    take(
        &mut intent,
        json!({"ports": [port("p", "tap0", 1, "10.0.0.5")]}),
    );
    let subnet = ObjectId::Subnet("s".parse().unwrap());
    let outcome = intent.update([(subnet.clone(), Change::Gone)]);
    assert_eq!(outcome.gone, []);
    assert!(
        intent
            .problems()
            .any(|problem| problem.to_string().contains("subnet s: is gone"))
    );
    take(
        &mut intent,
        json!({"ports": [port("p", "tap0", 1, "10.0.0.6")]}),
    );
    assert_eq!(problems(&intent, "p"), [""; 0]);
    let outcome = intent.update([(ObjectId::Port("p".parse().unwrap()), Change::Gone)]);
    assert!(outcome.gone.contains(&subnet));
    assert_eq!(intent.ids().count(), 0);
    assert_eq!(intent.problems().count(), 0);
}

/// A changed subnet reaches its ports, and a port may come before its subnet.
#[test]
fn ports_follow_their_subnet() {
    let mut intent = Intent::default();
    take(
        &mut intent,
        json!({"ports": [port("p", "tap0", 1, "10.0.0.5")]}),
    );
    assert_eq!(holder(&intent, "tap0"), None);
    let outcome = take(
        &mut intent,
        json!({"subnets": [{"id": "s", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}]}),
    );
    assert_eq!(holder(&intent, "tap0").as_deref(), Some("p"));
    assert_eq!(outcome.taps.len(), 1);
    // The gateway moves onto the port's address: the subnet is in force, the
    // port keeps what it had.
    take(
        &mut intent,
        json!({"subnets": [{"id": "s", "cidr": "10.0.0.0/24", "gateway": "10.0.0.5"}]}),
    );
    assert_eq!(
        intent.on_tap("tap0".parse().unwrap()).unwrap().addresses[0]
            .1
            .gateway,
        Some("10.0.0.1".parse().unwrap())
    );
    assert!(problems(&intent, "p")[0].contains("is the gateway of subnet s"));
}

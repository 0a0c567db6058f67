//! What it does when something is wrong: each fault has its words, and ends in
//! what the cloud wants.

use std::time::Duration;

use l2isolate_lab::{
    broker::{Alone, Options as BrokerOptions},
    fake::Manner,
};
use serde_json::json;

use crate::harness::{Rig, port, port_id, subnet};

fn complete(tune: fn(&mut l2isolate_source::neutron::Options)) -> Rig {
    let mut rig = Rig::new();
    rig.tune = tune;
    rig.serve();
    rig.cloud().set("subnets", subnet());
    rig.cloud().set("ports", port(1));
    rig.start();
    rig.until_complete();
    rig
}

/// Nobody serves the driver's topic: said so, and over when somebody does.
#[test]
fn a_server_without_the_driver() {
    let mut rig = Rig::new();
    rig.start();
    rig.until("it is away", |rig| {
        rig.away().contains("nobody serves topic l2isolate")
    });
    assert!(!rig.complete);
    rig.serve();
    rig.until_complete();
    assert!(rig.is_available());
}

/// Exceptions, answers that are none, a driver of another version, no answer at
/// all: what is known stays, and it goes on when the server does.
#[test]
fn a_server_that_fails() {
    let mut rig = complete(|options| options.sync_interval = Duration::from_secs(1));
    let unsupported = "NoSuchMethod".to_owned();
    for (manner, words) in [
        (
            Manner::Raise("DBConnectionError".to_owned()),
            "builtins.DBConnectionError: told to fail",
        ),
        (
            Manner::Raise(unsupported),
            "another version than this agent needs",
        ),
        (Manner::Say(json!(null)), "no object"),
        (
            Manner::Say(json!({"version": 2, "read_at": "2026-11-24T16:37:00Z"})),
            "2 is not known",
        ),
        (
            Manner::Say(json!({"version": 1, "read_at": "2026-11-24T16:37:00Z", "more": true})),
            "has more to say",
        ),
        (
            Manner::Silent,
            "no reply to sync on topic l2isolate within 2.0 s",
        ),
    ] {
        rig.cloud().sync = manner.clone();
        rig.until(words, |rig| {
            rig.away().contains(words) || rig.problems().contains(words)
        });
        assert_eq!(rig.objects.len(), 2, "{manner:?}");
        rig.cloud().sync = Manner::Answer;
        rig.until("it is back", |rig| {
            rig.is_available() && !rig.problems().contains(words)
        });
    }
}

/// Killed while it works on a sync: the call is given up, and the next server
/// is asked.
#[test]
fn a_server_killed_during_a_sync() {
    let mut rig = complete(|options| options.sync_interval = Duration::from_secs(1));
    let syncs = rig.syncs();
    rig.cloud().sync = Manner::Silent;
    rig.until("a sync is under way", |rig| rig.syncs() > syncs);
    let cloud = rig.fake.take().unwrap().shared();
    {
        let mut cloud = cloud.lock().unwrap();
        cloud.sync = Manner::Answer;
        cloud.set("ports", port(2));
    }
    rig.serve_with(cloud);
    rig.until("the new port is told", |rig| rig.objects.len() == 3);
    rig.until("it is back", Rig::is_available);
}

/// One call of ports that Neutron can't take doesn't keep it from others, and
/// is made again.
#[test]
fn ports_that_cant_be_reported() {
    let mut rig = complete(|_| {});
    rig.cloud().devices = Manner::Raise("DBDeadlock".to_owned());
    rig.tap(1, Some((3, true)));
    rig.until("it is said", |rig| {
        rig.problems().contains("update_device_list") && rig.problems().contains("DBDeadlock")
    });
    rig.cloud().devices = Manner::Say(json!({"failed_devices_up": [port_id(1)]}));
    rig.until("it is said by port", |rig| {
        rig.problems().contains(&format!("ports {}", port_id(1)))
    });
    rig.cloud().devices = Manner::Answer;
    rig.until("it is up", |rig| {
        rig.cloud().statuses[&port_id(1)] == "ACTIVE"
    });
    rig.until("it is over", |rig| rig.problems().is_empty());
}

/// Two hypervisors with one name would take turns to break each other.
#[test]
fn another_agent_of_the_same_name_is_named() {
    let mut rig = complete(|options| options.sync_interval = Duration::from_millis(500));
    rig.cloud().other_agent = Some("6f0d2f0c".to_owned());
    rig.until("it is said", |rig| {
        let problems = rig.problems();
        problems.contains("process 6f0d2f0c") && problems.contains("host `hv1`")
    });
    rig.cloud().other_agent = None;
    rig.until("it is over", |rig| rig.problems().is_empty());
}

/// A clock that is wrong: Neutron ignores reports from before its own start, and
/// the agent's word for it names the clock.
#[test]
fn a_wrong_clock_is_named() {
    let mut rig = complete(|options| {
        options.sync_interval = Duration::from_millis(500);
        options.report_interval = Duration::from_millis(500);
    });
    rig.cloud().report = Manner::Say(json!(null));
    rig.until("it is said", |rig| {
        rig.problems().contains("clock is behind")
    });
    rig.cloud().clock = jiff::SignedDuration::from_secs(3600);
    rig.until("by how much", |rig| {
        let problems = rig.problems();
        problems.contains("3600 s behind the database's") || problems.contains("3599 s behind")
    });
    rig.cloud().clock = jiff::SignedDuration::ZERO;
    rig.cloud().report = Manner::Answer;
    rig.until("it is over", |rig| rig.problems().is_empty());
}

/// What can't be read is named and costs nothing else.
#[test]
fn a_wrong_object_is_named() {
    let mut rig = complete(|options| options.sync_interval = Duration::from_millis(500));
    rig.cloud()
        .set("ports", json!({"id": port_id(2), "mac": "nonsense"}));
    rig.cloud().set("ports", port(3));
    let syncs = rig.syncs();
    rig.until("the good one is told", |rig| rig.objects.len() == 4);
    rig.until("some syncs", |rig| rig.syncs() > syncs + 3);
    // It isn't sent again and again.
    let last = rig.cloud().calls_of("sync").pop().unwrap();
    assert_ne!(last["digests"]["ports"][port_id(2)], "");
    assert!(!rig.stamps.keys().any(|id| id.as_str() == port_id(2)));
}

/// The broker is killed while 50 machines boot, and comes back: all of them are
/// known and reported, by themselves, and in few calls.
#[test]
fn a_broker_killed_during_boots() {
    let broker = Alone::start(BrokerOptions::default()).unwrap();
    let mut rig = Rig::on(&broker, "%2F");
    rig.tune = |options| options.sync_interval = Duration::from_secs(3600);
    rig.serve();
    rig.cloud().set("subnets", subnet());
    rig.start();
    rig.handle().tell_taps(Vec::new());
    rig.until_complete();
    for number in 1..=50 {
        rig.cloud().set("ports", port(number));
        let stray = l2isolate_source::neutron::TapState {
            index: number,
            port: None,
            wired: false,
        };
        let tap = crate::harness::tap(number).parse().unwrap();
        rig.handle().tell_taps(vec![(tap, Some(stray))]);
        if number == 20 {
            rig.until("some are told", |rig| rig.objects.len() > 5);
            broker.kill().unwrap();
        }
    }
    rig.until("it is away", |rig| rig.away().contains("127.0.0.1:5672"));
    // What is known meanwhile is wired, and reported later.
    rig.tap(1, Some((1, true)));
    broker.start().unwrap();
    rig.until("all are told", |rig| rig.objects.len() == 51);
    for number in 1..=50 {
        rig.tap(number, Some((number, true)));
    }
    rig.until("all are up", |rig| {
        rig.cloud().statuses.values().all(|s| s == "ACTIVE")
    });
    rig.until("it is back", Rig::is_available);
    let calls = rig.cloud().calls_of("update_device_list").len();
    assert!(calls < 30, "{calls} calls for 50 ports");
}

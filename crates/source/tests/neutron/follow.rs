//! What it does while nothing is wrong.

use std::time::Duration;

use l2isolate_lab::fake::Manner;
use l2isolate_model::{
    document::{Object, ObjectId},
    intent::Change,
};
use serde_json::json;

use crate::harness::{Rig, port, port_id, subnet, tap};

fn id(number: u32) -> ObjectId {
    ObjectId::Port(port_id(number).parse().unwrap())
}

/// The whole of it: the report comes first, everything is told, ports are
/// reported up once they are wired and down when their taps have gone, and the
/// next sync brings only what differs.
#[test]
fn a_cloud_is_followed() {
    let mut rig = Rig::new();
    rig.tune = |options| options.sync_interval = Duration::from_secs(1);
    rig.serve();
    rig.cloud().set("subnets", subnet());
    rig.cloud().set("ports", port(1));
    rig.cloud().set("ports", port(2));
    rig.start();
    rig.until_complete();
    assert_eq!(rig.objects.len(), 3);
    assert!(rig.is_available());
    assert_eq!(rig.cloud().calls[0].0, "report_state");
    let report = rig.cloud().calls_of("report_state")[0].clone();
    let state = &report["agent_state"]["agent_state"];
    assert_eq!(
        (&state["agent_type"], &state["host"]),
        (&json!("L2 isolate agent"), &json!("hv1"))
    );
    assert_eq!(state["start_flag"], true);

    rig.tap(1, Some((7, false)));
    rig.tap(1, Some((7, true)));
    rig.until("port 1 is up", |rig| rig.reported() == "+1");
    assert_eq!(rig.cloud().statuses[&port_id(1)], "ACTIVE");
    rig.tap(1, None);
    rig.until("port 1 is down", |rig| rig.reported() == "+1 -1");

    let mut changed = port(2);
    changed["hostname"] = json!("renamed");
    rig.cloud().set("ports", changed);
    rig.cloud().remove("ports", &port_id(1));
    rig.until("the change is told", |rig| {
        let renamed = |change: &Change| match change {
            Change::Set {
                object: Object::Port(port),
                ..
            } => port.hostname.as_deref() == Some("renamed"),
            _ => false,
        };
        rig.objects.get(&id(2)).is_some_and(renamed) && !rig.objects.contains_key(&id(1))
    });
    let last = rig.cloud().calls_of("sync").pop().unwrap();
    let digests = last["digests"]["ports"].as_object().unwrap();
    assert!(
        digests.values().all(|digest| digest.as_str() != Some("")),
        "{digests:?}"
    );
    rig.until("contact is shown", |rig| {
        let contact = rig.state.contact.clone().unwrap();
        contact.connected.as_deref() == Some("127.0.0.1:5672")
            && contact.last_sync.is_some()
            && contact.last_report.is_some()
            && contact.next_sync.is_some()
    });
}

/// A tap whose port isn't known is Nova's word that there is one: it is asked
/// for at once, not when it is time.
#[test]
fn a_tap_without_port_is_asked_for() {
    let mut rig = Rig::new();
    rig.tune = |options| options.sync_interval = Duration::from_secs(3600);
    rig.serve();
    rig.cloud().set("subnets", subnet());
    rig.start();
    rig.handle().tell_taps(Vec::new());
    rig.until_complete();
    let before = rig.syncs();
    rig.cloud().set("ports", port(1));
    let stray = l2isolate_source::neutron::TapState {
        index: 9,
        port: None,
        wired: false,
    };
    rig.handle()
        .tell_taps(vec![(tap(1).parse().unwrap(), Some(stray))]);
    rig.until("the port is told", |rig| rig.objects.contains_key(&id(1)));
    assert_eq!(rig.syncs(), before + 1);
    // It is wired now: up.
    rig.tap(1, Some((9, true)));
    rig.until("the port is up", |rig| rig.reported() == "+1");
}

/// An agent that starts with the last one's cache asks by digest, is told
/// nothing that it knows, and reports nothing that Neutron knows.
#[test]
fn a_restart_is_no_event() {
    let mut rig = Rig::new();
    rig.serve();
    rig.cloud().set("subnets", subnet());
    for number in 1..=3 {
        rig.cloud().set("ports", port(number));
    }
    rig.start();
    rig.until_complete();
    for number in 1..=3 {
        rig.tap(number, Some((number, true)));
    }
    rig.until("all are up", |rig| {
        rig.cloud().statuses.values().all(|s| s == "ACTIVE")
    });
    rig.stop();
    rig.cloud().calls.clear();
    rig.cloud().remove("ports", &port_id(3));
    rig.start();
    for number in 1..=3 {
        rig.tap(number, Some((number, false)));
        rig.tap(number, Some((number, true)));
    }
    rig.until_complete();
    rig.until("what is gone is told", |rig| {
        !rig.objects.contains_key(&id(3))
    });
    let sync = rig.cloud().calls_of("sync")[0].clone();
    assert_eq!(sync["digests"]["ports"].as_object().unwrap().len(), 3);
    // Time enough for a report that shouldn't be.
    let syncs = rig.syncs();
    let stray = l2isolate_source::neutron::TapState {
        index: 99,
        port: None,
        wired: false,
    };
    rig.handle()
        .tell_taps(vec![("tapdeadbeef-00".parse().unwrap(), Some(stray))]);
    rig.until("another sync", |rig| rig.syncs() > syncs);
    assert_eq!(rig.reported(), "");
}

/// An answer in parts is one answer: nothing counts as gone before its end.
#[test]
fn a_cut_answer_is_put_together() {
    let mut rig = Rig::new();
    rig.serve();
    rig.cloud().set("subnets", subnet());
    for number in 1..=7 {
        rig.cloud().set("ports", port(number));
    }
    rig.cloud().cut = 3;
    rig.start();
    rig.until_complete();
    assert_eq!(rig.objects.len(), 8);
    assert_eq!(rig.syncs(), 3);
}

/// The destination of a live migration: Nova waits for the word that the port
/// is plugged in, which the status doesn't show.
#[test]
fn an_expected_port_is_reported_at_tap_time() {
    let mut rig = Rig::new();
    rig.serve();
    rig.cloud().set("subnets", subnet());
    let mut expected = port(1);
    expected["binding"] = json!({"state": "incoming", "peer": "10.255.1.2"});
    rig.cloud().set("ports", expected);
    rig.cloud().statuses.insert(port_id(1), "ACTIVE".to_owned());
    rig.start();
    rig.until_complete();
    rig.tap(1, Some((5, true)));
    rig.until("the port is reported", |rig| rig.reported() == "+1");
    assert_eq!(rig.cloud().statuses[&port_id(1)], "ACTIVE");
}

/// Neutron took the agent for dead, and says so: it may have missed something.
#[test]
fn revived_leads_to_a_sync() {
    let mut rig = Rig::new();
    rig.tune = |options| {
        options.sync_interval = Duration::from_secs(3600);
        options.report_interval = Duration::from_millis(300);
    };
    rig.serve();
    rig.start();
    rig.until_complete();
    let syncs = rig.syncs();
    rig.cloud().report = Manner::Say(json!("revived"));
    rig.until("a sync", |rig| rig.syncs() > syncs);
    // Once everything was told, a report isn't a start any more.
    rig.cloud().calls.clear();
    rig.until("a report", |rig| {
        !rig.cloud().calls_of("report_state").is_empty()
    });
    let report = rig.cloud().calls_of("report_state")[0].clone();
    assert!(
        report["agent_state"]["agent_state"]
            .get("start_flag")
            .is_none()
    );
}

/// What operators see in `openstack network agent show`.
#[test]
fn figures_are_reported() {
    let mut rig = Rig::new();
    rig.tune = |options| options.report_interval = Duration::from_millis(300);
    rig.serve();
    rig.start();
    rig.until_complete();
    let figures = json!({"version": "1.2.3", "ports": 5});
    rig.handle()
        .tell_figures(figures.as_object().cloned().unwrap());
    rig.until("the figures arrive", |rig| {
        let reports = rig.cloud().calls_of("report_state");
        let last = &reports.last().unwrap()["agent_state"]["agent_state"]["configurations"];
        last["version"] == "1.2.3" && last["sync_age"].is_number() && last["process"].is_string()
    });
}

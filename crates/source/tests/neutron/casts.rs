//! What it is told unasked, over a real RabbitMQ.

use std::time::Duration;

use l2isolate_lab::fake::Cloud;
use l2isolate_model::{
    document::{Object, ObjectId},
    intent::Change,
};
use serde_json::{Value, json};

use crate::harness::{Rig, port, port_id, subnet};

const HOST: &str = "l2isolate-agent.hv1";
const GROUP: &str = "l2isolate-group.g";
/// One that never comes by itself.
const NEVER: Duration = Duration::from_secs(3600);

fn id(number: u32) -> ObjectId {
    ObjectId::Port(port_id(number).parse().unwrap())
}

fn group(members: &[&str]) -> Value {
    let members: Vec<_> = members.iter().map(|a| json!({"address": a})).collect();
    json!({"id": "g", "rules": [], "members": members})
}

/// As the server sends it, read now.
fn told(mut object: Value) -> Value {
    object["digest"] = Cloud::digest(&object).into();
    object["read_at"] = jiff::Timestamp::now().to_string().into();
    object
}

fn members(rig: &Rig) -> Vec<String> {
    let id = ObjectId::in_list("groups", "g").unwrap();
    match rig.objects.get(&id) {
        Some(Change::Set {
            object: Object::Group(group),
            ..
        }) => group
            .members
            .iter()
            .map(|m| m.address.to_string())
            .collect(),
        _ => Vec::new(),
    }
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.tune = |options| options.sync_interval = NEVER;
    rig.serve();
    rig.cloud().set("subnets", subnet());
    rig.start();
    rig.handle().tell_taps(Vec::new());
    rig.until_complete();
    rig
}

/// A port comes, changes and goes without a question; what was lost is asked
/// for when it shows.
#[test]
fn ports_are_told_and_lost_ones_asked_for() {
    let mut rig = rig();
    let syncs = rig.syncs();
    rig.cast(
        HOST,
        1,
        json!({"ports": [told(port(1))], "subnets": [told(subnet())]}),
    );
    rig.until("the port is told", |rig| rig.objects.contains_key(&id(1)));
    let now = jiff::Timestamp::now().to_string();
    let gone = json!({"gone": {"ports": [{"id": port_id(1), "read_at": now}]}});
    rig.cast(HOST, 2, gone);
    rig.until("its end is told", |rig| !rig.objects.contains_key(&id(1)));
    assert_eq!(rig.syncs(), syncs, "nobody asked");
    // The third never came: it was of port 2.
    rig.cloud().set("ports", port(2));
    rig.cloud().set("ports", port(3));
    rig.cast(HOST, 4, json!({"ports": [told(port(3))]}));
    rig.until("what was lost is there", |rig| {
        rig.objects.contains_key(&id(2)) && rig.objects.contains_key(&id(3))
    });
    assert_eq!(rig.syncs(), syncs + 1);
}

/// A port whose group isn't known comes with it, by one question that is about
/// them; from then on the group is heard, and what doesn't fit is asked for.
#[test]
fn a_port_comes_with_its_group() {
    let mut rig = rig();
    let mut member = port(1);
    member["groups"] = json!(["g"]);
    rig.cloud().set("groups", group(&["10.252.1.1"]));
    rig.cloud().set("ports", member.clone());
    rig.cast(HOST, 1, json!({"ports": [told(member)]}));
    rig.until("both are there", |rig| {
        rig.objects.contains_key(&id(1)) && members(rig) == ["10.252.1.1/32"]
    });
    let asked = rig.cloud().calls_of("sync").pop().unwrap();
    assert_eq!(asked["only"], true);
    assert_eq!(asked["digests"]["groups"], json!({"g": ""}));
    // A difference that doesn't end where it should.
    let all = group(&["10.252.1.1", "10.252.1.2", "10.252.1.3"]);
    rig.cloud().set("groups", all.clone());
    let mut difference = told(all);
    difference["added"] = json!([{"address": "10.252.1.3"}]);
    rig.cast(GROUP, 1, json!({"changed": {"groups": [difference]}}));
    rig.until("the group is right", |rig| members(rig).len() == 3);
}

/// What nobody could mean does no harm.
#[test]
fn casts_that_make_no_sense() {
    let mut rig = rig();
    for (number, news) in [
        json!({"ports": 1}),
        json!({"changed": {"groups": [{}, 7, {"id": "g", "digest": 1}]}}),
        json!({"gone": {"ports": [{}, {"id": "p"}, null]}}),
        json!({"ports": [{"id": port_id(1)}, {"mac": "x"}]}),
        json!({"version": 2, "ports": [told(port(3))]}),
    ]
    .into_iter()
    .enumerate()
    {
        rig.cast(HOST, number as u64 + 1, news);
    }
    rig.cast_as(2, HOST, 6, json!({"ports": [told(port(4))]}));
    rig.cast(HOST, 7, json!({"ports": [told(port(2))]}));
    rig.until("the next one is heard", |rig| {
        rig.objects.contains_key(&id(2))
    });
    assert!(!rig.objects.contains_key(&id(3)), "of another version");
    assert!(
        !rig.objects.contains_key(&id(4)),
        "of another version of the method"
    );
    assert!(rig.is_available());
}

//! A guest that comes after its tap is announced at once, by either daemon.

use std::{thread, time::Duration};

use l2isolate_lab::{
    agent,
    fabric::{Family, GATEWAY4, VM_PREFIX4},
    lab::{Guard, Plan, unique_name},
    netns, room,
    topology::{Mix, Role, Shape, Topology},
};
use serde_json::json;

/// BIRD looks at all of the kernel's routes once a minute; what is known
/// before that was told by a message.
const SOON: Duration = Duration::from_secs(15);

// Nova's taps have no carrier until QEMU opens them, long after the agent has
// wired them. A route that comes without carrier isn't learned by BIRD, and
// the kernel tells nobody when carrier comes; the agent has to.
#[test]
fn a_guest_that_comes_later_is_announced() {
    let _room = room::shared();
    let shape = Shape {
        spines: 1,
        racks: 1,
        tors: 1,
        hypervisors: 2,
        vms: 1,
    };
    let lab = Guard::up(Plan {
        name: unique_name("carrier"),
        topology: Topology::regular(shape, Mix::Mixed),
        agent: Some(agent::find().unwrap()),
        owned: true,
    })
    .unwrap();
    lab.wait(Duration::from_secs(60)).unwrap();
    for (number, node) in lab.fabric().role(Role::Hypervisor).enumerate() {
        let namespace = lab.namespace(&node.name);
        let address = format!("10.252.99.{number}");
        let (prefix, length) = VM_PREFIX4;
        let document = json!({"version": 1,
            "subnets": [{"id": "late", "cidr": format!("{prefix}/{length}"), "gateway": GATEWAY4}],
            "ports": [{"id": "1a7e0000-0000", "mac": "fa:16:3e:00:00:99",
                "addresses": [{"address": address, "subnet": "late"}]}]});
        agent::write_intent(&lab.agent_files(&node.name), "late.json", &document).unwrap();
        // As Nova makes it: up, and nobody at its other end.
        let tap = "link add tap1a7e0000-00 type veth peer name late\n\
                   link set tap1a7e0000-00 up\n";
        netns::batch(Some(&namespace), tap).unwrap();
        // Long enough for the agent and the daemon to have seen it like that.
        thread::sleep(Duration::from_secs(1));
        netns::batch(Some(&namespace), "link set late up\n").unwrap();
        lab.until("a guest that came later is announced", SOON, || {
            let tor = &node.interfaces[0].peer;
            let learned = lab.learned(tor, &node.name, Family::V4)?;
            let missing = !learned.contains(&format!("{address}/32"));
            Ok(missing
                .then(|| format!("{address} at {tor}"))
                .into_iter()
                .collect())
        })
        .unwrap();
    }
    lab.down().unwrap();
}

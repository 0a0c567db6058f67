//! A small lab for one test, and taps wired by hand.

use std::fmt::Write as _;

use l2isolate_lab::{
    fabric::{Family, GATEWAY4, GATEWAY6, Node},
    lab::{Guard, Lab, Plan, unique_name},
    netns,
    topology::{Mix, Role, Shape, Topology},
};

/// A lab without agents: 1 spine, 2 racks of 2 ToRs with one hypervisor each.
pub(crate) fn lab_without_agents(mix: Mix) -> Guard {
    let shape = Shape {
        spines: 1,
        racks: 2,
        tors: 2,
        hypervisors: 1,
        vms: 2,
    };
    let lab = Guard::up(Plan {
        name: unique_name("lab"),
        topology: Topology::regular(shape, mix),
        agent: None,
        owned: true,
    })
    .unwrap();
    for node in lab.fabric().role(Role::Hypervisor) {
        wire(&lab, node);
    }
    lab
}

/// What the agent would do, as far as routing needs it.
fn wire(lab: &Lab, node: &Node) {
    let namespace = lab.namespace(&node.name);
    netns::sysctl(
        &namespace,
        &[("ipv4.ip_forward", "1"), ("ipv6.conf.all.forwarding", "1")],
    )
    .unwrap();
    let mut lines = String::new();
    for family in Family::ALL {
        let loopback = node.loopback(family);
        let _ = writeln!(lines, "route add {loopback} dev lo proto 76 metric 5");
    }
    for vm in lab.fabric().vms_on(&node.name) {
        let tap = &vm.tap;
        netns::sysctl(
            &namespace,
            &[
                (&format!("ipv4.conf.{tap}.proxy_arp"), "1"),
                (&format!("ipv4.neigh.{tap}.proxy_delay"), "0"),
            ],
        )
        .unwrap();
        let _ = writeln!(lines, "address add {GATEWAY4}/32 dev {tap}");
        let _ = writeln!(lines, "address add {GATEWAY6}/64 dev {tap} nodad");
        for family in Family::ALL {
            let address = vm.address(family);
            let _ = writeln!(
                lines,
                "route add unreachable {address} proto 76 metric 3372220415"
            );
            let _ = writeln!(lines, "route add {address} dev {tap} proto 76 metric 5");
        }
    }
    netns::batch(Some(&namespace), &lines).unwrap();
}

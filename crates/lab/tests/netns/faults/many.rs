//! A thousand guests at once, as when a host takes over those of another.

use std::fmt::Write as _;

use l2isolate_lab::{
    agent,
    fabric::{Fabric, Vm},
    netns, room,
    topology::{Mix, Shape, Topology},
};

use super::{Site, unharmed};

const PORTS: usize = 1000;

#[test]
fn a_thousand_ports_at_once_beside_frr() {
    arrive(Mix::Frr);
}

#[test]
fn a_thousand_ports_at_once_beside_bird() {
    arrive(Mix::Bird);
}

/// All are wired and announced, and those that were there lose nothing.
fn arrive(mix: Mix) {
    let site = Site::with(room::whole(), mix, 1, 2);
    // The same fabric with more VMs on its last hypervisor: all else keeps its
    // names and numbers.
    let shape = Shape {
        spines: 1,
        racks: 2,
        tors: 2,
        hypervisors: 1,
        vms: 2,
    };
    let mut topology = Topology::regular(shape, mix);
    topology.nodes.last_mut().unwrap().vms += PORTS;
    let planned = Fabric::new(&topology);
    let node = planned.nodes.last().unwrap();
    let vms: Vec<&Vm> = planned.vms_on(&node.name).collect();
    assert_eq!(vms.len(), 2 + PORTS);
    assert_eq!(
        vms[..2],
        site.fabric().vms_on(&node.name).collect::<Vec<_>>()
    );

    let flows = site.flows(&[("vm2-1-1", "vm2-1-2"), ("vm1-1-1", "vm2-1-1")]);
    // The far ends of the new taps; nobody lives there.
    let shed = site.namespace("shed");
    netns::create(std::slice::from_ref(&shed)).unwrap();
    netns::sysctl(&shed, &[("ipv6.conf.default.disable_ipv6", "1")]).unwrap();
    let hypervisor = site.namespace(&node.name);
    let mut lines = String::new();
    for vm in &vms[2..] {
        let end = vm.tap.replace("tap", "end");
        let (tap, mac) = (&vm.tap, &vm.mac);
        let _ = writeln!(
            lines,
            "link add name {end} address {mac} up type veth peer name {tap} netns {hypervisor}"
        );
    }
    agent::write_intent(&site.agent_files(&node.name), "ports", &agent::ports(&vms)).unwrap();
    netns::batch(Some(&shed), &lines).unwrap();

    site.wired(node, vms.iter().copied());
    site.announces(node, |family| {
        let guests = vms.iter().map(move |vm| vm.address(family));
        let all = guests.chain([node.loopback(family)]);
        all.map(|address| ipnet::IpNet::from(address).to_string())
    });
    site.reachable();
    unharmed(flows);
    assert_eq!(site.count(&node.name, "failed"), 0);
    site.lab.down().unwrap();
}

//! The fabric operated: switches and daemons that go and come under traffic.

mod auth;
mod drain;
mod leak;
mod render;
mod restart;

use std::time::Duration;

use l2isolate_lab::{
    agent,
    fabric::Family,
    lab::{Guard, Lab, Plan, unique_name},
    probe::{FlowSpec, Probe},
    topology::{Mix, Options, Shape, Topology},
};

/// How long the fabric may take to come together.
const LIMIT: Duration = Duration::from_secs(60);
/// Packets per second of each of the flows.
const RATE: u32 = 250;
/// Flows each way and family: enough to use every equal way.
const FLOWS: usize = 4;

/// Two racks of two ToRs and one hypervisor with one VM each; real agents.
fn two_racks(mix: Mix, bfd: bool) -> Guard {
    let shape = Shape {
        spines: 2,
        racks: 2,
        tors: 2,
        hypervisors: 1,
        vms: 1,
    };
    let mut topology = Topology::regular(shape, mix);
    topology.options = Options {
        bfd,
        ..Options::default()
    };
    let lab = Guard::up(Plan {
        name: unique_name("ops"),
        topology,
        agent: Some(agent::find().unwrap()),
        owned: true,
    })
    .unwrap();
    lab.wait(LIMIT).unwrap();
    lab
}

/// Starts flows between the racks, each way and family.
fn traffic(lab: &Lab) -> Probe {
    let fabric = lab.fabric();
    let (a, b) = (&fabric.vms[0], &fabric.vms[1]);
    let mut flows = Vec::new();
    for family in Family::ALL {
        for (from, to) in [(a, b), (b, a)] {
            flows.extend((0..FLOWS).map(|_| FlowSpec { from, to, family }));
        }
    }
    Probe::start(lab, &flows, RATE).unwrap()
}

//! A guest that comes after its tap is announced at once, by either daemon.

use std::time::Duration;

use l2isolate_lab::{
    agent,
    fabric::Family,
    lab::{Guard, Plan, unique_name},
    topology::{Mix, Role, Shape, Topology},
};

/// BIRD looks at all of the kernel's routes once a minute; what is known
/// before that was told by a message.
const SOON: Duration = Duration::from_secs(15);

// Nova's taps have no carrier until QEMU opens them, long after the agent has
// wired them. A route that comes without carrier isn't learned by BIRD, and
// the kernel tells nobody when carrier comes; the agent has to.
#[test]
fn a_guest_that_comes_later_is_announced() {
    let shape = Shape {
        spines: 1,
        racks: 1,
        tors: 2,
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
    for node in lab.fabric().role(Role::Hypervisor) {
        let vm = lab.fabric().vms_on(&node.name).next().unwrap();
        let guest = lab.namespace(&vm.name);
        for _ in 0..3 {
            l2isolate_lab::netns::ip(&guest, &["link", "set", "eth0", "down"]).unwrap();
            // Written anew while there is no carrier, as a new tap's would be.
            for family in Family::ALL {
                let address = vm.address(family).to_string();
                let delete = ["route", "del", &address, "dev", &vm.tap, "metric", "5"];
                let _ = l2isolate_lab::netns::ip(&lab.namespace(&node.name), &delete);
            }
            l2isolate_lab::netns::ip(&guest, &["link", "set", "eth0", "up"]).unwrap();
            lab.until("a guest that came later is announced", SOON, || {
                let mut missing = Vec::new();
                for family in Family::ALL {
                    let own = lab.own_prefixes(node, family);
                    for tor in &node.interfaces {
                        let learned = lab.learned(&tor.peer, &node.name, family)?;
                        missing.extend(
                            own.difference(&learned)
                                .map(|p| format!("{p} at {}", tor.peer)),
                        );
                    }
                }
                Ok(missing)
            })
            .unwrap();
        }
    }
    lab.down().unwrap();
}

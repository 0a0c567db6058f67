//! The agent dies.

use l2isolate_lab::{agent::PROGRAM, netns};

use super::{Site, pass, unharmed};

// kill -9 at both kinds of hypervisors: what is wired carries on, and the next
// agent mends what happened meanwhile, and writes nothing else.
#[test]
fn an_agent_killed_under_traffic() {
    let site = Site::up(1, 3);
    // First, nothing happens meanwhile: no flow may notice, no write happen.
    let flows = site.flows(&[
        ("vm1-1-1", "vm1-1-2"),
        ("vm2-1-1", "vm2-1-2"),
        ("vm1-1-1", "vm2-1-1"),
        ("vm1-1-2", "vm2-1-3"),
    ]);
    for node in site.hypervisors() {
        site.kill(&node.name, PROGRAM).unwrap();
        pass(300);
        site.restart(&node.name).unwrap();
        site.wired(node, site.fabric().vms_on(&node.name));
        assert_eq!(site.count(&node.name, "written"), 0);
    }
    unharmed(flows);
    // Then, a tap loses some of its wiring, and another is replaced.
    let flows = site.flows(&[("vm1-1-2", "vm2-1-2")]);
    for (node, vm, other) in [
        ("hv1-1", "vm1-1-1", "vm1-1-3"),
        ("hv2-1", "vm2-1-1", "vm2-1-3"),
    ] {
        let (vm, other) = (site.vm(vm), site.vm(other));
        site.kill(node, PROGRAM).unwrap();
        let lines = format!(
            "route del {}/32 metric 5\nneigh del {} dev {}\nlink del {}\n",
            vm.address4, vm.address6, vm.tap, other.tap
        );
        netns::batch(Some(&site.namespace(node)), &lines).unwrap();
        l2isolate_lab::wiring::tap_again(other, &site.names()).unwrap();
        site.restart(node).unwrap();
    }
    site.sound();
    unharmed(flows);
    site.lab.down().unwrap();
}

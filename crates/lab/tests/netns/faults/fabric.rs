//! The fabric has a fault: it finds another way, and to the agents it is none
//! of their business.

use l2isolate_lab::lab::NodeStatus;

use super::{LIMIT, Site, pass, unharmed};

/// Flows that leave the first rack, and those that don't come near a fault in
/// its links and ToRs.
const AFFECTED: [(&str, &str); 2] = [("vm1-1-1", "vm2-1-1"), ("vm1-2-1", "vm2-2-1")];
const UNTOUCHED: [(&str, &str); 3] = [
    ("vm1-1-1", "vm1-1-2"),
    ("vm2-1-1", "vm2-1-2"),
    ("vm2-1-1", "vm2-2-1"),
];

impl Site {
    /// What all agents have written until now.
    fn written(&self) -> Vec<u64> {
        let count = |node: &l2isolate_lab::fabric::Node| self.count(&node.name, "written");
        self.hypervisors().into_iter().map(count).collect()
    }

    /// Waits until exactly these sessions are down, as seen from `node`.
    fn lost_sessions(&self, node: &str, down: &[&str]) {
        self.until("end of sessions", LIMIT, || {
            let all = self.status_of(node);
            Ok((all.down != down)
                .then(|| format!("{node} without {:?}", all.down))
                .into_iter()
                .collect())
        })
        .unwrap();
    }

    fn status_of(&self, node: &str) -> NodeStatus {
        let all = self.lab.status().unwrap();
        all.into_iter().find(|status| status.name == node).unwrap()
    }

    /// All VMs reach each other, and from now on nothing is lost.
    fn rerouted(&self) {
        self.reachable();
        let flows = self.flows(&AFFECTED);
        pass(500);
        unharmed(flows);
    }
}

// Each hypervisor of a rack loses another ToR's link; flows across racks take
// the other ToR, flows that don't leave the host or are in the other rack lose
// nothing, and no agent writes anything.
#[test]
fn a_link_down_and_up_again() {
    let site = Site::up(2, 2);
    let written = site.written();
    let untouched = site.flows(&UNTOUCHED);
    let affected = site.flows(&AFFECTED);
    for (tor, hypervisor) in [("tor1-1", "hv1-1"), ("tor1-2", "hv1-2")] {
        site.set_link(tor, hypervisor, false).unwrap();
        site.lost_sessions(hypervisor, &[tor]);
    }
    site.rerouted();
    for (tor, hypervisor) in [("tor1-1", "hv1-1"), ("tor1-2", "hv1-2")] {
        site.set_link(tor, hypervisor, true).unwrap();
    }
    site.sound();
    site.rerouted();
    let report = affected.stop().unwrap();
    let all_arrive = report.flows.iter().all(|flow| flow.received > 0);
    assert!(all_arrive, "{report:#?}");
    unharmed(untouched);
    assert_eq!(site.written(), written);
    site.lab.down().unwrap();
}

// The daemon of a ToR dies, of either kind: its sessions end, all others stay;
// after its restart all is as before.
#[test]
fn a_tor_without_its_daemon() {
    let site = Site::up(2, 2);
    let written = site.written();
    let untouched = site.flows(&UNTOUCHED);
    for (tor, other, daemon) in [("tor1-1", "tor1-2", "bgpd"), ("tor1-2", "tor1-1", "bird")] {
        site.kill(tor, daemon).unwrap();
        for node in ["spine1", "hv1-1", "hv1-2"] {
            site.lost_sessions(node, &[tor]);
        }
        site.rerouted();
        for node in [other, "tor2-1", "tor2-2", "hv2-1", "hv2-2"] {
            let status = site.status_of(node);
            assert!(status.good(), "{status:?}");
        }
        site.restart(tor).unwrap();
        site.sound();
    }
    site.rerouted();
    unharmed(untouched);
    assert_eq!(site.written(), written);
    site.lab.down().unwrap();
}

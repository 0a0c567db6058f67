//! What a hypervisor announces is exactly what is marked in its kernel: with
//! FRR, with BIRD, and each towards the other.

use std::time::Duration;

use l2isolate_lab::{
    fabric::{Family, Node},
    lab::Lab,
    matrix, netns, path, room, throughput,
    topology::{Mix, Role},
};

use crate::fixture::lab_without_agents;

const LIMIT: Duration = Duration::from_secs(40);

/// Waits until every hypervisor announces exactly `expected`, and every ToR
/// has learned just that.
fn settled(lab: &Lab, expected: impl Fn(&Node, Family) -> Vec<String>) {
    lab.until("hand-over of routes", LIMIT, || {
        let mut wrong = Vec::new();
        for node in lab.fabric().role(Role::Hypervisor) {
            for family in Family::ALL {
                let mut expected = expected(node, family);
                expected.sort();
                for tor in &node.interfaces {
                    let announced = lab.announced(&node.name, &tor.peer, family)?;
                    let learned = lab.learned(&tor.peer, &node.name, family)?;
                    for (what, have) in [("announces", announced), ("was heard as", learned)] {
                        if !have.iter().eq(expected.iter()) {
                            wrong.push(format!("{} {what} {have:?} at {}", node.name, tor.peer));
                        }
                    }
                }
            }
        }
        Ok(wrong)
    })
    .unwrap();
}

fn own(lab: &Lab, node: &Node, family: Family) -> Vec<String> {
    lab.own_prefixes(node, family).into_iter().collect()
}

// The design's fourth invariant, for both daemons: a hypervisor is never
// transit, and nothing but what the agent marked gets out.
#[test]
fn only_marked_routes_are_announced() {
    let _room = room::shared();
    let lab = lab_without_agents(Mix::Mixed);
    lab.wait(LIMIT).unwrap();
    settled(&lab, |node, family| own(&lab, node, family));

    // A stranger's route inside the VMs' prefix; the agent's mark outside of
    // it; a floor without a route above it.
    let strange = "route add 10.252.9.9/32 dev lo\n\
                   route add 2001:db8:252::9:9/128 dev lo\n\
                   route add 10.252.9.8/32 dev lo proto static metric 9\n\
                   route add unreachable 10.252.9.7/32 proto 76 metric 3372220415\n\
                   route add unreachable 2001:db8:252::9:7/128 proto 76 metric 3372220415\n";
    let marker = "10.252.9.6/32";
    for node in lab.fabric().role(Role::Hypervisor) {
        let namespace = lab.namespace(&node.name);
        netns::batch(Some(&namespace), strange).unwrap();
        // Seen later than the others: when it has arrived, they would have.
        netns::batch(
            Some(&namespace),
            &format!("route add {marker} dev lo proto 76 metric 5\n"),
        )
        .unwrap();
    }
    settled(&lab, |node, family| {
        let mut prefixes = own(&lab, node, family);
        if family == Family::V4 {
            prefixes.push(marker.to_owned());
        }
        prefixes
    });
    lab.down().unwrap();
}

// A VM whose tap is down must not draw traffic, and must come back with it.
#[test]
fn a_tap_that_goes_down_is_withdrawn() {
    let _room = room::shared();
    let lab = lab_without_agents(Mix::Mixed);
    lab.wait(LIMIT).unwrap();
    let gone: Vec<String> = lab
        .fabric()
        .role(Role::Hypervisor)
        .filter_map(|node| lab.fabric().vms_on(&node.name).next())
        .map(|vm| {
            lab.set_link(&vm.name, &vm.host, false).unwrap();
            format!("{}/32", vm.address4)
        })
        .collect();
    settled(&lab, |node, family| {
        let mut prefixes = own(&lab, node, family);
        // The kernel removes IPv4 routes of a link that is down; IPv6 ones too.
        let lost: Vec<String> = lab
            .fabric()
            .vms_on(&node.name)
            .filter(|vm| gone.contains(&format!("{}/32", vm.address4)))
            .map(|vm| match family {
                Family::V4 => format!("{}/32", vm.address4),
                Family::V6 => format!("{}/128", vm.address6),
            })
            .collect();
        prefixes.retain(|prefix| !lost.contains(prefix));
        prefixes
    });
    lab.down().unwrap();
}

// Packets, not tables: through both daemons, both families, and with every hop
// named, which needs ICMP errors from a routable source.
#[test]
fn packets_pass_and_hops_answer() {
    let _room = room::shared();
    let lab = lab_without_agents(Mix::Mixed);
    lab.wait(LIMIT).unwrap();
    let matrix = matrix::measure(&lab).unwrap();
    assert!(matrix.complete(), "{}", matrix.text(lab.fabric()));
    for family in Family::ALL {
        let path = path::trace(&lab, "vm1-1-1", "vm2-1-2", family, 40_000).unwrap();
        let names = path.names();
        assert!(path.reached, "{names:?}");
        assert_eq!(names.len(), 7, "{names:?}");
        assert_eq!(names[3], "spine1", "{names:?}");
        assert!(path.hops.iter().all(|hop| hop.node.is_some()), "{names:?}");
    }
    let vm = |name| lab.fabric().vm(name).unwrap();
    let second = Duration::from_secs(1);
    let carried = throughput::measure(&lab, vm("vm1-1-1"), vm("vm2-1-2"), Family::V6, second);
    let carried = carried.unwrap();
    assert!(carried.tcp_gbit_per_s > 0.0, "{carried:?}");
    assert!(
        carried.udp_received_per_s > 0.0 && carried.udp_received_per_s <= carried.udp_sent_per_s,
        "{carried:?}"
    );

    // One link of each hypervisor cut: the other ToR carries everything.
    lab.set_link("tor1-1", "hv1-1", false).unwrap();
    lab.set_link("hv2-1", "tor2-2", false).unwrap();
    lab.until("passing by the other ToRs", LIMIT, || {
        let matrix = matrix::measure(&lab)?;
        let text = |m: &matrix::Missing| format!("{} to {} by {}", m.from, m.to, m.family);
        Ok(matrix.missing.iter().map(text).collect())
    })
    .unwrap();
    let path = path::trace(&lab, "vm1-1-1", "vm2-1-1", Family::V4, 40_000).unwrap();
    assert_eq!(path.names()[2..5], ["tor1-2", "spine1", "tor2-1"]);
    lab.down().unwrap();
}

//! Who reaches whom through taps that the agent has wired.

use crate::harness::{
    GATEWAY4, GATEWAY6, Guest, Host, LINK_LOCAL, LOOPBACK4, OUTSIDE4, OUTSIDE6, TAP_MAC,
};

fn all_wired(host: &mut Host, guests: &[&Guest]) {
    host.start();
    let ports: Vec<_> = guests.iter().map(|guest| &guest.port).collect();
    host.wired(&ports);
}

/// The main job: guests reach each other and the world in both families, and
/// the router that they were told of answers under each of its addresses.
#[test]
fn guests_reach_each_other_the_world_and_the_gateway() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    all_wired(&mut host, &[&one, &two]);
    for (guest, other) in [(&one, &two), (&two, &one)] {
        let (v4, v6) = (other.port.v4(), other.port.v6());
        for address in [&v4, &v6, OUTSIDE4, OUTSIDE6, GATEWAY4, GATEWAY6, LINK_LOCAL] {
            assert!(
                guest.reaches(address),
                "{} doesn't reach {address}",
                guest.port.tap()
            );
        }
    }
    // The hypervisor reaches its guests, and the world does.
    for namespace in [host.hv.clone(), host.world.clone()] {
        for address in [one.port.v4(), one.port.v6()] {
            let arguments = ["-n", "-c", "1", "-W", "5", &address];
            let ping = l2isolate_lab::netns::command(&namespace, "ping")
                .args(arguments)
                .output()
                .unwrap();
            assert!(ping.status.success(), "{namespace} doesn't reach {address}");
        }
    }
}

/// A guest that migrates keeps its neighbour cache: whoever it asks for, it
/// finds the one hardware address that taps have on every host.
#[test]
fn every_neighbour_has_the_constant_hardware_address() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    all_wired(&mut host, &[&one, &two]);
    let other = two.port.v4();
    for address in [GATEWAY4, &other, LINK_LOCAL] {
        assert!(one.reaches(address));
        assert_eq!(one.knows(address).as_deref(), Some(TAP_MAC), "{address}");
    }
}

/// Neighbour entries are permanent: nothing is asked of the guest, so there is
/// nothing to race with while it boots. Here it never answers at all.
#[test]
fn a_guest_that_answers_no_arp_is_reached() {
    let mut host = Host::new();
    let [one, silent] = host.guests();
    silent.ip("link set eth0 arp off");
    silent.ip(&format!(
        "neigh replace {GATEWAY4} lladdr {TAP_MAC} dev eth0 nud permanent"
    ));
    silent.ip(&format!(
        "neigh replace {} lladdr {TAP_MAC} dev eth0 nud permanent",
        one.port.v4()
    ));
    silent.ip(&format!(
        "neigh replace {LINK_LOCAL} lladdr {TAP_MAC} dev eth0 nud permanent"
    ));
    all_wired(&mut host, &[&one, &silent]);
    host.ip("neigh flush all");
    assert!(one.reaches(&silent.port.v4()));
    assert!(one.reaches(&silent.port.v6()));
}

/// Host addresses that a guest has no business with stay unresolved, though
/// the host has them: `arp_ignore`.
#[test]
fn the_loopback_of_the_hypervisor_is_no_neighbour() {
    use crate::harness::Arp;
    use std::time::Duration;
    let mut host = Host::new();
    let [one] = host.guests();
    all_wired(&mut host, &[&one]);
    let arp = Arp::open(&one.namespace, "eth0");
    for hidden in [LOOPBACK4, "192.0.2.1"] {
        arp.request(&one.port.v4(), hidden);
        assert_eq!(
            arp.answer(hidden, Duration::from_millis(300)),
            None,
            "{hidden}"
        );
    }
    // The same question about the gateway is answered: the probe works.
    arp.request(&one.port.v4(), GATEWAY4);
    assert_eq!(
        arp.answer(GATEWAY4, Duration::from_secs(5)).as_deref(),
        Some(TAP_MAC)
    );
}

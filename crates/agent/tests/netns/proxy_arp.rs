//! Proxy ARP: an answer for everybody, and never for the guest itself.
//!
//! A guest that gets an answer to its own duplicate-address probe gives its
//! address up. So the tests listen on the wire, past the guest's kernel.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use l2isolate_lab::netns;

use crate::harness::{Arp, GATEWAY4, Guest, Host, OUTSIDE4, TAP_MAC};

/// So long answers are waited for that shall not come.
const SHORT: Duration = Duration::from_millis(200);
/// So long those that shall.
const LONG: Duration = Duration::from_secs(5);

fn wired(host: &mut Host) -> (Guest, Arp) {
    let [guest] = host.guests();
    host.start();
    host.wired(&[&guest.port]);
    let arp = Arp::open(&guest.namespace, "eth0");
    (guest, arp)
}

/// Asks for the guest's own address in each way that a guest may.
fn ask_for_own(arp: &Arp, own: &str) {
    arp.request("0.0.0.0", own);
    arp.request(own, own);
    // As from another address of its own, such as it had before.
    arp.request("10.252.88.88", own);
}

/// Guests believe that the whole subnet, and often more, is on their link.
#[test]
fn everybody_else_is_answered_for() {
    let mut host = Host::new();
    let (guest, arp) = wired(&mut host);
    for other in ["10.252.77.77", "10.252.255.254", GATEWAY4, OUTSIDE4] {
        arp.request(&guest.port.v4(), other);
        assert_eq!(arp.answer(other, LONG).as_deref(), Some(TAP_MAC), "{other}");
    }
}

/// Never an answer for the guest's own address.
#[test]
fn the_guest_itself_is_not_answered_for() {
    let mut host = Host::new();
    let (guest, arp) = wired(&mut host);
    let own = guest.port.v4();
    ask_for_own(&arp, &own);
    assert_eq!(arp.answer(&own, SHORT), None);
}

/// A tap that goes down takes its routes along without an event of their own.
/// As it comes up again, the guest probes at once.
#[test]
fn not_while_the_tap_flaps() {
    let mut host = Host::new();
    let (guest, arp) = wired(&mut host);
    let (own, tap) = (guest.port.v4(), guest.port.tap().to_owned());
    for _ in 0..20 {
        let flap = format!("link set {tap} down\nlink set {tap} up\n");
        netns::batch(Some(&host.hv), &flap).unwrap();
        ask_for_own(&arp, &own);
        assert_eq!(arp.answer(&own, Duration::from_millis(30)), None);
    }
    host.wired(&[&guest.port]);
    ask_for_own(&arp, &own);
    assert_eq!(arp.answer(&own, SHORT), None);
}

/// The floor stands in for a route that a stranger has just deleted: between
/// that and its mending the default route must not take over.
#[test]
fn not_while_the_route_is_gone() {
    let mut host = Host::new();
    let (guest, arp) = wired(&mut host);
    let own = guest.port.v4();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let lines = format!("route del {own}/32 dev {} metric 5\n", guest.port.tap());
            while !done.load(Ordering::Relaxed) {
                // Fails when the route isn't back yet.
                let _ = netns::batch(Some(&host.hv), &lines);
            }
        });
        for _ in 0..50 {
            ask_for_own(&arp, &own);
            let answer = arp.answer(&own, Duration::from_millis(20));
            if answer.is_some() {
                done.store(true, Ordering::Relaxed);
            }
            assert_eq!(answer, None);
        }
        done.store(true, Ordering::Relaxed);
    });
    host.wired(&[&guest.port]);
}

/// Before a guest's port is known, its tap answers nothing, and neither after
/// its port has gone: at no time is there proxy ARP without the route.
#[test]
fn not_before_the_port_and_not_after_it() {
    let mut host = Host::new();
    let guest = host.guest(1);
    host.start();
    host.settled();
    let own = guest.port.v4();
    let arp = Arp::open(&guest.namespace, "eth0");
    for round in 0..5 {
        host.write(&guest.port);
        for _ in 0..10 {
            ask_for_own(&arp, &own);
            assert_eq!(
                arp.answer(&own, Duration::from_millis(10)),
                None,
                "coming, round {round}"
            );
        }
        host.wired(&[&guest.port]);
        host.remove(&guest.port);
        for _ in 0..10 {
            ask_for_own(&arp, &own);
            assert_eq!(
                arp.answer(&own, Duration::from_millis(10)),
                None,
                "going, round {round}"
            );
        }
        host.wired(&[]);
    }
    arp.request(&own, GATEWAY4);
    assert_eq!(
        arp.answer(GATEWAY4, SHORT),
        None,
        "a tap without port answers"
    );
}

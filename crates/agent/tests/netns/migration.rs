//! A guest that arrives by live migration: from when on it is announced.

use std::{fs, net::UdpSocket, time::Duration};

use l2isolate_lab::netns;
use serde_json::{Value, json};

use crate::harness::{Arp, Guest, Host, OUTSIDE4, Port, claim_neighbour, with_carrier};

/// A host with a guest that is expected and hasn't said anything, and its port.
fn expecting() -> (Host, Guest, Port) {
    let mut host = Host::new();
    let one = host.paused_guest(1);
    let incoming = one.port.bound("incoming");
    host.write(&incoming);
    host.start();
    host.wired(&[&incoming]);
    (host, one, incoming)
}

/// The guest's first frame makes it live, before the control plane knows: its
/// routes come, and it is reached. What it was is not forgotten by an agent that
/// is killed, and the control plane's word then changes nothing.
#[test]
fn a_guest_is_live_from_its_first_frame() {
    let (mut host, one, incoming) = expecting();
    let two = host.guest(2);
    host.write(&two.port);
    host.wired(&[&incoming, &two.port]);
    assert!(two.misses(&one.port.v4()), "attracted before it is here");

    one.set_up();
    host.wired(&[&incoming.seen(), &two.port]);
    assert!(two.reaches(&one.port.v4()));
    assert!(one.reaches(&two.port.v6()));

    host.kill();
    host.start();
    host.settled();
    assert_eq!(host.status()["written"], 0);
    host.wired(&[&incoming.seen(), &two.port]);
    host.write(&one.port.with("revision", 2));
    host.settled();
    assert_eq!(host.status()["written"], 0);
    assert!(two.reaches(&one.port.v6()));
}

/// The smallest signs of a guest, each as the first frame and the only one: an
/// announcement of its address by ARP (RFC 5227), and an unsolicited neighbour
/// advertisement (RFC 4861).
#[test]
fn any_first_frame_makes_a_guest_live() {
    let (host, one, incoming) = expecting();
    // Nothing goes out that isn't sent here.
    netns::sysctl(&one.namespace, &[("ipv6.conf.eth0.disable_ipv6", "1")]).unwrap();
    one.ip(&format!("link set eth0 address {}", one.port.mac()));
    let (v4, v6) = (one.port.v4(), one.port.v6().parse().unwrap());
    let by_arp = || Arp::open(&one.namespace, "eth0").request(&v4, &v4);
    let by_nd = || claim_neighbour(&one.namespace, "eth0", &[(v6, v6, false)]);
    for say in [&by_arp as &dyn Fn(), &by_nd] {
        one.ip("link set eth0 up");
        host.until("somebody is behind the tap", || {
            with_carrier(&host.hv).contains(one.port.tap())
        });
        host.settled();
        assert_eq!(host.migration(&one.port), "incoming");
        say();
        host.wired(&[&incoming.seen()]);
        one.pause();
        host.wired(&[&incoming]);
    }
}

/// QEMU may say where its guest is and fail then. It ends, nobody is behind the
/// tap any more, and the guest is taken back: it is announced from its source
/// alone, which had never stopped to, and here again when it comes after all. So
/// is it after a restart meanwhile.
#[test]
fn a_guest_that_fails_after_its_first_frame_is_taken_back() {
    let (mut host, one, incoming) = expecting();
    one.set_up();
    host.wired(&[&incoming.seen()]);
    one.pause();
    host.wired(&[&incoming]);
    host.until("it is expected again", || {
        host.migration(&one.port) == "incoming"
    });
    one.set_up();
    host.wired(&[&incoming.seen()]);
    host.kill();
    one.pause();
    host.start();
    host.wired(&[&incoming]);
    one.set_up();
    host.wired(&[&incoming.seen()]);
}

/// Somebody else's frame on the tap moves nothing, and is named; the guest's own
/// still does.
#[test]
fn a_stranger_on_the_tap_is_no_arrival() {
    let (host, one, incoming) = expecting();
    one.ip("link set eth0 address 02:00:00:00:99:99");
    one.ip("link set eth0 up");
    host.until("the stranger is named", || {
        host.log().contains("02:00:00:00:99:99")
    });
    let named = |host: &Host| {
        let problems = host.status()["problems"].clone();
        let problems: Vec<Value> = problems.as_array().cloned().unwrap_or_default();
        problems.iter().any(|problem| {
            let object = problem["object"].as_str().unwrap_or_default();
            let reason = problem["reason"].as_str().unwrap_or_default();
            object.contains(one.port.id()) && reason.contains("02:00:00:00:99:99")
        })
    };
    assert!(named(&host), "{}", host.status());
    host.wired(&[&incoming]);
    one.pause();
    one.set_up();
    host.wired(&[&incoming.seen()]);
    assert!(!named(&host), "{}", host.status());
}

/// The host at the other end is asked whether it is there. One that isn't is named,
/// until it answers or the migration is over; nothing else follows from it.
#[test]
fn a_peer_that_does_not_answer_is_named() {
    let (host, one, incoming) = expecting();
    let from = |peer: &str, revision: u32| {
        let binding = json!({"state": "incoming", "peer": peer});
        incoming.with("binding", binding).with("revision", revision)
    };
    let nobody = "198.51.100.77";
    let named = || {
        let problems = host.status()["problems"].to_string();
        problems.contains(nobody) && problems.contains(one.port.id())
    };
    host.write(&from(nobody, 2));
    host.until("it is named", named);
    host.wired(&[&incoming]);
    one.set_up();
    host.wired(&[&incoming.seen()]);
    host.write(&from(OUTSIDE4, 3));
    host.until("who answers isn't", || !named());
    host.write(&from(nobody, 4));
    host.until("it is named again", named);
    host.write(&one.port.with("revision", 5));
    host.until("it is over", || !named());
    host.wired(&[&one.port]);
}

/// A migration whose guest has moved and which nobody ends, as when the agent at the
/// other end is dead or the control plane has forgotten it, is named at both ends
/// with the host at the other one; nothing follows from it.
#[test]
fn a_migration_that_nobody_ends_is_named() {
    let (mut host, one, incoming) = expecting();
    let two = host.guest(2);
    let with_peer = |port: &Port, state: &str| {
        port.with("binding", json!({"state": state, "peer": OUTSIDE4}))
            .with("revision", 2)
    };
    let arrives = with_peer(&incoming, "incoming");
    let leaves = with_peer(&two.port, "outgoing");
    host.write(&arrives);
    host.write(&leaves);
    one.set_up();
    two.pause();
    host.wired(&[&arrives.seen(), &leaves]);
    let mut waits = 0;
    let all_named = || {
        let problems = host.status()["problems"].clone();
        let problems = problems.as_array().cloned().unwrap_or_default();
        [&one.port, &two.port].iter().all(|port| {
            problems.iter().any(|problem| {
                let part = |field: &str| problem[field].as_str().unwrap_or_default();
                part("object").contains(port.id())
                    && part("reason").contains(OUTSIDE4)
                    && part("reason").contains("end the migration")
            })
        })
    };
    // A minute, in which it is nobody's business.
    while !all_named() {
        waits += 1;
        assert!(waits < 600, "in vain: {}", host.status());
        std::thread::sleep(Duration::from_millis(500));
    }
    host.wired(&[&arrives.seen(), &leaves]);
}

/// A tap that is made anew is another one: who was seen on the old one, as in a
/// migration that failed and is tried again, is expected anew.
#[test]
fn a_new_tap_expects_its_guest_anew() {
    let (host, one, incoming) = expecting();
    one.set_up();
    host.wired(&[&incoming.seen()]);
    host.ip(&format!("link del {}", one.port.tap()));
    host.tap(one.port.tap(), &one.namespace, "eth0");
    host.wired(&[&incoming]);
    one.set_up();
    host.wired(&[&incoming.seen()]);
}

/// A migration that is called off takes everything of the port along, and with
/// it what was seen.
#[test]
fn what_is_called_off_leaves_nothing() {
    let (mut host, one, incoming) = expecting();
    let two = host.guest(2);
    host.write(&two.port);
    one.set_up();
    host.wired(&[&incoming.seen(), &two.port]);
    host.remove(&one.port);
    host.wired(&[&two.port]);
    one.pause();
    host.write(&incoming.with("revision", 3));
    host.wired(&[&incoming, &two.port]);
}

/// Operators see where a guest is in its migration; every row of the table of
/// states that one host can come to, in the order of a migration here and away
/// again.
#[test]
fn where_a_migration_is_can_be_seen() {
    let (mut host, one, incoming) = expecting();
    let is = |host: &Host, state: &str| {
        host.until(&format!("it is {state}"), || {
            host.migration(&one.port) == state
        });
    };
    is(&host, "incoming");
    one.set_up();
    is(&host, "live");
    host.kill();
    host.start();
    is(&host, "live");
    host.write(&one.port.with("revision", 2));
    is(&host, "active");
    let leaving = one.port.bound("outgoing").with("revision", 3);
    host.write(&leaving);
    is(&host, "outgoing");
    host.kill();
    host.start();
    is(&host, "outgoing");
    one.pause();
    is(&host, "left");
    one.set_up();
    is(&host, "outgoing");
    // Back at once, on the same tap: that it was here says nothing.
    one.pause();
    is(&host, "left");
    host.write(&incoming.with("revision", 4));
    is(&host, "incoming");
    one.set_up();
    is(&host, "live");
    host.remove(&one.port);
    is(&host, "gone");
}

/// Somebody outside sends to an address that isn't here, as a switch does until it knows
/// that a guest has left: it isn't sent back to the switches, though the default route
/// leads there, and it is counted. Without `uplinks` the host can't know; they are heeded
/// from when they are configured until they aren't any more.
#[test]
fn what_comes_for_nobody_is_not_sent_back() {
    const NOBODY: [&str; 2] = ["203.0.113.9:9", "[2001:db8:f00::9]:9"];
    const PACKETS: u64 = 5;
    const ALL: u64 = 2 * PACKETS;
    let mut host = Host::with("firewall = true");
    let guest = host.guest(1);
    host.write(&guest.port);
    // The way back is another one: a switch of its own.
    host.ip(&format!(
        "link add up1 type veth peer name up1 netns {}",
        host.world
    ));
    netns::ip(&host.world, &["link", "set", "up1", "up"]).unwrap();
    host.ip("link set up1 up");
    let other = "route replace default nexthop via 192.0.2.2 dev up0 nexthop dev up1";
    let heard = "add table inet heard; add counter inet heard back; \
                 add chain inet heard early { type filter hook prerouting priority 0; }; \
                 add rule inet heard early udp dport 9 counter name back";
    let made = netns::command(&host.world, "nft").arg(heard).status();
    assert!(made.unwrap().success());
    let plain = fs::read_to_string(host.path("l2isolate.conf")).unwrap();
    let cases = [
        ("", None),
        ("uplinks = up0", Some(ALL)),
        ("uplinks = up0, up1", Some(2 * ALL)),
        ("", None),
    ];
    let mut back = 0;
    for (uplinks, kept) in cases {
        fs::write(host.path("l2isolate.conf"), format!("{plain}{uplinks}\n")).unwrap();
        host.start();
        host.wired(&[&guest.port]);
        host.settled();
        if kept.is_none() {
            back += ALL;
        }
        netns::inside(&host.world, || {
            for to in NOBODY {
                let any = match to.starts_with('[') {
                    true => "[::]:0",
                    false => "0.0.0.0:0",
                };
                let socket = UdpSocket::bind(any).unwrap();
                for _ in 0..PACKETS {
                    socket.send_to(b"stray", to).unwrap();
                }
            }
        })
        .unwrap();
        host.until("each is back or was kept", || {
            counted(&host.hv, "l2isolate", "transit") == kept
                && counted(&host.world, "heard", "back") == Some(back)
        });
        host.kill();
        if kept == Some(ALL) {
            host.ip(other);
        }
        if kept == Some(2 * ALL) {
            host.ip("route replace default via 192.0.2.2");
        }
    }
}

/// What a counter of nftables has counted, if it is there.
fn counted(namespace: &str, table: &str, counter: &str) -> Option<u64> {
    let list = format!("list counter inet {table} {counter}");
    let output = netns::command(namespace, "nft").arg(list).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    words.nth(1).map(|count| count.parse().unwrap())
}

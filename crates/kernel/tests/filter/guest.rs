//! A guest that isn't what it says, or says too much.

use l2isolate_kernel::testing::in_new_netns;
use l2isolate_model::filter::Limit;
use l2isolate_plan::filter::Limits;
use serde_json::{Value, json};

use crate::{
    cloud::{address, mac},
    judge::Wire,
    rig::{Rig, frame},
};

const OWN: &str = "fa:16:3e:00:00:01";
const OTHER: &str = "fa:16:3e:00:00:02";

pub(crate) fn one_port() -> Value {
    json!({"version": 1,
        "subnets": [
            {"id": "s4", "cidr": "10.252.0.0/16", "gateway": "10.252.0.1"},
            {"id": "s6", "cidr": "2001:db8:1::/64", "gateway": "2001:db8:1::1"}],
        "ports": [{"id": "p", "tap": "tap0", "mac": OWN, "groups": ["g"],
            "addresses": [{"address": "10.252.0.2", "subnet": "s4"}, {"address": "2001:db8:1::2", "subnet": "s6"}]}],
        "groups": [{"id": "g", "rules": [
            {"direction": "egress", "ethertype": "IPv4"}, {"direction": "egress", "ethertype": "IPv6"}]}]})
}

fn bytes(mac: &str) -> Vec<u8> {
    mac.split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

/// An ARP request: the frame's sender, and what it claims of itself.
fn arp(ether: &str, sender: &str, claimed: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(bytes(ether));
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(bytes(sender));
    frame.extend(claimed);
    frame.extend([0; 6]);
    frame.extend([10, 252, 0, 1]);
    frame
}

/// A packet as [`frame`] makes them.
pub(crate) fn wire(source: &str, destination: &str, protocol: u8, ports: (u16, u16)) -> Wire {
    Wire {
        from: 0,
        mac: OWN.to_owned(),
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        source_port: ports.0,
        destination_port: ports.1,
        icmp: (0, 0),
        known: false,
    }
}

fn icmp(source: &str, destination: &str, kind: u8) -> Wire {
    Wire {
        icmp: (kind, 0),
        ..wire(
            source,
            destination,
            if source.contains(':') { 58 } else { 1 },
            (1, 1),
        )
    }
}

/// Every field in which a guest can lie about who it is, one at a time: each
/// lie is counted as one, each truth beside it isn't.
#[test]
fn lies_are_told_from_truth() {
    let ip = |wire: Wire| frame(&wire, 0);
    let lla = "fe80::f816:3eff:fe00:1";
    let world4 = address(false, 3);
    let world6 = address(true, 3);
    let other_mac = |wire: Wire| Wire {
        mac: OTHER.to_owned(),
        ..wire
    };
    let cases = [
        ("ARP", arp(OWN, OWN, [10, 252, 0, 2]), false),
        ("ARP probe", arp(OWN, OWN, [0; 4]), false),
        (
            "ARP for another address",
            arp(OWN, OWN, [10, 252, 0, 3]),
            true,
        ),
        ("ARP for the gateway", arp(OWN, OWN, [10, 252, 0, 1]), true),
        (
            "ARP in another's name",
            arp(OWN, OTHER, [10, 252, 0, 2]),
            true,
        ),
        ("ARP from another", arp(OTHER, OWN, [10, 252, 0, 2]), true),
        ("IPv4", ip(wire("10.252.0.2", &world4, 17, (1, 2))), false),
        (
            "IPv4 of another",
            ip(wire("10.252.0.3", &world4, 17, (1, 2))),
            true,
        ),
        (
            "IPv4 from nowhere",
            ip(wire("0.0.0.0", &world4, 17, (68, 67))),
            true,
        ),
        (
            "IPv4 with another's MAC",
            ip(other_mac(wire("10.252.0.2", &world4, 17, (1, 2)))),
            true,
        ),
        (
            "DHCP client",
            ip(wire("0.0.0.0", "255.255.255.255", 17, (68, 67))),
            false,
        ),
        (
            "not quite a DHCP client",
            ip(wire("0.0.0.0", "255.255.255.255", 17, (69, 67))),
            true,
        ),
        (
            "DHCP server",
            ip(wire("10.252.0.2", &world4, 17, (67, 68))),
            true,
        ),
        (
            "IPv6",
            ip(wire("2001:db8:1::2", &world6, 17, (1, 2))),
            false,
        ),
        (
            "IPv6 of another",
            ip(wire("2001:db8:1::3", &world6, 17, (1, 2))),
            true,
        ),
        (
            "IPv6 with another's MAC",
            ip(other_mac(wire("2001:db8:1::2", &world6, 17, (1, 2)))),
            true,
        ),
        ("link-local", ip(icmp(lla, "fe80::1", 135)), false),
        (
            "link-local of another",
            ip(icmp("fe80::f816:3eff:fe00:2", "fe80::1", 135)),
            true,
        ),
        (
            "the router's link-local",
            ip(icmp("fe80::1", "ff02::1", 136)),
            true,
        ),
        (
            "duplicate address detection",
            ip(icmp("::", "ff02::1:ff00:2", 135)),
            false,
        ),
        (
            "IPv6 from nowhere",
            ip(wire("::", &world6, 17, (1, 2))),
            true,
        ),
        (
            "DHCPv6 client",
            ip(wire(lla, "ff02::1:2", 17, (546, 547))),
            false,
        ),
        (
            "DHCPv6 server",
            ip(wire("2001:db8:1::2", &world6, 17, (547, 546))),
            true,
        ),
    ];
    in_new_netns(|| {
        let mut rig = Rig::new();
        rig.apply_document(&one_port(), Limits::default());
        for (what, frame, lie) in cases {
            let before = rig.counted("spoofed");
            rig.raw(0, &frame);
            let lies = rig.counted("spoofed") - before;
            assert_eq!(lies, u64::from(lie), "{what}");
        }
        // Never a router, not even from an address of its own.
        for kind in [134, 137] {
            let before = rig.counted("dropped-from");
            rig.raw(0, &ip(icmp(lla, "ff02::1", kind)));
            assert_eq!(
                rig.counted("dropped-from") - before,
                1,
                "ICMPv6 type {kind}"
            );
        }
        // The hypervisor and what is behind it: its uplink's address, loopback.
        for destination in ["192.0.2.1", "169.254.1.1"] {
            let before = rig.counted("dropped-from");
            rig.raw(0, &ip(wire("10.252.0.2", destination, 6, (5, 179))));
            assert_eq!(rig.counted("dropped-from") - before, 1, "{destination}");
        }
        // A device that is called like a tap and that nobody knows.
        let before = rig.counted("unknown");
        let mut stranger = wire("10.252.0.3", &world4, 17, (1, 2));
        stranger.mac = mac(1);
        rig.raw(1, &ip(stranger));
        rig.raw(1, &arp(OTHER, OTHER, [10, 252, 0, 3]));
        assert_eq!(rig.counted("unknown") - before, 2);
    });
}

/// A DHCP message from nobody to everybody, as far as the firewall looks at it.
fn discover(relay: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[24..28].copy_from_slice(&relay);
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend([0, 0, 0, 0, 255, 255, 255, 255]);
    packet.extend([0, 68, 0, 67, 0, 248, 0, 0]);
    packet.extend(message);
    let length = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let words = packet[..20].chunks(2);
    let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0xff; 6];
    frame.extend(bytes(OWN));
    frame.extend([8, 0]);
    frame.extend(packet);
    frame
}

/// A guest that calls itself a relay agent, or names somebody else's address as
/// its own, would have the host's DHCP server send to where it can't itself.
#[test]
fn dhcp_is_no_way_to_others() {
    in_new_netns(|| {
        let mut rig = Rig::new();
        rig.apply_document(&one_port(), Limits::default());
        for (relay, refused) in [([0; 4], 0), ([10, 255, 1, 1], 1), ([0, 0, 0, 1], 1)] {
            let before = (rig.counted("dropped-from"), rig.counted("unspecified-4"));
            rig.raw(0, &discover(relay));
            assert_eq!(
                rig.counted("unspecified-4") - before.1,
                1,
                "{relay:?} arrives"
            );
            assert_eq!(rig.counted("dropped-from") - before.0, refused, "{relay:?}");
        }
        let answer = |from: u16, to: &str| {
            let socket = std::net::UdpSocket::bind(("0.0.0.0", from)).unwrap();
            let sent = socket.send_to(b"offer", to);
            sent.err().map(|error| error.kind())
        };
        let refused = Some(std::io::ErrorKind::PermissionDenied);
        for to in ["127.0.0.9:68", "127.0.0.9:67"] {
            assert_eq!(answer(67, to), refused, "a protected address, {to}");
            assert_ne!(answer(69, to), refused, "which others may be sent to");
        }
        assert_ne!(
            answer(67, "192.0.2.9:68"),
            refused,
            "other servers' clients"
        );
    });
}

/// A storm harms whoever makes it: what goes over a limit is dropped and
/// counted, and connection tracking holds no more than a tap's share.
#[test]
fn storms_are_limited() {
    let slow = Limit { rate: 1, burst: 10 };
    let limits = Limits {
        arp: slow,
        nd: slow,
        dhcp: slow,
        connections: 50,
        ..Limits::default()
    };
    in_new_netns(|| {
        let mut rig = Rig::new();
        rig.apply_document(&one_port(), limits);
        let storm = |rig: &mut Rig, what: &str, frames: &mut dyn Iterator<Item = Vec<u8>>| {
            let before = rig.counted("limit-");
            let mut sent = 0;
            for frame in frames {
                rig.raw(0, &frame);
                sent += 1;
            }
            let limited = rig.counted("limit-") - before;
            assert!(
                limited >= sent - 60 && limited > 0,
                "{what}: {limited} of {sent}"
            );
        };
        let many = || 0..200_u16;
        storm(
            &mut rig,
            "ARP",
            &mut many().map(|_| arp(OWN, OWN, [10, 252, 0, 2])),
        );
        let dhcp = wire("0.0.0.0", "255.255.255.255", 17, (68, 67));
        storm(
            &mut rig,
            "DHCP",
            &mut many().map(|n| frame(&dhcp, n.into())),
        );
        let nd = icmp("fe80::f816:3eff:fe00:1", "ff02::1", 135);
        storm(&mut rig, "ND", &mut many().map(|n| frame(&nd, n.into())));
        let world = address(false, 3);
        storm(
            &mut rig,
            "connections",
            &mut many().map(|n| frame(&wire("10.252.0.2", &world, 17, (5000 + n, 53)), n.into())),
        );
        assert!(rig.flows() <= 60, "{} flows", rig.flows());

        let quick = Limits {
            new: slow,
            ..Limits::default()
        };
        rig.apply_document(&one_port(), quick);
        storm(
            &mut rig,
            "new connections",
            &mut many().map(|n| frame(&wire("10.252.0.2", &world, 6, (7000 + n, 80)), n.into())),
        );
    });
}

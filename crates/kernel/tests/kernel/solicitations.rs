//! The packet socket of all taps: what it hears, from whom, and to whom it
//! speaks.

use std::time::{Duration, Instant};

use l2isolate_kernel::{
    packet::{FRAME, MUTED, Solicitations},
    testing::{in_new_netns, ip},
};
use l2isolate_model::Mac;
use nix::net::if_::if_nametoindex;

const HOST: [u8; 6] = [2, 0x4c, 0x32, 0x49, 0x53, 0x4f];
const ALL: [u8; 6] = [0x33, 0x33, 0, 0, 0, 2];
const GROUP: &str = "ff02::1:2";

/// Two guests' devices and their other ends: the host's `tap…`, the guests'
/// `eth…`, all in one namespace.
fn pairs() {
    for name in ["a", "b"] {
        ip(&format!("link add tap{name} type veth peer name eth{name}"));
        for end in ["tap", "eth"] {
            // The kernel's own solicitations would be in the way.
            let path = format!("/proc/sys/net/ipv6/conf/{end}{name}/disable_ipv6");
            std::fs::write(path, "1").unwrap();
            ip(&format!("link set {end}{name} up"));
        }
    }
}

fn index(name: &str) -> u32 {
    if_nametoindex(name).unwrap()
}

/// A frame with a payload that begins like this.
fn frame(to: [u8; 6], destination: &str, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 1, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24]);
    frame.extend([protocol, hops]);
    for address in ["fe80::2", destination] {
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        frame.extend(address.octets());
    }
    frame.extend(payload);
    frame.resize(14 + 40 + 24, 0);
    frame
}

/// The next frame; it comes at once or not at all, as veth passes frames on
/// while they are sent.
fn heard(socket: &Solicitations) -> Option<(u32, Vec<u8>)> {
    let mut buffer = [0; FRAME];
    let end = Instant::now() + Duration::from_millis(200);
    loop {
        if let Some((index, frame)) = socket.next(&mut buffer).unwrap() {
            return Some((index, frame.to_vec()));
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

const UDP: [u8; 4] = [2, 0x22, 2, 0x23];

/// What guests ask is heard, with the device that it came by; what the host
/// routes isn't, whatever it looks like, so nobody far away can fill the queue.
#[test]
fn solicitations_of_the_link_are_heard_and_nothing_else() {
    in_new_netns(|| {
        pairs();
        let socket = Solicitations::open(Mac::new(HOST).unwrap()).unwrap();
        let guest = |name: &str| index(&format!("eth{name}"));
        let asked = [
            frame(ALL, "ff02::2", 58, 255, &[133]),
            frame(ALL, "ff02::1:ff00:1", 58, 255, &[135]),
            frame(HOST, "fe80::1", 58, 255, &[135]),
            frame(ALL, GROUP, 17, 64, &UDP),
        ];
        let other = [2, 0, 0, 0, 9, 9];
        let unasked = [
            // To another device, as the fabric's neighbours do.
            frame(other, "fe80::1", 58, 255, &[135]),
            frame(
                [2, 0x4c, 0x32, 0x49, 0x53, 0x50],
                "fe80::1",
                58,
                255,
                &[135],
            ),
            frame(
                [2, 0x4c, 0x32, 0x48, 0x53, 0x4f],
                "fe80::1",
                58,
                255,
                &[135],
            ),
            // Passed on by a router.
            frame(HOST, "2001:db8::1", 58, 254, &[135]),
            frame(HOST, "2001:db8::1", 17, 64, &UDP),
            // Neither question.
            frame(ALL, "ff02::1", 58, 255, &[134]),
            frame(ALL, "ff02::1", 58, 255, &[136]),
            frame(ALL, "ff02::2", 6, 255, &[135]),
            frame(ALL, GROUP, 17, 64, &[2, 0x23, 2, 0x22]),
        ];
        for name in ["a", "b"] {
            for frame in &unasked {
                socket.send(guest(name), frame).unwrap();
            }
            for frame in &asked {
                socket.send(guest(name), frame).unwrap();
                let tap = index(&format!("tap{name}"));
                assert_eq!(heard(&socket), Some((tap, frame.clone())));
            }
        }
        // Nor is IPv4, though its bytes be the same.
        let mut frame = asked[0].clone();
        frame[12..14].copy_from_slice(&[8, 0]);
        socket.send(guest("a"), &frame).unwrap();
        assert_eq!(heard(&socket), None);
    });
}

/// Whoever is muted isn't heard, among as many as may be, and others are; then
/// it is heard again. A device that goes takes nothing along.
#[test]
fn the_muted_are_not_heard() {
    in_new_netns(|| {
        pairs();
        let socket = Solicitations::open(Mac::new(HOST).unwrap()).unwrap();
        let (tap, eth) = (index("tapa"), index("etha"));
        let question = frame(ALL, "ff02::2", 58, 255, &[133]);
        let others = 1000..;
        let most = others.take(MUTED - 1).chain([tap]);
        socket.mute(most.clone()).unwrap();
        // Old filter and new one have room side by side.
        socket.mute(most).unwrap();
        socket.send(eth, &question).unwrap();
        socket.send(index("ethb"), &question).unwrap();
        assert_eq!(heard(&socket), Some((index("tapb"), question.clone())));
        assert_eq!(heard(&socket), None);
        socket.mute(std::iter::empty()).unwrap();
        ip("link del tapb");
        socket.send(eth, &question).unwrap();
        assert_eq!(heard(&socket), Some((tap, question)));
    });
}

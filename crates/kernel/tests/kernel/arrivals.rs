//! Guests that are expected on their taps: what counts as their arrival.

use std::time::{Duration, Instant};

use l2isolate_kernel::{
    arrival::{Arrivals, Sender},
    packet::Solicitations,
    testing::{in_new_netns, ip},
};
use l2isolate_model::Mac;
use nix::net::if_::if_nametoindex;

const GUEST: [u8; 6] = [0xfa, 0x16, 0x3e, 0, 0, 1];
const OTHER: [u8; 6] = [0xfa, 0x16, 0x3e, 0, 0, 2];

/// The host's end and the guest's, in one namespace; the kernel says nothing on
/// either by itself.
fn pair(name: &str) -> [u32; 2] {
    ip(&format!("link add tap{name} type veth peer name eth{name}"));
    ["tap", "eth"].map(|end| {
        let path = format!("/proc/sys/net/ipv6/conf/{end}{name}/disable_ipv6");
        std::fs::write(path, "1").unwrap();
        ip(&format!("link set {end}{name} up"));
        if_nametoindex(format!("{end}{name}").as_str()).unwrap()
    })
}

/// As QEMU announces a guest: RARP's request reverse (RFC 903).
fn rarp(from: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(from);
    frame.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame.resize(60, 0);
    frame
}

/// What is heard within a moment.
fn heard(arrivals: &mut Arrivals) -> Vec<(u32, Sender)> {
    let end = Instant::now() + Duration::from_millis(200);
    loop {
        let heard = arrivals.heard().unwrap();
        if !heard.is_empty() || Instant::now() > end {
            return heard;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The guest's own frame is its arrival; a stranger's is named once and is none;
/// what the host sends, and what was sent before, is none either.
#[test]
fn a_guest_is_heard_when_it_speaks_itself() {
    in_new_netns(|| {
        let [tap, guest] = pair("a");
        let mac = Mac::new(GUEST).unwrap();
        let wire = Solicitations::open(mac).unwrap();
        wire.send(guest, &rarp(GUEST)).unwrap();
        let mut arrivals = Arrivals::new().unwrap();
        arrivals.expect(tap, mac).unwrap();
        wire.send(tap, &rarp(GUEST)).unwrap();
        assert_eq!(heard(&mut arrivals), []);

        wire.send(guest, &rarp(OTHER)).unwrap();
        assert_eq!(heard(&mut arrivals), [(tap, Sender::Stranger(OTHER))]);
        wire.send(guest, &rarp(OTHER)).unwrap();
        assert_eq!(heard(&mut arrivals), []);

        arrivals.expect(tap, mac).unwrap();
        wire.send(guest, &rarp(GUEST)).unwrap();
        assert_eq!(heard(&mut arrivals), [(tap, Sender::Guest)]);
        assert_eq!(arrivals.devices().count(), 0);
        wire.send(guest, &rarp(GUEST)).unwrap();
        assert_eq!(heard(&mut arrivals), []);
    });
}

/// Each tap waits for its own guest; a tap that goes takes its wait along without
/// harm to the others.
#[test]
fn taps_are_waited_on_side_by_side() {
    in_new_netns(|| {
        let ([a, _], [b, guest]) = (pair("a"), pair("b"));
        let mac = Mac::new(GUEST).unwrap();
        let mut arrivals = Arrivals::new().unwrap();
        arrivals.expect(a, mac).unwrap();
        arrivals.expect(b, mac).unwrap();
        ip("link del tapa");
        assert_eq!(heard(&mut arrivals), []);
        let wire = Solicitations::open(mac).unwrap();
        wire.send(guest, &rarp(GUEST)).unwrap();
        assert_eq!(heard(&mut arrivals), [(b, Sender::Guest)]);
        arrivals.forget(a);
        assert!(arrivals.expect(a, mac).is_err(), "the device is gone");
    });
}

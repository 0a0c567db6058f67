//! Router and neighbour solicitations.

use std::net::Ipv6Addr;

use super::{
    GATEWAY, GUEST, HOST, LINK_LOCAL, OWN, ROUTER, answers, ask,
    frames::{frame, read},
    ip, local,
};
use l2isolate_guest::responder::respond;

const EVERYBODY: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

pub(crate) fn router_solicitation(mac: [u8; 6], source: &str) -> Vec<u8> {
    let mut message = vec![133, 0, 0, 0, 0, 0, 0, 0];
    if source != "::" {
        message.extend([1, 1]);
        message.extend(mac);
    }
    frame(mac, ip(source), ip("ff02::2"), 58, 255, message, 2)
}

pub(crate) fn neighbour_solicitation(mac: [u8; 6], source: &str, target: &str) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(ip(target).octets());
    message.extend([1, 1]);
    message.extend(mac);
    frame(mac, ip(source), ip("ff02::1:ff00:1"), 58, 255, message, 2)
}

/// Every field of an advertisement, in the order of RFC 4861 and 8106.
#[test]
fn an_advertisement_is_to_the_letter() {
    let answer = read(&ask(&router_solicitation(GUEST, LINK_LOCAL)).unwrap());
    assert_eq!((answer.to, answer.from), (GUEST, HOST));
    assert_eq!(
        (answer.source, answer.destination),
        (ip(ROUTER), ip(LINK_LOCAL))
    );
    let mut expected = vec![
        134,
        0,
        answer.payload[2],
        answer.payload[3],
        64,
        0xc0,
        0x07,
        0x08,
    ];
    expected.extend([0; 8]);
    expected.extend([1, 1]);
    expected.extend(HOST);
    expected.extend([5, 1, 0, 0, 0, 0, 0x05, 0xaa]);
    // Autonomous, never on-link.
    expected.extend([
        3, 4, 64, 0x40, 0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0,
    ]);
    expected.extend(ip("2001:db8:252::").octets());
    expected.extend([25, 5, 0, 0, 0, 1, 0x51, 0x80]);
    expected.extend(ip("2001:db8::53").octets());
    expected.extend(ip("2001:db8::54").octets());
    expected.extend([31, 3, 0, 0, 0, 1, 0x51, 0x80]);
    expected.extend(b"\x07example\x03org\0\0\0\0");
    assert_eq!(answer.payload, expected);
}

/// A guest that has no address yet is answered as part of everybody.
#[test]
fn without_an_address_the_answer_is_for_everybody() {
    let answer = read(&ask(&router_solicitation(GUEST, "::")).unwrap());
    assert_eq!((answer.to, answer.destination), (EVERYBODY, ip("ff02::1")));
}

/// The flags follow the mode, and a host that isn't a router says so.
#[test]
fn flags_and_lifetime_follow_the_plan() {
    let mut answers = answers();
    let router = answers.router.as_mut().unwrap();
    (router.managed, router.other, router.lifetime) = (false, true, 0);
    (router.dns, router.domain) = (Vec::new(), None);
    router.prefixes = vec![("2001:db8:9::/56".parse().unwrap(), false)];
    let answer = respond(&local(), &answers, &router_solicitation(GUEST, LINK_LOCAL)).unwrap();
    let payload = read(&answer).payload;
    assert_eq!(payload[5..8], [0x40, 0, 0]);
    assert_eq!(payload[34..36], [56, 0]);
    assert_eq!(payload.len(), 16 + 8 + 8 + 32);
    answers.router = None;
    assert_eq!(
        respond(&local(), &answers, &router_solicitation(GUEST, LINK_LOCAL)),
        None
    );
}

/// Whoever is asked for is here: solicited, a router, not overriding.
#[test]
fn a_neighbour_is_here() {
    let target = "2001:db8:252::77";
    for source in [LINK_LOCAL, OWN] {
        let answer = read(&ask(&neighbour_solicitation(GUEST, source, target)).unwrap());
        assert_eq!((answer.to, answer.from), (GUEST, HOST));
        assert_eq!(
            (answer.source, answer.destination),
            (ip(ROUTER), ip(source))
        );
        let mut expected = vec![136, 0, answer.payload[2], answer.payload[3], 0xc0, 0, 0, 0];
        expected.extend(ip(target).octets());
        expected.extend([2, 1]);
        expected.extend(HOST);
        assert_eq!(answer.payload, expected);
    }
}

/// Nobody is answered for the guest's own addresses or the gateways', on the
/// link itself, for what is no host's, or to a test for duplicates.
#[test]
fn some_targets_are_nobodys() {
    for target in [OWN, GATEWAY, "fe80::1", "fe80::99", "ff02::1", "::", "::1"] {
        assert_eq!(
            ask(&neighbour_solicitation(GUEST, LINK_LOCAL, target)),
            None,
            "{target}"
        );
    }
    for source in ["::", "ff02::1"] {
        assert_eq!(
            ask(&neighbour_solicitation(GUEST, source, "2001:db8:252::77")),
            None,
            "{source}"
        );
    }
}

/// From another hardware address nobody is answered, unless the port is open.
#[test]
fn only_the_guest_is_answered() {
    let stranger = [2, 0, 0, 0, 9, 9];
    let frames = [
        router_solicitation(stranger, LINK_LOCAL),
        neighbour_solicitation(stranger, LINK_LOCAL, "2001:db8:252::77"),
    ];
    let mut open = answers();
    open.macs.clear();
    for frame in frames {
        assert_eq!(ask(&frame), None);
        let answer = respond(&local(), &open, &frame).unwrap();
        assert_eq!(read(&answer).to, stranger);
    }
}

/// RFC 4861, 6.1.1 and 7.1.1: what is to be discarded is.
#[test]
fn invalid_solicitations_are_discarded() {
    let (source, servers) = (ip(LINK_LOCAL), ip("ff02::2"));
    let message = |code: u8, rest: &[u8]| {
        [
            &[135, code, 0, 0, 0, 0, 0, 0][..],
            &ip("2001:db8::7").octets(),
            rest,
        ]
        .concat()
    };
    let send =
        |hops: u8, message: Vec<u8>| ask(&frame(GUEST, source, servers, 58, hops, message, 2));
    assert!(send(255, message(0, &[])).is_some());
    assert_eq!(
        send(254, message(0, &[])),
        None,
        "it has come from elsewhere"
    );
    assert_eq!(send(255, message(1, &[])), None);
    assert_eq!(
        send(255, message(0, &[1, 0, 0, 0, 0, 0, 0, 0])),
        None,
        "an option of no length"
    );
    assert_eq!(
        send(255, message(0, &[1, 2, 0, 0, 0, 0, 0, 0])),
        None,
        "an option beyond the end"
    );
    assert_eq!(send(255, message(0, &[1])), None);
    let mut wrong = frame(GUEST, source, servers, 58, 255, message(0, &[]), 2);
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    assert_eq!(ask(&wrong), None, "the checksum is wrong");
    let _: Ipv6Addr = source;
}

//! A frame of a guest, as a tap brings it: router and neighbour solicitations and
//! DHCPv6. An answer is in form, and goes to the guest or to all of its link.
#![no_main]

use std::{collections::BTreeSet, net::Ipv6Addr};

use l2isolate_guest::responder::{Local, respond};
use l2isolate_model::{
    Mac,
    guest::ipv6::{Answers, Dhcp, Router},
};
use libfuzzer_sys::fuzz_target;

const GUEST: [u8; 6] = [2, 0, 0, 0, 1, 1];
const HOST: [u8; 6] = [2, 0x4c, 0x32, 0x49, 0x53, 0x4f];
const EVERYBODY: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const OWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x252, 0, 0, 0, 1, 1);
const DNS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);

/// A port with everything. Its hardware address may be whatever the frame says,
/// so that there is something to find behind that check.
fn answers(mac: Mac) -> Answers {
    Answers {
        macs: BTreeSet::new(),
        mac,
        silent: BTreeSet::from([OWN]),
        router: Some(Router {
            managed: true,
            other: true,
            lifetime: 1800,
            prefixes: vec![("2001:db8:252::/64".parse().expect("a prefix"), true)],
            valid: 86400,
            mtu: 1450,
            dns: vec![DNS],
            domain: Some((*b"\x07example\x03org\0").into()),
        }),
        dhcp: Some(Dhcp {
            addresses: vec![OWN],
            lifetime: 86400,
            options: vec![(23, DNS.octets().to_vec().into())],
            name: Some((*b"\x05web-1\0").into()),
        }),
    }
}

fuzz_target!(|frame: &[u8]| {
    let local = Local {
        mac: Mac::new(HOST).expect("an address"),
        link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    };
    let said = frame.get(6..12).and_then(|mac| mac.try_into().ok());
    let guest = said.and_then(|mac| Mac::new(mac).ok());
    let mac = guest.unwrap_or_else(|| Mac::new(GUEST).expect("an address"));
    let Some(answer) = respond(&local, &answers(mac), frame) else {
        return;
    };
    assert!((54..=14 + 1280).contains(&answer.len()));
    assert!(answer[..6] == mac.bytes() || answer[..6] == EVERYBODY);
    assert_eq!(answer[6..12], HOST);
    let length = usize::from(u16::from_be_bytes([answer[18], answer[19]]));
    assert_eq!(length, answer.len() - 54);
    if answer[20] == 58 && answer[54] == 136 {
        assert_ne!(answer[62..78], OWN.octets(), "answered in the guest's own name");
    }
});

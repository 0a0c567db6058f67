//! What the responder says, frame by frame: to the letter of the RFCs, and
//! nothing to whoever isn't to be answered.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

mod dhcp6;
mod frames;
mod nd;
mod noise;

use std::{collections::BTreeSet, net::Ipv6Addr};

use l2isolate_guest::responder::{Local, respond};
use l2isolate_model::{
    Mac,
    guest::ipv6::{Answers, Dhcp, Router},
};

const GUEST: [u8; 6] = [2, 0, 0, 0, 1, 1];
const HOST: [u8; 6] = [2, 0x4c, 0x32, 0x49, 0x53, 0x4f];
/// The guest's link-local address.
const LINK_LOCAL: &str = "fe80::ff:fe00:101";
const ROUTER: &str = "fe80::1";
const OWN: &str = "2001:db8:252::1:1";
const GATEWAY: &str = "2001:db8:252::1";

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn local() -> Local {
    Local {
        mac: Mac::new(HOST).unwrap(),
        link_local: ip(ROUTER),
    }
}

/// A port with everything.
fn answers() -> Answers {
    let mac = Mac::new(GUEST).unwrap();
    Answers {
        macs: BTreeSet::from([mac]),
        mac,
        silent: BTreeSet::from([ip(OWN), ip(GATEWAY)]),
        router: Some(Router {
            managed: true,
            other: true,
            lifetime: 1800,
            prefixes: vec![("2001:db8:252::/64".parse().unwrap(), true)],
            valid: 86400,
            mtu: 1450,
            dns: vec![ip("2001:db8::53"), ip("2001:db8::54")],
            domain: Some((*b"\x07example\x03org\0").into()),
        }),
        dhcp: Some(Dhcp {
            addresses: vec![ip(OWN)],
            lifetime: 86400,
            options: vec![
                (23, ip("2001:db8::53").octets().to_vec().into()),
                (59, b"http://boot".to_vec().into()),
            ],
            name: Some((*b"\x05web-1\x07example\x03org\0").into()),
        }),
    }
}

fn ask(frame: &[u8]) -> Option<Vec<u8>> {
    respond(&local(), &answers(), frame)
}

//! What our chains, sets and counters are called. Names tell their owner: a
//! tap or a group. nftables reads identifiers of letters, digits and `/-_.`;
//! a device's name may hold other characters, which are written `/hh`.

use std::{fmt::Write, sync::Arc};

use l2isolate_model::{
    AddressGroupId, GroupId, IfName,
    filter::{Family, Name},
    group::Direction,
};

/// Maps from devices.
pub(crate) const CHECK: &str = "check";
pub(crate) const FROM: &str = "from";
pub(crate) const TO: &str = "to";
pub(crate) const HOST: &str = "host";
pub(crate) const SERVED: &str = "served";

/// The shared chain.
pub(crate) const SERVICES: &str = "services";

/// Packets of taps that nobody knows.
pub(crate) const UNKNOWN: &str = "unknown";

/// A name that is the same for every host.
pub(crate) fn fixed(name: &str) -> Name {
    Arc::from(name)
}

/// A chain or counter of a tap.
pub(crate) fn of_tap(what: &str, tap: IfName) -> Name {
    let mut name = format!("{what}-");
    for byte in tap.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "/{byte:02x}");
        }
    }
    name.into()
}

pub(crate) fn group(id: &GroupId, direction: Direction) -> Name {
    let direction = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("group-{id}-{direction}").into()
}

/// The members of a security group: single addresses, or ranges.
pub(crate) fn members(id: &GroupId, family: Family, ranges: bool) -> Name {
    let suffix = if ranges { "-ranges" } else { "" };
    format!("members-{id}-{}{suffix}", digit(family)).into()
}

pub(crate) fn address_group(id: &AddressGroupId, family: Family) -> Name {
    format!("addresses-{id}-{}", digit(family)).into()
}

pub(crate) fn protected(family: Family) -> Name {
    format!("protected-{}", digit(family)).into()
}

/// A set that rules of one chain need, by its place among them.
pub(crate) fn numbered(chain: &Name, kind: &str, number: usize) -> Name {
    format!("{chain}-{kind}{number}").into()
}

/// 4 or 6.
fn digit(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

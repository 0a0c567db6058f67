//! Addresses that have left this host, and whose flows are still to be ended.
//!
//! That is known only at the moment at which they leave. So it goes into a set
//! in the same transaction, and comes out when the flows have been ended: an
//! agent that is killed in between finds it there. No rule asks for it.

use std::net::IpAddr;

use l2isolate_model::filter::{Family, Item, Key, Objects, Table, Value};

use super::names;

/// The elements that name these addresses.
pub fn left<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> Objects {
    let element = |address: &IpAddr| {
        let set = names::left(Family::of(*address));
        let key = Key::Element(Table::Inet, set, Item::Address(*address));
        (key, Value::Element(None))
    };
    addresses.into_iter().map(element).collect()
}

/// The address of a guest that an observed object tells of: one that has left,
/// or that a tap may send from. An agent that comes back ends the flows of those
/// that nobody has any more. Link-local addresses are none: nobody passes their
/// packets on.
#[must_use]
pub fn address_of(key: &Key) -> Option<IpAddr> {
    let address = match key {
        Key::Element(Table::Inet, set, Item::Address(address))
            if *set == names::left(Family::of(*address)) =>
        {
            *address
        }
        Key::Element(Table::Inet, _, Item::Source(_, _, address)) => *address,
        _ => return None,
    };
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    (!local && !address.is_unspecified()).then_some(address)
}

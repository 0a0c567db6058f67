//! Hosts from which something may come by the tunnel: the other ends of this
//! host's live migrations, by their underlay addresses.

use std::net::IpAddr;

use l2isolate_model::filter::{Family, Item, Key, Objects, Table, Value};

use super::names;

/// The elements that name these addresses.
pub fn peers(addresses: impl IntoIterator<Item = IpAddr>) -> Objects {
    let element = |address: IpAddr| {
        let set = names::peers(Family::of(address));
        let key = Key::Element(Table::Inet, set, Item::Address(address));
        (key, Value::Element(None))
    };
    addresses.into_iter().map(element).collect()
}

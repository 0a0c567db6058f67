//! What is in our two tables: dumps, read as the model's objects.
//!
//! What doesn't read as something that we write is [`Value::Foreign`]: it
//! differs from all that can be wanted, and is put right like any difference.

use std::{collections::BTreeMap, net::IpAddr};

use l2isolate_model::filter::{
    Chain, Family, Hook, Item, Key, Name, Objects, Place, SetType, TABLE, Table, Value, Verdict,
};

use super::{
    attribute::{be32, be64, text},
    batch::{Layout, family, hook_number},
    channel::Channel,
    compile::raise,
    expression::{Expression, read_verdict},
    uapi::*,
};
use crate::{
    error::Error,
    wire::{Attributes, Message, Messages},
};

/// What a counter counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}

/// Reads everything in our tables.
pub(crate) fn observe(channel: &mut Channel) -> Result<Objects, Error> {
    let mut objects = Objects::new();
    for table in Table::ALL {
        let dump = channel.dump("listing tables", msg::GETTABLE, family(table), &[])?;
        let Some(flags) = objects_of(&dump, msg::NEWTABLE).find_map(|a| table_flags(&a)) else {
            continue;
        };
        let owned = flags & NFT_TABLE_F_OWNER != 0;
        objects.insert(Key::Table(table), Value::Table { owned });
        read_table(channel, table, &mut objects)?;
    }
    Ok(objects)
}

/// Reads the counters of a table.
pub(crate) fn counters(
    channel: &mut Channel,
    table: Table,
) -> Result<BTreeMap<Name, Count>, Error> {
    let dump = channel.dump(
        "listing counters",
        msg::GETOBJ,
        family(table),
        &[(NFTA_TABLE, TABLE)],
    )?;
    let read = |attributes: Attributes<'_>| {
        let (name, count) = counter(&attributes)?;
        Some((name, count?))
    };
    Ok(objects_of(&dump, msg::NEWOBJ).filter_map(read).collect())
}

/// The messages of one kind, of our table.
fn objects_of(dump: &[u8], number: u16) -> impl Iterator<Item = Attributes<'_>> {
    Messages(dump)
        .filter(move |m| m.kind == NFNL_SUBSYS_NFTABLES << 8 | number)
        .map(|m| m.attributes(4))
        .filter(ours)
}

fn ours(attributes: &Attributes<'_>) -> bool {
    attributes.value(NFTA_TABLE).and_then(text) == Some(TABLE)
}

/// Whether an event tells of our tables.
pub(crate) fn concerns_us(message: &Message<'_>) -> bool {
    let number = message.kind & 0xff;
    let family = message.body.first().copied();
    message.kind >> 8 == NFNL_SUBSYS_NFTABLES
        && number != msg::NEWGEN
        && matches!(family, Some(NFPROTO_INET | NFPROTO_ARP))
        && ours(&message.attributes(4))
}

fn table_flags(attributes: &Attributes<'_>) -> Option<u32> {
    Some(
        attributes
            .value(NFTA_TABLE_FLAGS)
            .and_then(be32)
            .unwrap_or(0),
    )
}

fn read_table(channel: &mut Channel, table: Table, objects: &mut Objects) -> Result<(), Error> {
    let number = family(table);
    let of_table = [(NFTA_TABLE, TABLE)];
    let dump = channel.dump("listing counters", msg::GETOBJ, number, &of_table)?;
    for attributes in objects_of(&dump, msg::NEWOBJ) {
        if let Some((name, count)) = counter(&attributes) {
            let value = if count.is_some() {
                Value::Counter
            } else {
                Value::Foreign
            };
            objects.insert(Key::Counter(table, name), value);
        }
    }
    let mut chains: BTreeMap<Name, Option<Chain>> = BTreeMap::new();
    let dump = channel.dump("listing chains", msg::GETCHAIN, number, &[])?;
    for attributes in objects_of(&dump, msg::NEWCHAIN) {
        if let Some((name, hook)) = chain(table, &attributes) {
            chains.insert(
                name,
                hook.map(|hook| Chain {
                    hook,
                    rules: Vec::new(),
                }),
            );
        }
    }
    let dump = channel.dump("listing rules", msg::GETRULE, number, &of_table)?;
    for attributes in objects_of(&dump, msg::NEWRULE) {
        let name = attributes
            .value(NFTA_RULE_CHAIN)
            .and_then(text)
            .unwrap_or_default();
        let Some(entry) = chains.get_mut(name) else {
            continue;
        };
        let expressions = attributes.value(NFTA_RULE_EXPRESSIONS).unwrap_or_default();
        match (rule(expressions, table), entry.as_mut()) {
            (Some(rule), Some(chain)) => chain.rules.push(rule),
            _ => *entry = None,
        }
    }
    for (name, chain) in chains {
        objects.insert(
            Key::Chain(table, name),
            chain.map_or(Value::Foreign, Value::Chain),
        );
    }
    let dump = channel.dump("listing sets", msg::GETSET, number, &of_table)?;
    for attributes in objects_of(&dump, msg::NEWSET) {
        let Some(name) = attributes.value(NFTA_SET_NAME).and_then(text) else {
            continue;
        };
        let kind = set_type(&attributes);
        let key = Key::Set(table, name.into());
        objects.insert(key, kind.map_or(Value::Foreign, Value::Set));
        if let Some(kind) = kind {
            let of_set = [(NFTA_TABLE, TABLE), (NFTA_SET_ELEM_LIST_SET, name)];
            let dump = channel.dump("listing elements", msg::GETSETELEM, number, &of_set)?;
            let name: Name = name.into();
            for (item, value) in elements(&dump, kind) {
                objects.insert(Key::Element(table, Name::clone(&name), item), value);
            }
        }
    }
    Ok(())
}

/// A counter's name, and what it counted; another kind of object counted nothing.
fn counter(attributes: &Attributes<'_>) -> Option<(Name, Option<Count>)> {
    let name = attributes.value(NFTA_OBJ_NAME).and_then(text)?.into();
    if attributes.value(NFTA_OBJ_TYPE).and_then(be32) != Some(NFT_OBJECT_COUNTER) {
        return Some((name, None));
    }
    let data = Attributes(attributes.value(NFTA_OBJ_DATA).unwrap_or_default());
    let number = |kind| data.value(kind).and_then(be64).unwrap_or(0);
    let count = Count {
        packets: number(NFTA_COUNTER_PACKETS),
        bytes: number(NFTA_COUNTER_BYTES),
    };
    Some((name, Some(count)))
}

/// A chain's name and hook; no hook could be read: the outer `None` inside.
fn chain(table: Table, attributes: &Attributes<'_>) -> Option<(Name, Option<Option<Hook>>)> {
    let name = attributes.value(NFTA_CHAIN_NAME).and_then(text)?.into();
    let Some(hook) = attributes.value(NFTA_CHAIN_HOOK) else {
        return Some((name, Some(None)));
    };
    let hook = Attributes(hook);
    let number = hook.value(NFTA_HOOK_HOOKNUM).and_then(be32);
    let priority = hook
        .value(NFTA_HOOK_PRIORITY)
        .and_then(be32)
        .map(u32::cast_signed);
    let accepting =
        attributes.value(NFTA_CHAIN_POLICY).and_then(be32) == Some(NF_ACCEPT.cast_unsigned());
    let filter = attributes.value(NFTA_CHAIN_TYPE).and_then(text) == Some("filter");
    let places: &[Place] = match table {
        Table::Inet => &[
            Place::Prerouting,
            Place::Input,
            Place::Forward,
            Place::Output,
        ],
        Table::Arp => &[Place::Input, Place::Output],
    };
    let place = places
        .iter()
        .find(|place| Some(hook_number(table, **place)) == number);
    let hook = match (place, priority) {
        (Some(place), Some(priority)) if accepting && filter => Some(Some(Hook {
            place: *place,
            priority,
        })),
        _ => None,
    };
    Some((name, hook))
}

fn rule(expressions: &[u8], table: Table) -> Option<Vec<l2isolate_model::filter::Term>> {
    let list: Option<Vec<Expression>> = Attributes(expressions)
        .filter(|(kind, _)| *kind == NFTA_LIST_ELEM)
        .map(|(_, element)| Expression::read(element))
        .collect();
    raise(&list?, table == Table::Arp)
}

fn set_type(attributes: &Attributes<'_>) -> Option<SetType> {
    let number = |kind| attributes.value(kind).and_then(be32);
    let layout = Layout {
        flags: number(NFTA_SET_FLAGS).unwrap_or(0),
        key: number(NFTA_SET_KEY_TYPE)?,
        length: number(NFTA_SET_KEY_LEN)?,
    };
    let [v4, v6] = Family::ALL;
    [
        SetType::Verdicts,
        SetType::Ports,
        SetType::Addresses(v4),
        SetType::Addresses(v6),
        SetType::Ranges(v4),
        SetType::Ranges(v6),
    ]
    .into_iter()
    .find(|kind| Layout::of(*kind) == layout)
}

/// The elements of a set. Ranges come as their beginnings and what follows
/// their ends, in any order.
fn elements(dump: &[u8], kind: SetType) -> Vec<(Item, Value)> {
    let mut plain = Vec::new();
    let mut marks: Vec<(u128, bool)> = Vec::new();
    for attributes in objects_of(dump, msg::NEWSETELEM) {
        let list = attributes
            .value(NFTA_SET_ELEM_LIST_ELEMENTS)
            .unwrap_or_default();
        for (_, element) in Attributes(list) {
            let element = Attributes(element);
            let Some(key) = element.value(NFTA_SET_ELEM_KEY) else {
                continue;
            };
            let Some(key) = Attributes(key).value(NFTA_DATA_VALUE) else {
                continue;
            };
            let flags = element
                .value(NFTA_SET_ELEM_FLAGS)
                .and_then(be32)
                .unwrap_or(0);
            match kind {
                SetType::Verdicts => {
                    let name = key.split(|byte| *byte == 0).next().unwrap_or_default();
                    let name = std::str::from_utf8(name)
                        .ok()
                        .and_then(|name| name.parse().ok());
                    let value = element.value(NFTA_SET_ELEM_DATA).and_then(read_verdict);
                    let value = value.and_then(map_verdict);
                    let value = value.map_or(Value::Foreign, |v| Value::Element(Some(v)));
                    plain.extend(name.map(|name| (Item::Device(name), value)));
                }
                SetType::Addresses(family) => {
                    let address = address(family, number(key));
                    plain.push((Item::Address(address), Value::Element(None)));
                }
                SetType::Ports | SetType::Ranges(_) => {
                    marks.push((number(key), flags & NFT_SET_ELEM_INTERVAL_END == 0));
                }
            }
        }
    }
    let top = match kind {
        SetType::Ports => u128::from(u16::MAX),
        SetType::Ranges(Family::V4) => u128::from(u32::MAX),
        _ => u128::MAX,
    };
    let item = |first: u128, last: u128| match kind {
        SetType::Ranges(family) => Item::Addresses(address(family, first), address(family, last)),
        _ => {
            let port = |n: u128| u16::try_from(n).unwrap_or(u16::MAX);
            Item::Ports(port(first), port(last))
        }
    };
    // An end stands before the beginning of the next range at the same place.
    marks.sort_unstable();
    let mut begun = None;
    for (place, begins) in marks {
        let range = begun
            .take()
            .map(|first| item(first, place.saturating_sub(1)));
        plain.extend(range.map(|item| (item, Value::Element(None))));
        if begins {
            begun = Some(place);
        }
    }
    plain.extend(begun.map(|first| (item(first, top), Value::Element(None))));
    plain
}

fn map_verdict((code, chain): (i32, Option<String>)) -> Option<Verdict> {
    match (code, chain) {
        (NF_ACCEPT, None) => Some(Verdict::Accept),
        (NF_DROP, None) => Some(Verdict::Drop),
        (NFT_JUMP, Some(chain)) => Some(Verdict::Jump(chain.into())),
        _ => None,
    }
}

/// A key's bytes as a number; what is longer than any key is cut.
fn number(key: &[u8]) -> u128 {
    key.iter()
        .take(16)
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [SetType; 6] = [
        SetType::Verdicts,
        SetType::Ports,
        SetType::Addresses(Family::V4),
        SetType::Addresses(Family::V6),
        SetType::Ranges(Family::V4),
        SetType::Ranges(Family::V6),
    ];

    proptest! {
        /// Whatever a dump holds, reading it ends without harm.
        #[test]
        fn any_dump_ends(dump in prop::collection::vec(any::<u8>(), 0..300), number in 0..21_u16) {
            // A message of the right kind around what may be anything.
            let mut framed = Vec::new();
            let length = u32::try_from(dump.len() + 16).unwrap_or(16);
            framed.extend(length.to_ne_bytes());
            framed.extend((NFNL_SUBSYS_NFTABLES << 8 | number).to_ne_bytes());
            framed.extend([0; 10]);
            framed.extend(&dump);
            for bytes in [&dump, &framed] {
                for message in Messages(bytes) {
                    let _ = concerns_us(&message);
                    let attributes = message.attributes(4);
                    for table in Table::ALL {
                        let _ = chain(table, &attributes);
                        let _ = rule(message.body, table);
                    }
                    let _ = (counter(&attributes), set_type(&attributes), table_flags(&attributes));
                }
                for kind in KINDS {
                    let _ = elements(bytes, kind);
                }
            }
        }
    }
}

//! What is in our two tables: dumps, read as the model's objects.
//!
//! What doesn't read as something that we write is [`Value::Foreign`]: it
//! differs from all that can be wanted, and is put right like any difference.

use std::collections::BTreeMap;

use l2isolate_model::{
    IfName,
    filter::{Chain, Hook, Item, Key, Name, Objects, Place, SetType, TABLE, Table, Value},
};

use super::{
    attribute::{be32, be64, text},
    batch::{family, hook_number},
    channel::Channel,
    compile::raise,
    expression::Expression,
    set::{self, Count},
    uapi::*,
};
use crate::{
    error::Error,
    wire::{Attributes, Message, Messages},
};

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

/// What counts: a counter by its name, or a set's elements for a device together.
pub type Counted = (Table, Name, Option<IfName>);

/// Reads all counters of a table.
pub(crate) fn counters(
    channel: &mut Channel,
    table: Table,
    all: &mut BTreeMap<Counted, Count>,
) -> Result<(), Error> {
    let of_table = [(NFTA_TABLE, TABLE)];
    let dump = channel.dump("listing counters", msg::GETOBJ, family(table), &of_table)?;
    for attributes in objects_of(&dump, msg::NEWOBJ) {
        if let Some((name, Some(count))) = counter(&attributes) {
            all.insert((table, name, None), count);
        }
    }
    let dump = channel.dump("listing sets", msg::GETSET, family(table), &of_table)?;
    for attributes in objects_of(&dump, msg::NEWSET) {
        let name = attributes.value(NFTA_SET_NAME).and_then(text);
        let kind = set::read_type(&attributes).filter(|kind| set::counts(*kind));
        let (Some(name), Some(kind)) = (name, kind) else {
            continue;
        };
        let name = Name::from(name);
        for (item, _, count) in elements(channel, table, &name, kind)? {
            let (Item::Device(device) | Item::Source(device, ..)) = item else {
                continue;
            };
            if let Some(count) = count {
                let key = (table, Name::clone(&name), Some(device));
                *all.entry(key).or_default() += count;
            }
        }
    }
    Ok(())
}

fn elements(
    channel: &mut Channel,
    table: Table,
    set: &str,
    kind: SetType,
) -> Result<Vec<(Item, Value, Option<Count>)>, Error> {
    let of_set = [(NFTA_TABLE, TABLE), (NFTA_SET_ELEM_LIST_SET, set)];
    let dump = channel.dump("listing elements", msg::GETSETELEM, family(table), &of_set)?;
    Ok(set::read_items(lists(&dump), kind))
}

/// Lists of elements.
fn lists(dump: &[u8]) -> impl Iterator<Item = Attributes<'_>> {
    objects_of(dump, msg::NEWSETELEM).filter_map(|attributes| {
        attributes
            .value(NFTA_SET_ELEM_LIST_ELEMENTS)
            .map(Attributes)
    })
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
        let kind = set::read_type(&attributes);
        let name = Name::from(name);
        let key = Key::Set(table, Name::clone(&name));
        objects.insert(key, kind.map_or(Value::Foreign, Value::Set));
        if let Some(kind) = kind {
            for (item, value, _) in elements(channel, table, &name, kind)? {
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

/// Reads whatever it is as a dump and as events of each kind; how many objects
/// were made out. For tests, and whoever feeds it nonsense.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_anything(bytes: &[u8]) -> usize {
    use l2isolate_model::filter::{Each, Family};
    const KINDS: [SetType; 10] = [
        SetType::Verdicts,
        SetType::Devices(Each::Count),
        SetType::Devices(Each::Connections(5)),
        SetType::DeviceAddresses(Family::V6),
        SetType::Sources(Family::V4, Each::Count),
        SetType::Ports,
        SetType::Addresses(Family::V4),
        SetType::Addresses(Family::V6),
        SetType::Ranges(Family::V4),
        SetType::Ranges(Family::V6),
    ];
    let mut found = 0;
    for message in Messages(bytes) {
        let attributes = message.attributes(4);
        found += usize::from(concerns_us(&message));
        for table in Table::ALL {
            let _ = chain(table, &attributes);
            let _ = rule(message.body, table);
            let expressions = attributes.value(NFTA_RULE_EXPRESSIONS).unwrap_or_default();
            found += usize::from(rule(expressions, table).is_some_and(|rule| !rule.is_empty()));
        }
        found += usize::from(counter(&attributes).is_some());
        found += usize::from(set::read_type(&attributes).is_some());
        let _ = table_flags(&attributes);
    }
    for kind in KINDS {
        found += set::read_items(lists(bytes), kind).len();
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
                read_anything(bytes);
            }
        }
    }
}

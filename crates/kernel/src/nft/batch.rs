//! A transaction: changes as messages, in the order in which the kernel takes
//! them.
//!
//! All or nothing of a batch takes effect, so its order only has to please the
//! kernel's checks: what is used must exist, what is deleted must not be used,
//! and a range may only be added when those that it overlaps are gone.

use std::collections::{BTreeMap, BTreeSet};

use l2isolate_model::filter::{
    Chain, Hook, Item, Key, Name, Objects, Place, SetType, TABLE, Table, Value, Verdict,
};
use l2isolate_reconcile::Change;

use super::{
    attribute::Writer,
    compile::compile,
    expression::Expression,
    set::{said, write_item, write_type},
    uapi::*,
};

/// Bytes of elements in one message, below the limit of 64 KiB with room for
/// the last one.
const ELEMENTS: usize = 32 * 1024;

/// One message of a batch.
#[derive(Debug)]
pub(crate) struct Message {
    /// NFT_MSG_*.
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) family: u8,
    pub(crate) body: Vec<u8>,
    /// The changes that it is for, by index.
    pub(crate) changes: Vec<usize>,
}

/// nfnetlink's number of a table's family.
pub(crate) fn family(table: Table) -> u8 {
    match table {
        Table::Inet => NFPROTO_INET,
        Table::Arp => NFPROTO_ARP,
    }
}

/// Makes the messages. `observed` is what is in the kernel; `single` puts each
/// element into a message of its own, so that an error names it.
pub(crate) fn batch(
    changes: &[(usize, &Change<Key, Value>)],
    observed: &Objects,
    single: bool,
) -> Vec<Message> {
    let mut build = Builder {
        messages: Vec::new(),
        single,
        set_id: 0,
    };
    let sets = || {
        changes.iter().filter_map(|(i, c)| match c {
            Change::Set(key, value) => Some((*i, key, value)),
            Change::Delete(_) => None,
        })
    };
    let deletes = || {
        changes.iter().filter_map(|(i, c)| match c {
            Change::Delete(key) => Some((*i, key)),
            Change::Set(..) => None,
        })
    };
    // What goes with its set or table is not deleted by itself.
    let dying: BTreeSet<(Table, &Name)> = deletes()
        .filter_map(|(_, key)| match key {
            Key::Set(table, name) => Some((*table, name)),
            _ => None,
        })
        .collect();
    let dead: BTreeSet<Table> = deletes()
        .filter_map(|(_, key)| match key {
            Key::Table(table) => Some(*table),
            _ => None,
        })
        .collect();

    let made: BTreeMap<Key, SetType> = sets()
        .filter_map(|(_, key, value)| Some((key.clone(), set_type(value)?)))
        .collect();

    for (index, key, value) in sets() {
        if let (Key::Table(table), Value::Table { owned }) = (key, value) {
            build.table(index, *table, *owned);
        }
    }
    for (index, key) in deletes() {
        if let Key::Element(table, set, item) = key
            && !dying.contains(&(*table, set))
            && !dead.contains(table)
        {
            build.element(DELETE, index, (*table, set, *item), None, &[]);
        }
    }
    for (index, key, value) in sets() {
        if let (Key::Element(table, set, item), Value::Element(_)) = (key, value)
            && observed.contains_key(key)
        {
            build.element(DELETE, index, (*table, set, *item), None, &[]);
        }
    }
    for (index, key, value) in sets() {
        match (key, value) {
            (Key::Counter(table, name), Value::Counter) => build.counter(index, *table, name),
            (Key::Set(table, name), Value::Set(kind)) => build.set(index, *table, name, *kind),
            (Key::Chain(table, name), Value::Chain(chain)) => {
                build.chain(index, *table, name, chain, observed.get(key));
            }
            _ => {}
        }
    }
    for (index, key, value) in sets() {
        if let (Key::Element(table, set, item), Value::Element(verdict)) = (key, value) {
            let named = Key::Set(*table, Name::clone(set));
            let kind = made
                .get(&named)
                .copied()
                .or_else(|| set_type(observed.get(&named)?));
            let said = kind.map_or_else(Vec::new, said);
            build.element(ADD, index, (*table, set, *item), verdict.as_ref(), &said);
        }
    }
    for (index, key, value) in sets() {
        if let (Key::Chain(table, name), Value::Chain(chain)) = (key, value) {
            build.rules(index, *table, name, chain);
        }
    }
    let alive = || deletes().filter(|(_, key)| !dead.contains(&key.table()));
    for (index, key) in alive() {
        if let Key::Chain(table, name) = key {
            build.flush(index, *table, name);
        }
    }
    for (index, key) in alive() {
        if let Key::Chain(table, name) = key {
            build.named(msg::DELCHAIN, index, *table, NFTA_CHAIN_NAME, name);
        }
    }
    for (index, key) in alive() {
        match key {
            Key::Set(table, name) => build.named(msg::DELSET, index, *table, NFTA_SET_NAME, name),
            Key::Counter(table, name) => build.delete_counter(index, *table, name),
            _ => {}
        }
    }
    for (index, key) in deletes() {
        if let Key::Table(table) = key {
            build.push(msg::DELTABLE, 0, index, *table, |_| {});
        }
    }
    build.messages
}

fn set_type(value: &Value) -> Option<SetType> {
    match value {
        Value::Set(kind) => Some(*kind),
        _ => None,
    }
}

/// What is done with elements, and with which flags.
const ADD: (u16, u16) = (msg::NEWSETELEM, NLM_F_REPLACE_OR_CREATE);
const DELETE: (u16, u16) = (msg::DELSETELEM, 0);

struct Builder {
    messages: Vec<Message>,
    single: bool,
    set_id: u32,
}

impl Builder {
    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        index: usize,
        table: Table,
        rest: impl FnOnce(&mut Writer),
    ) {
        let mut writer = Writer::default();
        writer.string(NFTA_TABLE, TABLE);
        rest(&mut writer);
        self.messages.push(Message {
            kind,
            flags,
            family: family(table),
            body: writer.finish(),
            changes: vec![index],
        });
    }

    fn named(&mut self, kind: u16, index: usize, table: Table, attribute: u16, name: &str) {
        self.push(kind, 0, index, table, |to| to.string(attribute, name));
    }

    fn table(&mut self, index: usize, table: Table, owned: bool) {
        let flags = if owned {
            NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST
        } else {
            0
        };
        self.push(msg::NEWTABLE, NLM_F_REPLACE_OR_CREATE, index, table, |to| {
            to.be32(NFTA_TABLE_FLAGS, flags);
        });
    }

    fn counter(&mut self, index: usize, table: Table, name: &str) {
        self.push(msg::NEWOBJ, NLM_F_REPLACE_OR_CREATE, index, table, |to| {
            to.string(NFTA_OBJ_NAME, name);
            to.be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
            to.nest(NFTA_OBJ_DATA, |_| {});
        });
    }

    fn delete_counter(&mut self, index: usize, table: Table, name: &str) {
        self.push(msg::DELOBJ, 0, index, table, |to| {
            to.string(NFTA_OBJ_NAME, name);
            to.be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
        });
    }

    fn set(&mut self, index: usize, table: Table, name: &str, kind: SetType) {
        self.set_id += 1;
        let id = self.set_id;
        self.push(msg::NEWSET, NLM_F_REPLACE_OR_CREATE, index, table, |to| {
            to.string(NFTA_SET_NAME, name);
            to.be32(NFTA_SET_ID, id);
            write_type(to, kind);
        });
    }

    fn chain(
        &mut self,
        index: usize,
        table: Table,
        name: &str,
        chain: &Chain,
        old: Option<&Value>,
    ) {
        // A base chain's place can't be changed; nothing jumps to it.
        if let Some(Value::Chain(old)) = old
            && old.hook != chain.hook
        {
            self.flush(index, table, name);
            self.named(msg::DELCHAIN, index, table, NFTA_CHAIN_NAME, name);
        }
        self.push(msg::NEWCHAIN, NLM_F_REPLACE_OR_CREATE, index, table, |to| {
            to.string(NFTA_CHAIN_NAME, name);
            if let Some(Hook { place, priority }) = chain.hook {
                to.nest(NFTA_CHAIN_HOOK, |to| {
                    to.be32(NFTA_HOOK_HOOKNUM, hook_number(table, place));
                    to.bytes(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
                });
                to.be32(NFTA_CHAIN_POLICY, NF_ACCEPT.cast_unsigned());
                to.string(NFTA_CHAIN_TYPE, "filter");
            }
        });
    }

    fn flush(&mut self, index: usize, table: Table, chain: &str) {
        self.named(msg::DELRULE, index, table, NFTA_RULE_CHAIN, chain);
    }

    fn rules(&mut self, index: usize, table: Table, name: &str, chain: &Chain) {
        self.flush(index, table, name);
        for rule in &chain.rules {
            let flags = NLM_F_REPLACE_OR_CREATE | NLM_F_APPEND;
            self.push(msg::NEWRULE, flags, index, table, |to| {
                to.string(NFTA_RULE_CHAIN, name);
                to.nest(NFTA_RULE_EXPRESSIONS, |to| {
                    for expression in compile(rule) {
                        to.nest(NFTA_LIST_ELEM, |to| expression.write(to));
                    }
                });
            });
        }
    }

    /// Adds an element to the last message if that is for the same set and
    /// has room, else begins one.
    fn element(
        &mut self,
        (kind, flags): (u16, u16),
        index: usize,
        (table, set, item): (Table, &Name, Item),
        verdict: Option<&Verdict>,
        said: &[Expression],
    ) {
        let mut elements = Writer::default();
        write_item(&mut elements, item, verdict, said);
        let elements = elements.finish();
        let mut head = Writer::default();
        head.string(NFTA_TABLE, TABLE);
        head.string(NFTA_SET_ELEM_LIST_SET, set);
        let start = head.len();
        let head = head.finish();
        if !self.single
            && let Some(last) = self.messages.last_mut()
            && last.kind == kind
            && last.family == family(table)
            && last.body.len() < start + ELEMENTS
            && last.body.starts_with(&head)
        {
            last.body.extend_from_slice(&elements);
            last.changes.push(index);
            // The list's own header, which is behind the head.
            let length = u16::try_from(last.body.len() - start).unwrap_or(u16::MAX);
            if let Some(field) = last.body.get_mut(start..start + 2) {
                field.copy_from_slice(&length.to_ne_bytes());
            }
            return;
        }
        let mut body = Writer::default();
        body.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |_| {});
        let mut body = [head, body.finish(), elements].concat();
        let length = u16::try_from(body.len() - start).unwrap_or(u16::MAX);
        if let Some(field) = body.get_mut(start..start + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.messages.push(Message {
            kind,
            flags,
            family: family(table),
            body,
            changes: vec![index],
        });
    }
}

/// The number of a place.
pub(crate) fn hook_number(table: Table, place: Place) -> u32 {
    match (table, place) {
        (Table::Inet, Place::Prerouting) => hook::PRE_ROUTING,
        (Table::Inet, Place::Input) => hook::LOCAL_IN,
        (Table::Inet, Place::Forward) => hook::FORWARD,
        (Table::Inet, Place::Output) => hook::LOCAL_OUT,
        // ARP is neither routed nor passed on.
        (Table::Arp, Place::Output) => hook::ARP_OUT,
        (Table::Arp, _) => hook::ARP_IN,
    }
}

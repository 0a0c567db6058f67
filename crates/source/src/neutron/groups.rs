//! What is held of groups so that differences can be applied to them. Pure.
//!
//! A group's members and an address group's addresses are told by difference
//! (docs/neutron-wire.md, "Differences"). The digest of a group has a sum over
//! its elements in it, so that whoever applies differences knows whether they
//! ended where the server is, in whichever order they came.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use l2isolate_model::document::ObjectId;
use ring::digest;
use serde_json::{Map, Value};

use crate::Stamp;

/// Groups and address groups, as far as they are known in a form that
/// differences can be applied to.
#[derive(Debug, Default)]
pub(crate) struct Groups(BTreeMap<ObjectId, Held>);

#[derive(Debug)]
struct Held {
    /// All fields but the elements.
    fields: Map<String, Value>,
    /// When these were read.
    fields_at: Timestamp,
    /// The digest's part that is about them.
    head: String,
    /// The elements' texts.
    elements: BTreeSet<Box<str>>,
    /// The digest's part that is about these.
    sum: u128,
    /// The newest that was heard of it.
    newest: Stamp,
}

/// What is told of a group that may be known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    pub(crate) id: ObjectId,
    pub(crate) stamp: Stamp,
    /// Elements that are there, and such that aren't.
    pub(crate) added: BTreeSet<Box<str>>,
    pub(crate) removed: BTreeSet<Box<str>>,
    /// All other fields, if they are told.
    pub(crate) fields: Option<Map<String, Value>>,
}

/// What a difference comes to.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Nothing is new.
    Same,
    /// The group as it is now, and its stamp.
    Now(Map<String, Value>, Stamp),
    /// It isn't known, or something is missing: it is to be asked for, among
    /// others by everybody else who has it with so many elements.
    Doubtful(usize),
}

impl Groups {
    /// The list of a kind of objects that is told by difference.
    pub(crate) fn list(id: &ObjectId) -> Option<&'static str> {
        match id {
            ObjectId::Group(_) => Some("members"),
            ObjectId::AddressGroup(_) => Some("addresses"),
            ObjectId::Port(_) | ObjectId::Subnet(_) => None,
        }
    }

    /// An object is known, whole. What can't be followed isn't kept: the first
    /// difference has it asked for.
    pub(crate) fn set(&mut self, id: &ObjectId, stamp: &Stamp, mut fields: Map<String, Value>) {
        self.0.remove(id);
        let Some(list) = Self::list(id) else { return };
        let Some((head, _)) = stamp.digest.split_once('-') else {
            return;
        };
        let elements = fields.remove(list);
        let elements = elements.as_ref().and_then(Value::as_array);
        let elements: BTreeSet<_> = elements.into_iter().flatten().filter_map(text).collect();
        let held = Held {
            sum: elements
                .iter()
                .map(|e| share(e))
                .fold(0, u128::wrapping_add),
            head: head.to_owned(),
            fields,
            fields_at: stamp.read_at,
            elements,
            newest: stamp.clone(),
        };
        if held.digest() == stamp.digest {
            self.0.insert(id.clone(), held);
        }
    }

    /// It isn't known any more.
    pub(crate) fn remove(&mut self, id: &ObjectId) {
        self.0.remove(id);
    }

    /// Groups and address groups that the rules of groups in use name. Of those
    /// that are only named the rules are nobody's here.
    pub(crate) fn named(&self, in_use: &BTreeSet<ObjectId>) -> BTreeSet<ObjectId> {
        let held = in_use.iter().filter_map(|id| self.0.get(id));
        let rules = held.filter_map(|held| held.fields.get("rules"));
        let rules = rules.filter_map(Value::as_array).flatten();
        let named = rules.flat_map(|rule| {
            let id = |list, field| {
                let id = rule.get(field).and_then(Value::as_str);
                id.and_then(|id| ObjectId::in_list(list, id))
            };
            [
                id("groups", "remote_group"),
                id("address_groups", "remote_address_group"),
            ]
        });
        named.flatten().collect()
    }

    /// Applies a difference.
    pub(crate) fn apply(&mut self, told: Difference) -> Outcome {
        let Some(held) = self.0.get_mut(&told.id) else {
            return Outcome::Doubtful(0);
        };
        let before = held.digest();
        // What is held was handed out only if it ended where it should.
        let handed_out = before == held.newest.digest;
        for element in told.removed {
            if held.elements.remove(&element) {
                held.sum = held.sum.wrapping_sub(share(&element));
            }
        }
        for element in told.added {
            let its = share(&element);
            if held.elements.insert(element) {
                held.sum = held.sum.wrapping_add(its);
            }
        }
        if let Some(fields) = told.fields
            && told.stamp.read_at > held.fields_at
            && let Some((head, _)) = told.stamp.digest.split_once('-')
        {
            held.fields = fields;
            held.fields_at = told.stamp.read_at;
            head.clone_into(&mut held.head);
        }
        if told.stamp.read_at > held.newest.read_at {
            held.newest = told.stamp;
        }
        let now = held.digest();
        if now != held.newest.digest {
            return Outcome::Doubtful(held.elements.len());
        }
        if handed_out && now == before {
            return Outcome::Same;
        }
        let mut object = held.fields.clone();
        if let Some(list) = Self::list(&told.id) {
            let elements = held.elements.iter().map(|text| value(list, text));
            object.insert(list.to_owned(), elements.collect());
        }
        Outcome::Now(object, held.newest.clone())
    }
}

impl Held {
    fn digest(&self) -> String {
        format!("{}-{:032x}", self.head, self.sum)
    }
}

/// An element's share in the sum.
fn share(element: &str) -> u128 {
    let hash = digest::digest(&digest::SHA256, element.as_bytes());
    let first = hash.as_ref().first_chunk().copied();
    u128::from_be_bytes(first.unwrap_or_default())
}

/// The text of an element: of a member address and MAC, or an address.
pub(crate) fn text(element: &Value) -> Option<Box<str>> {
    if let Value::String(address) = element {
        return Some(address.as_str().into());
    }
    let address = element.get("address")?.as_str()?;
    let mac = element.get("mac").and_then(Value::as_str);
    Some(format!("{address} {}", mac.unwrap_or_default()).into())
}

/// The element of a text.
fn value(list: &str, text: &str) -> Value {
    match text.split_once(' ') {
        Some((address, mac)) if list == "members" => {
            let mut member = Map::new();
            member.insert("address".to_owned(), address.into());
            if !mac.is_empty() {
                member.insert("mac".to_owned(), mac.into());
            }
            member.into()
        }
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const A: &str = "10.252.1.10 ";
    const B: &str = "10.252.9.100 fa:16:3e:5a:10:01";

    fn id() -> ObjectId {
        ObjectId::in_list("groups", "g").unwrap()
    }

    fn stamp(second: u32, head: &str, elements: &[&str]) -> Stamp {
        let sum = elements
            .iter()
            .map(|e| share(e))
            .fold(0, u128::wrapping_add);
        Stamp {
            digest: format!("{head}-{sum:032x}"),
            read_at: format!("2026-11-24T16:37:{second:02}Z").parse().unwrap(),
        }
    }

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn difference(stamp: Stamp, added: &[&str], removed: &[&str]) -> Difference {
        let set = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
        Difference {
            id: id(),
            stamp,
            added: set(added),
            removed: set(removed),
            fields: None,
        }
    }

    /// A group with one member and a rule.
    fn groups() -> Groups {
        let mut groups = Groups::default();
        let object = json!({"id": "g", "members": [{"address": "10.252.1.10"}],
            "rules": [{"remote_group": "r"}, {"remote_address_group": "a"}]});
        groups.set(&id(), &stamp(1, "h", &[A]), fields(object));
        groups
    }

    fn members(outcome: Outcome) -> Value {
        match outcome {
            Outcome::Now(object, _) => object["members"].clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The example of docs/neutron-wire.md, which the driver's tests have too.
    #[test]
    fn the_sum_is_the_one_of_the_documentation() {
        let sum = share(A).wrapping_add(share(B));
        assert_eq!(format!("{sum:032x}"), "9af225c5150d19c662c48e7bcae51c84");
    }

    #[test]
    fn members_come_and_go() {
        let mut groups = groups();
        let told = difference(stamp(2, "h", &[A, B]), &[B], &[]);
        let expected = json!([{"address": "10.252.1.10"},
            {"address": "10.252.9.100", "mac": "fa:16:3e:5a:10:01"}]);
        assert_eq!(members(groups.apply(told.clone())), expected);
        assert_eq!(groups.apply(told), Outcome::Same);
        let told = difference(stamp(3, "h", &[B]), &[], &[A]);
        assert_eq!(members(groups.apply(told)).as_array().unwrap().len(), 1);
    }

    /// Two servers that saw each other's changes, and messages that overtook
    /// each other: in the end it is right, and never wrong in between.
    #[test]
    fn the_order_means_nothing() {
        let both = || stamp(3, "h", &[A, B, "c "]);
        let one = difference(both(), &[B], &[]);
        let two = difference(stamp(2, "h", &[A, "c "]), &["c "], &[]);
        for order in [[one.clone(), two.clone()], [two, one]] {
            let mut groups = groups();
            let [first, second] = order;
            groups.apply(first);
            assert_eq!(members(groups.apply(second)).as_array().unwrap().len(), 3);
        }
    }

    /// What was put in while something was missing is handed out once it fits,
    /// also when it is the later message that takes out what was missing.
    #[test]
    fn what_is_right_after_a_doubt_is_handed_out() {
        let mut held = groups();
        let told = difference(stamp(2, "h", &[A, B, "c "]), &["c "], &[]);
        assert_eq!(held.apply(told), Outcome::Doubtful(2));
        let told = difference(stamp(3, "h", &[A, "c "]), &[], &[B]);
        let outcome = members(held.apply(told.clone()));
        assert_eq!(outcome.as_array().unwrap().len(), 2);
        assert_eq!(held.apply(told), Outcome::Same);
    }

    /// Only rules of groups that ports here have matter: whom others name nobody
    /// asks for.
    #[test]
    fn rules_of_groups_that_are_only_named_name_nobody() {
        let groups = groups();
        assert_eq!(groups.named(&BTreeSet::from([id()])).len(), 2);
        let other = ObjectId::in_list("groups", "other").unwrap();
        assert!(groups.named(&BTreeSet::from([other])).is_empty());
    }

    #[test]
    fn what_is_missing_is_noticed() {
        let mut held = groups();
        let told = difference(stamp(3, "h", &[A, B, "c "]), &["c "], &[]);
        assert_eq!(held.apply(told), Outcome::Doubtful(2));
        // A rule that was missed.
        let told = difference(stamp(4, "other", &[A, B, "c "]), &[B], &[]);
        assert_eq!(held.apply(told), Outcome::Doubtful(3));
        let mut unknown = difference(stamp(4, "h", &[]), &[], &[]);
        unknown.id = ObjectId::in_list("groups", "x").unwrap();
        assert_eq!(held.apply(unknown), Outcome::Doubtful(0));
        // One of whose digest nothing can be made.
        let whole = fields(json!({"members": [{"address": "10.252.1.10"}]}));
        held.set(&id(), &stamp(5, "h", &[]), whole);
        let told = difference(stamp(6, "h", &[A]), &[A], &[]);
        assert_eq!(held.apply(told), Outcome::Doubtful(0));
    }

    #[test]
    fn rules_are_replaced_by_newer_ones_only() {
        let mut groups = groups();
        let used = BTreeSet::from([id()]);
        let named: Vec<_> = groups
            .named(&used)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(named, ["group r", "address group a"]);
        let mut told = difference(stamp(3, "new", &[A]), &[], &[]);
        told.fields = Some(fields(json!({"id": "g", "rules": []})));
        let Outcome::Now(object, _) = groups.apply(told) else {
            panic!();
        };
        assert_eq!(object["rules"], json!([]));
        assert!(groups.named(&used).is_empty());
        let mut old = difference(stamp(2, "old", &[A]), &[], &[]);
        old.fields = Some(fields(json!({"id": "g", "rules": [{"remote_group": "r"}]})));
        assert_eq!(groups.apply(old), Outcome::Same);
    }
}

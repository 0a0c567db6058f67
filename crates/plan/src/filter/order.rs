//! What the reconcile engine must know of the firewall's objects.
//!
//! A batch is one transaction, so there is no half-way; the order only has to
//! name things before they are used.

use l2isolate_model::{
    AddressGroupId, GroupId, IfName,
    filter::{Key, Value},
};
use l2isolate_reconcile::Rules;

use super::Profile;

/// Who wants objects of the firewall: the unit that is planned as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// What all ports share.
    Base,
    /// A tap, with the port on it.
    Tap(IfName),
    /// The chains of ports with the same groups.
    Profile(Profile),
    /// A security group's chains.
    Group(GroupId),
    /// A security group's members.
    Members(GroupId),
    /// An address group.
    Addresses(AddressGroupId),
    /// Addresses whose flows are still to be ended.
    Left,
    /// Hosts from which something may come by the tunnel.
    Peers,
}

/// The rules for objects of the firewall.
#[derive(Debug)]
pub enum FilterRules {}

impl Rules for FilterRules {
    type Key = Key;
    type Value = Value;
    type Owner = Owner;

    fn satisfies(desired: &Value, observed: &Value) -> bool {
        desired == observed
    }

    fn deletable(_: &Key) -> bool {
        // Our tables are ours, whole.
        true
    }

    fn order(key: &Key, _: Option<&Value>) -> u8 {
        match key {
            Key::Table(_) => 0,
            Key::Counter(..) => 1,
            Key::Set(..) => 2,
            Key::Chain(..) => 3,
            Key::Element(..) => 4,
        }
    }

    fn may_wait(_: &Key, _: &Value) -> bool {
        false
    }

    fn waits_for(_: &Key, _: &Value, _: &Key) -> bool {
        false
    }
}

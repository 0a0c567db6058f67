//! In which order what guests are told is written.

use l2isolate_model::{
    IfName,
    guest::{Key, Service, Value},
};
use l2isolate_reconcile::Rules;

/// Who wants objects: the unit that is planned as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The host itself.
    Host,
    /// A tap, with the port on it.
    Tap(IfName),
    /// What the metadata proxy knows of a tap: it depends on the device too.
    Metadata(IfName),
}

/// The rules for what guests are told.
#[derive(Debug)]
pub enum GuestRules {}

impl Rules for GuestRules {
    type Key = Key;
    type Value = Value;
    type Owner = Owner;

    fn satisfies(desired: &Value, observed: &Value) -> bool {
        desired == observed
    }

    /// All of it is ours: directories of our own, a process of our own.
    fn deletable(_: &Key) -> bool {
        true
    }

    /// A host line is what has a guest served: it comes when all that belongs
    /// to it is there, and goes first. A server that starts finds all files.
    fn order(key: &Key, _: Option<&Value>) -> u8 {
        match key {
            Key::File(Service::Options | Service::Metadata, _) => 0,
            Key::File(Service::Hosts, _) => 1,
            Key::Server => 2,
            Key::StaleLease(..) => 3,
        }
    }

    fn may_wait(_: &Key, _: &Value) -> bool {
        false
    }

    fn waits_for(_: &Key, _: &Value, _: &Key) -> bool {
        false
    }
}

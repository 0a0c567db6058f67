//! What the kernel shows: everything at once, and change by change.

use std::collections::BTreeMap;

use l2isolate_model::{
    IfName,
    desired::{Key, Objects, Value},
    tap::Tap,
};

/// Everything, at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Every device whose name a tap could have.
    pub links: BTreeMap<IfName, Tap>,
    /// Settings of the host and of these devices, their hardware addresses,
    /// MTUs and states; and the addresses, neighbour entries and routes that
    /// are ours, and no others.
    pub objects: Objects,
}

/// Something that has changed since the last observation or event.
///
/// Applying all events in order to an [`Observation`] gives the next one,
/// except for settings of which the kernel says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A device is there, or has changed; `None`: it is gone, or is called
    /// otherwise now. Its objects' events follow.
    Link(IfName, Option<Tap>),
    /// An object is now so; `None`: it isn't there, or isn't ours any more.
    Object(Key, Option<Value>),
    /// A device's settings may have changed: see [`crate::Kernel::read_device`].
    SysctlsDirty(IfName),
    /// The host's settings may have changed: see [`crate::Kernel::read_host`].
    HostSysctlsDirty,
}

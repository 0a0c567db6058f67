//! The words that every other part of l2isolate speaks.
//!
//! * [`document`]: the JSON in which intent travels and rests (one schema for
//!   the directory source, the cache on disk and Neutron's messages).
//! * [`intent`]: the store of everything the cloud wants on this host; it
//!   settles conflicts between objects and keeps the last good version of each.
//! * [`desired`]: keys and values of the objects a host shall have.
//! * [`filter`]: the same for its firewall; [`guest`]: for what guests are told.
//! * [`metadata`]: what a guest is told of itself.
//! * [`tap`]: what is known of a tap device.
//!
//! No I/O, no clock, no async: data and its rules. What can break it is a
//! schema change; `docs/intent.schema.json` is generated from here.

pub mod announce;
pub mod desired;
pub mod document;
pub mod filter;
pub mod group;
pub mod guest;
mod id;
mod ifname;
pub mod intent;
mod mac;
pub mod metadata;
pub mod port;
pub mod problem;
pub mod subnet;
pub mod tap;

pub use id::{AddressGroupId, GroupId, IdError, PortId, SubnetId};
pub use ifname::{IfName, IfNameError};
pub use mac::{Mac, MacError};

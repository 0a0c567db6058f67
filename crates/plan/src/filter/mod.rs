//! The firewall: from ports and groups to tables, chains and sets.
//!
//! ```text
//!   base     ── what all share: hooks, maps from taps, limits, the host's services
//!   tap      ── one port: its entries in these maps and sets, its sources
//!   profile  ── the groups that some ports have together, asked one by one
//!   group    ── one security group: its rules merged; its members as sets
//! ```
//!
//! Each of them is planned by itself ([`Owner`]), so a change of one port or
//! group costs what that one costs. [`Planner`] knows which those are; a test
//! holds it to the same as a plan of everything. `docs/filter.md` shows the
//! packet's way.

mod base;
mod config;
mod counters;
mod evaluate;
mod group;
mod left;
mod names;
mod order;
mod peers;
mod planner;
mod profile;
mod ranges;
mod rule;
mod services;
mod tap;

pub use base::base;
pub use config::{FilterConfig, Limits};
pub use counters::Counters;
pub use evaluate::{Packet, Taps, View, would_begin};
pub use left::{address_of, left};
pub use order::{FilterRules, Owner};
pub use peers::peers;
pub use planner::{Plan, Planner};
pub use profile::Profile;
pub use tap::sources;

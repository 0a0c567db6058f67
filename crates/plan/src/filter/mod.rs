//! The firewall: from ports and groups to tables, chains and sets.
//!
//! ```text
//!   base     ── what all share: hooks, maps from taps, the host's services
//!   tap      ── one port: its sources, its limits, the groups that it asks
//!   group    ── one security group: its rules merged; its members as sets
//! ```
//!
//! Each of them is planned by itself ([`Owner`]), so a change of one port or
//! group costs what that one costs. [`Planner`] knows which those are; a test
//! holds it to the same as a plan of everything. `docs/filter.md` shows the
//! packet's way.

mod base;
mod config;
mod evaluate;
mod group;
mod names;
mod order;
mod planner;
mod ranges;
mod rule;
mod tap;

pub use base::plan as base;
pub use config::{FilterConfig, Limits};
pub use evaluate::{Packet, Taps, View, would_begin};
pub use order::{FilterRules, Owner};
pub use planner::{Plan, Planner};
pub use tap::{Counters, sources};

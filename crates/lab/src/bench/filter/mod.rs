//! `bench filter`: what the firewall costs, per change and per packet.
//!
//! * [`changes`]: one port's groups, one member, all of a host, seen by a
//!   listener to nfnetlink from the writing of the intent to the commit.
//! * [`packets`]: how many of the smallest packets pass, beside no filter and
//!   beside the rules of Neutron's linuxbridge agent.
//!
//! Ratios compare things that are measured in turns, in one run.

mod changes;
mod cloud;
pub(super) mod generation;
mod generator;
mod host;
mod linuxbridge;
mod packets;
mod transaction;

use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use crate::{Result, lab::progress};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// All of a host's rules from nothing: `full_s`.
    Full,
    /// One port's groups: `change_ms`.
    Change,
    /// One more member of a large group: `member_ms`.
    Member,
    /// Packets per second beside no filter and on a full host: `filter_ratio`,
    /// `flat_ratio`.
    Packets,
    /// Packets per second beside Neutron's linuxbridge agent, and all of
    /// `packets`: `linuxbridge_ratio`.
    Linuxbridge,
}

impl Part {
    /// All parts.
    const ALL: [Self; 4] = [Self::Full, Self::Change, Self::Member, Self::Linuxbridge];
}

/// So many ports share a group of ten rules: a host of 1,000 ports has 500 rules,
/// as in `flat_ratio`.
const SHARING: usize = 20;

/// What is printed; what wasn't asked for is null.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Changes where tenants' machines share groups.
    #[serde(flatten)]
    pub changes: Changes,
    /// The same where each port has a group of its own: 10,000 rules.
    pub group_each: Changes,
    /// Packets of established flows per second at 1,000 ports of 500 rules, over
    /// one port with one rule.
    pub flat_ratio: Option<f64>,
    /// With groups over no filter.
    pub filter_ratio: Option<f64>,
    /// At 200 ports of 20 rules, over the linuxbridge agent's rules for the same.
    pub linuxbridge_ratio: Option<f64>,
}

/// What changes of the intent cost.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Changes {
    /// One port's groups change: from its document's being renamed into place to
    /// the agent's last commit, as a listener to the kernel hears it.
    pub change_ms: Change,
    /// A member is added to a large group: the transaction. The document with
    /// all its members, which a directory needs and a source of changes doesn't,
    /// is in `besides`.
    pub member_ms: Times,
    /// The other of the two for each.
    pub besides: Besides,
    /// From the start of an agent that finds nothing to the last rule.
    pub full_s: Option<f64>,
}

/// Milliseconds for changes of one port.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Median on the full host.
    pub p50: Option<f64>,
    /// That over the median on the host with few ports.
    pub growth: Option<f64>,
    /// The median while a stranger has a large interval set, over that without.
    pub beside_100k_set: Option<f64>,
}

/// As [`Change`].
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Times {
    /// Median on the full host.
    pub p50: Option<f64>,
    /// That over the median on the host with few ports.
    pub growth: Option<f64>,
}

/// What is no figure by itself, but says what the figures are made of.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Besides {
    /// One port's groups: the transaction alone, from the change's being known
    /// to the kernel's acknowledgement.
    pub change_transaction_ms: Times,
    /// A member of a large group: from the document.
    pub member_from_document_ms: Times,
}

/// Measures `parts`, all if there are none.
///
/// # Errors
/// A host can't be made, or a change doesn't reach the kernel.
pub fn run(agent: &Path, parts: &[Part]) -> Result<Report> {
    let parts = if parts.is_empty() { &Part::ALL } else { parts };
    let mut report = Report::default();
    let packets = |part: &Part| matches!(part, Part::Packets | Part::Linuxbridge);
    if !parts.iter().all(packets) {
        progress(&format!("{SHARING} ports share a group"));
        report.changes = changes::run(agent, parts, SHARING)?;
        progress("each port has a group of its own");
        report.group_each = changes::run(agent, parts, 1)?;
    }
    if parts.iter().any(packets) {
        packets::run(agent, parts.contains(&Part::Linuxbridge), &mut report)?;
    }
    Ok(report)
}

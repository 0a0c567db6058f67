//! One port in the store: what is wanted of it, and what of that is in force.

use std::{net::IpAddr, sync::Arc};

use super::Outcome;
use crate::{
    IfName, PortId, SubnetId,
    document::{Object, ObjectId},
    port::{CheckedPort, Port},
    problem::Problem,
    subnet::Subnet,
};

/// A port and what became of it.
#[derive(Debug, Default)]
pub struct PortEntry {
    /// The newest version that could be read.
    pub(super) wanted: Option<Arc<Port>>,
    /// Where that came from.
    pub(super) origin: Arc<str>,
    /// The newest version that passed its checks: the one in force.
    pub(super) good: Option<Arc<CheckedPort>>,
    /// Why what is newer than `wanted` can't be read.
    pub(super) unreadable: Option<Problem>,
    /// Why `wanted` isn't in force.
    pub(super) failing: Option<Problem>,
    /// Which older port has what this one claims.
    pub(super) conflict: Option<Problem>,
}

impl PortEntry {
    /// The version in force, if it holds all that it claims.
    #[must_use]
    pub fn effective(&self) -> Option<&Arc<CheckedPort>> {
        self.good.as_ref().filter(|_| self.conflict.is_none())
    }

    /// The version in force, or else the newest that could be read.
    #[must_use]
    pub fn port(&self) -> Option<&Arc<Port>> {
        self.good
            .as_ref()
            .map(|good| &good.port)
            .or(self.wanted.as_ref())
    }

    /// What is wrong with it.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.unreadable
            .iter()
            .chain(&self.failing)
            .chain(&self.conflict)
    }

    pub(super) fn claims(&self) -> Vec<Claim> {
        let Some(good) = &self.good else {
            return Vec::new();
        };
        let addresses = good
            .addresses
            .iter()
            .map(|(address, _)| Claim::Address(*address));
        addresses.chain([Claim::Tap(good.port.tap)]).collect()
    }

    /// Of several claimants the smallest has it.
    pub(super) fn seniority<'a>(&self, id: &'a PortId) -> (Option<jiff::Timestamp>, &'a PortId) {
        (self.good.as_ref().map(|good| good.port.created), id)
    }
}

/// What only one port of a host can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    Tap(IfName),
    Address(IpAddr),
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tap(name) => write!(f, "tap {name}"),
            Self::Address(address) => write!(f, "address {address}"),
        }
    }
}

impl PortEntry {
    /// Judges the newest version against its subnets; the last good one stays
    /// where it fails.
    pub(super) fn check(
        &mut self,
        subnet: impl Fn(&SubnetId) -> Option<Arc<Subnet>>,
        outcome: &mut Outcome,
    ) {
        let Some(wanted) = &self.wanted else { return };
        match wanted.check(subnet) {
            Ok(checked) => {
                self.failing = None;
                if self.good.as_deref() != Some(&checked) {
                    self.good = Some(Arc::new(checked));
                    outcome.accepted.push(Object::Port(Arc::clone(wanted)));
                }
            }
            Err((field, reason)) => {
                let problem = Problem {
                    origin: self.origin.to_string(),
                    object: ObjectId::Port(wanted.id.clone()).to_string(),
                    field: field.to_owned(),
                    reason,
                };
                if self.failing.as_ref() != Some(&problem) {
                    outcome.problems.push(problem.clone());
                }
                self.failing = Some(problem);
            }
        }
    }

    /// Returns whether the verdict is another one than before.
    pub(super) fn set_conflict(&mut self, id: &PortId, lost: Option<(String, PortId)>) -> bool {
        let before = self.conflict.is_some();
        self.conflict = lost.map(|(claim, holder)| Problem {
            origin: self.origin.to_string(),
            object: ObjectId::Port(id.clone()).to_string(),
            field: claim.split(' ').next().unwrap_or_default().to_owned(),
            reason: format!("{claim} belongs to port {holder}, which was created first"),
        });
        before != self.conflict.is_some()
    }
}

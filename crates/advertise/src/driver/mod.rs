//! One trait for every way in which prefixes get into BGP, one file for each.
//!
//! A driver speaks with one routing daemon by the interface that the daemon
//! itself has: it applies changes and reads back what came of them. It keeps no
//! state that matters and decides nothing; calls block, at most for
//! [`PATIENCE`] each, so they are made by threads of their own
//! ([`crate::Worker`]).
//!
//! `docs/advertise.md` says how to add one.

mod bird;
mod frr;
mod frr_json;
mod gobgp;
mod gobgp_api;
mod gobgp_watch;
mod kernel;
mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use ipnet::IpNet;
use l2isolate_model::announce::{Announcements, Attributes};

pub use bird::Bird;
pub use frr::Frr;
pub use gobgp::Gobgp;
pub use kernel::Kernel;

/// How long a daemon may take for one answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A change of what is announced.
pub type Change = l2isolate_reconcile::Change<IpNet, Attributes>;

/// What a daemon announces and to whom, read back from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The daemon with its version, such as `FRR 8.4.4`.
    pub daemon: String,
    /// What of its RIB is ours.
    pub rib: Announcements,
    /// What else it brings into BGP itself, such as routes that it picked up
    /// from the kernel.
    pub foreign: Announcements,
    /// Its sessions, by interface, or address where there is none.
    pub peers: BTreeMap<String, Peer>,
}

/// One session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Whether routes are exchanged.
    pub established: bool,
    /// The daemon's own word for its state.
    pub state: String,
    /// The far end's AS, as far as it is known.
    pub remote_as: Option<u32>,
    /// Seconds since it came up, or went down.
    pub seconds: Option<u64>,
    /// Routes that came from there.
    pub received: u64,
    /// What the daemon has sent there of what it brings into BGP itself.
    pub sent: BTreeSet<IpNet>,
    /// What it has sent there that it learned from others. There should be
    /// none: a hypervisor is no way between its switches.
    pub leaked: BTreeSet<IpNet>,
}

/// Why a daemon can't be driven, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// What happened, naming the object.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The daemon isn't there, or not yet.
    Absent,
    /// We may not speak with it.
    Permission,
    /// It is too old for what is asked of it.
    Version,
    /// It refused what was asked.
    Refused,
    /// Its answer isn't understood, or doesn't come.
    Answer,
}

impl Failure {
    pub(crate) fn new(
        kind: FailureKind,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

impl std::error::Error for Failure {}

/// A routing daemon, as it is read back.
pub trait Reader: Send {
    /// Reads back everything.
    ///
    /// # Errors
    /// The daemon can't be asked.
    fn observe(&mut self) -> Result<Observed, Failure>;

    /// Has the daemon send a peer everything once more, without ending the
    /// session.
    ///
    /// # Errors
    /// It can't be asked to.
    fn resend(&mut self, peer: &str) -> Result<(), Failure>;

    /// Where the daemon tells of changes; `None`: it tells nobody, and has to be
    /// asked again and again.
    fn events(&self) -> Option<Box<dyn Events>> {
        None
    }
}

/// A way to get prefixes into BGP.
pub trait Driver: Reader {
    /// Makes the changes, all of them in one go as far as the daemon can; one
    /// result for each, in order. A prefix whose attributes change stays
    /// announced all the while.
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), Failure>>;
}

/// What a daemon tells by itself.
pub trait Events: Send {
    /// Waits, without end, until something has changed of its RIB or its
    /// sessions: a hint to read it back.
    ///
    /// # Errors
    /// It can't be listened to, or no longer.
    fn next(&mut self) -> Result<(), Failure>;
}

/// Which daemon is spoken with, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    /// FRR's bgpd by vtysh.
    Frr(frr::Settings),
    /// BIRD by its control socket and a file that its configuration includes.
    Bird(bird::Settings),
    /// GoBGP by gRPC.
    Gobgp(gobgp::Settings),
}

impl Daemon {
    /// A driver of its own; several side by side do no harm.
    #[must_use]
    pub fn open(&self) -> Box<dyn Driver> {
        match self.clone() {
            Self::Frr(settings) => Box::new(Frr::new(settings)),
            Self::Bird(settings) => Box::new(Bird::new(settings)),
            Self::Gobgp(settings) => Box::new(Gobgp::new(settings)),
        }
    }
}

pub(crate) use bird::PROTOCOLS as BIRD_PROTOCOLS;
pub use bird::Settings as BirdSettings;
pub use frr::Settings as FrrSettings;
pub use gobgp::Settings as GobgpSettings;

/// The same failure for every change.
pub(crate) fn all<T>(changes: &[T], failure: &Failure) -> Vec<Result<(), Failure>> {
    changes.iter().map(|_| Err(failure.clone())).collect()
}

/// Whether a version like `8.4.4` or `2.0.12+git` is at least `least`.
pub(crate) fn is_at_least(version: &str, least: &[u32]) -> bool {
    let numbers = version.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u32> = numbers.map_while(|part| part.parse().ok()).collect();
    numbers.as_slice() >= least
}

#[cfg(test)]
mod tests {
    use super::is_at_least;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_at_least("8.4.4", &[8, 0]));
        assert!(is_at_least("10.0", &[8, 4]));
        assert!(is_at_least("2.0.12-7", &[2, 0, 12]));
        assert!(!is_at_least("7.5.1", &[8, 0]));
        assert!(!is_at_least("2.0.7", &[2, 0, 8]));
        assert!(!is_at_least("", &[1]));
    }
}

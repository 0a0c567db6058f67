//! The kernel's table as the way into BGP: the daemon picks up routes that
//! carry our protocol number and metric ([`crate::Handover`]). Nothing is said
//! to the daemon, so there are no attributes to choose; a daemon that is named
//! is asked what it has made of the routes.

use super::{Change, Daemon, Driver, Failure, FailureKind, Observed};

/// See the module's head.
pub struct Kernel {
    reader: Box<dyn Driver>,
}

impl Kernel {
    /// Routes are announced by `daemon`, by itself.
    #[must_use]
    pub fn new(daemon: &Daemon) -> Self {
        Self {
            reader: daemon.open(),
        }
    }
}

impl Driver for Kernel {
    /// What the daemon picked up is ours here.
    fn observe(&mut self) -> Result<Observed, Failure> {
        let mut observed = self.reader.observe()?;
        let picked_up = std::mem::take(&mut observed.foreign);
        observed.rib.extend(picked_up);
        Ok(observed)
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), Failure>> {
        let failure = |change: &Change| {
            let (state, prefix) = match change {
                Change::Set(prefix, _) => ("has not picked up the route of", prefix),
                Change::Delete(prefix) => ("still announces", prefix),
            };
            Failure::new(
                FailureKind::Refused,
                format!("the routing daemon {state} {prefix}"),
                "look whether its filters are those of docs/hand-over.md, and have it read the \
                 kernel's routes anew (BIRD: `reload in` of its kernel protocol; FRR: restart zebra)",
            )
        };
        changes.iter().map(|change| Err(failure(change))).collect()
    }

    fn resend(&mut self, peer: &str) -> Result<(), Failure> {
        self.reader.resend(peer)
    }
}

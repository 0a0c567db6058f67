//! The kernel's table as the way into BGP: the daemon picks up routes that
//! carry our protocol number and metric ([`crate::Handover`]). Nothing is said
//! to the daemon, so there are no attributes to choose and nothing to apply; a
//! daemon that is named is asked what it has made of the routes.

use super::{Daemon, Events, Failure, Observed, Reader};

/// See the module's head.
pub struct Kernel {
    reader: Box<dyn Reader>,
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

impl Reader for Kernel {
    /// What the daemon picked up is ours here.
    fn observe(&mut self) -> Result<Observed, Failure> {
        let mut observed = self.reader.observe()?;
        let picked_up = std::mem::take(&mut observed.foreign);
        observed.rib.extend(picked_up);
        Ok(observed)
    }

    fn resend(&mut self, peer: &str) -> Result<(), Failure> {
        self.reader.resend(peer)
    }

    fn events(&self) -> Option<Box<dyn Events>> {
        self.reader.events()
    }
}

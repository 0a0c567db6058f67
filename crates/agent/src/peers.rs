//! The hosts at the other end of live migrations: whether they are there at all.
//! It changes nothing of what is done; it is said.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use l2isolate_kernel::Echo;
use l2isolate_model::IfName;

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// So many questions without an answer are a problem.
const PATIENCE: u32 = 5;

/// Who is at the other end, and who was asked.
#[derive(Default)]
pub(crate) struct Peers {
    of: BTreeMap<IfName, IpAddr>,
    asked: BTreeMap<IpAddr, Asked>,
}

struct Asked {
    /// `None`: there is no way to it now.
    echo: Option<Echo>,
    at: Instant,
    times: u32,
    answered: bool,
}

impl Peers {
    /// The host at the other end of that tap's migration, if there is one.
    pub(crate) fn plan(&mut self, tap: IfName, peer: Option<IpAddr>) {
        let before = match peer {
            Some(peer) => self.of.insert(tap, peer),
            None => self.of.remove(&tap),
        };
        if before == peer {
            return;
        }
        if let Some(before) = before.filter(|before| !self.of.values().any(|p| p == before)) {
            self.asked.remove(&before);
        }
    }

    /// Asks who hasn't answered yet, if it is time to.
    pub(crate) fn ask(&mut self, now: Instant) {
        for peer in self.of.values() {
            let asked = self.asked.entry(*peer).or_insert(Asked {
                echo: None,
                at: now,
                times: 0,
                answered: false,
            });
            if asked.answered || (asked.times > 0 && now < asked.at + PAUSE) {
                continue;
            }
            asked.answered = asked.echo.as_ref().is_some_and(Echo::answered);
            if asked.answered {
                asked.echo = None;
                continue;
            }
            if asked.echo.is_none() {
                asked.echo = Echo::open(*peer).ok();
            }
            // What can't be sent isn't answered either.
            if let Some(Err(_)) = asked.echo.as_ref().map(Echo::ask) {
                asked.echo = None;
            }
            (asked.at, asked.times) = (now, asked.times.saturating_add(1));
        }
    }

    /// When to ask next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let open = self.asked.values().filter(|asked| !asked.answered);
        open.map(|asked| asked.at + PAUSE).min()
    }

    /// The host at the other end of that tap's migration, if it doesn't answer.
    pub(crate) fn silent(&self, tap: IfName) -> Option<IpAddr> {
        let peer = self.of.get(&tap)?;
        let asked = self.asked.get(peer)?;
        (!asked.answered && asked.times > PATIENCE).then_some(*peer)
    }
}

//! The firewall as the kernel has it: our two tables of nftables, whole.
//!
//! ```text
//!              ┌── observe ──▶ Objects        all that is in our tables
//!   Nft    ────┼── heard   ──▶ bool           somebody else changed them
//!              └── apply   ◀── [Change]       one transaction
//! ```
//!
//! Nothing outside our tables is ever read for its content or changed. The
//! socket owns the tables where they are made so; strangers then get EPERM,
//! and when it closes the tables stay as they are.
//!
//! What can break it: a kernel that gives a rule back in other instructions
//! than it took; `tests/nft.rs` holds it to that, and to what `nft` makes of
//! the same words ([`text`]).

mod attribute;
mod batch;
mod channel;
mod compile;
mod expression;
mod observe;
mod set;
pub mod text;
mod uapi;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd},
};

use l2isolate_model::filter::{Key, Objects, Table, Value};
use l2isolate_reconcile::Change;

use self::{
    channel::{Channel, Failed, Monitor},
    observe::concerns_us,
};
use crate::{
    error::{ApplyError, Error, Refusal},
    wire::Messages,
};
pub use observe::Counted;
#[cfg(feature = "testing")]
pub(crate) use observe::read_anything;
pub use set::Count;

/// Tries of one batch, each without what was refused before.
const TRIES: usize = 8;

/// The connection to nftables.
pub struct Nft {
    channel: Channel,
    monitor: Monitor,
}

impl std::fmt::Debug for Nft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nft").finish_non_exhaustive()
    }
}

impl Nft {
    /// Opens the sockets, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel has no nftables, or we aren't allowed to.
    pub fn open() -> Result<Self, Error> {
        // Subscribed first: what changes after the first look is heard.
        let monitor = Monitor::open()?;
        Ok(Self {
            channel: Channel::open()?,
            monitor,
        })
    }

    /// Whether this kernel lets tables have an owner and outlive it (6.9).
    #[must_use]
    pub fn can_own() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release
            .split(['.', '-'])
            .map_while(|part| part.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(9))
    }

    /// Everything in our tables.
    ///
    /// # Errors
    /// The kernel doesn't answer.
    pub fn observe(&mut self) -> Result<Objects, Error> {
        observe::observe(&mut self.channel)
    }

    /// What all counters of our tables counted: those with names, and those of
    /// devices in maps and sets.
    ///
    /// # Errors
    /// The kernel doesn't answer.
    pub fn counters(&mut self) -> Result<BTreeMap<Counted, Count>, Error> {
        let mut all = BTreeMap::new();
        for table in Table::ALL {
            observe::counters(&mut self.channel, table, &mut all)?;
        }
        Ok(all)
    }

    /// Takes in what has happened; says whether somebody else changed our
    /// tables, or may have.
    pub fn heard(&mut self) -> bool {
        let own = self.channel.port();
        let mut heard = false;
        loop {
            match self.monitor.next() {
                Ok(Some(datagram)) => {
                    heard |= Messages(datagram).any(|m| m.port != own && concerns_us(&m));
                }
                Ok(None) => return heard,
                Err(error) if channel::overrun(&error) => heard = true,
                Err(_) => return true,
            }
        }
    }

    /// Carries out changes as one transaction. What the kernel refuses is left
    /// out, and the rest tried again: one answer for each change. `observed`
    /// is what is there now.
    pub fn apply(
        &mut self,
        changes: &[Change<Key, Value>],
        observed: &Objects,
    ) -> Vec<Result<(), ApplyError>> {
        let mut left: BTreeMap<usize, &Change<Key, Value>> = changes.iter().enumerate().collect();
        let mut refused: BTreeMap<usize, ApplyError> = BTreeMap::new();
        let mut single = false;
        for _ in 0..TRIES {
            if left.is_empty() {
                break;
            }
            let batch: Vec<_> = left
                .iter()
                .map(|(index, change)| (*index, *change))
                .collect();
            let messages = batch::batch(&batch, observed, single);
            match self.channel.transact(&messages) {
                Ok(()) => {
                    left.clear();
                }
                Err(Failed::Unknown(error)) => {
                    for (index, change) in std::mem::take(&mut left) {
                        let again = std::io::Error::new(error.kind(), error.to_string());
                        refused.insert(index, ApplyError::Io(name(change), again));
                    }
                }
                Err(Failed::Refused(answers)) => {
                    let culprits = culprits(&answers, &messages);
                    let shared = messages.iter().any(|m| m.changes.len() > 1);
                    if shared && !single {
                        // Which of the elements of a message it was isn't said.
                        single = true;
                        continue;
                    }
                    let all: BTreeSet<usize> = left.keys().copied().collect();
                    // The batch as a whole, or nobody that can be left out.
                    let whole = answers.first().map(|(_, refusal)| refusal.clone());
                    let out: BTreeMap<usize, Refusal> = if culprits.is_empty() {
                        all.into_iter()
                            .filter_map(|i| Some((i, whole.clone()?)))
                            .collect()
                    } else {
                        culprits
                    };
                    for (index, refusal) in out {
                        if let Some(change) = left.remove(&index) {
                            refused.insert(index, ApplyError::Refused(name(change), refusal));
                        }
                    }
                }
            }
        }
        for (index, change) in left {
            let never = std::io::Error::other("too much else in the same transaction was refused");
            refused.insert(index, ApplyError::Io(name(change), never));
        }
        (0..changes.len())
            .map(|index| refused.remove(&index).map_or(Ok(()), Err))
            .collect()
    }
}

impl AsFd for Nft {
    /// The monitor's descriptor: readable when [`Nft::heard`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

/// The changes whose messages were refused, each with the first reason.
fn culprits(
    answers: &[(Option<usize>, Refusal)],
    messages: &[batch::Message],
) -> BTreeMap<usize, Refusal> {
    let mut culprits = BTreeMap::new();
    for (index, refusal) in answers {
        let changes = index
            .and_then(|index| messages.get(index))
            .map(|m| &m.changes);
        for change in changes.into_iter().flatten() {
            culprits.entry(*change).or_insert_with(|| refusal.clone());
        }
    }
    culprits
}

fn name(change: &Change<Key, Value>) -> String {
    match change {
        Change::Set(key, _) => key.to_string(),
        Change::Delete(key) => format!("deleting {key}"),
    }
}

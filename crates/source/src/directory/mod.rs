//! Intent from the documents below a directory: the embedded default.
//!
//! * `worker`: the thread, its timers and what it sends.
//! * `watch`: the kernel's hints where something changed.
//! * `scan`, `file`: reading, a file whole or not at all.
//! * `tree`: what all files together say of each object.
//! * `ledger`: how that differs from what was told.
//!
//! What can break it: a writer that changes files in place (half a document is
//! never valid JSON; what was known of it stays), a file system without inotify
//! (it is compared at intervals), a directory that disappears (nothing is gone
//! then: the source is away).

mod file;
mod ledger;
pub(crate) mod scan;
mod tree;
mod watch;
mod worker;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use l2isolate_model::document::ObjectId;

pub use worker::{Error, Handle, spawn};

/// How to read a directory.
#[derive(Debug, Clone)]
pub struct Options {
    /// Documents are the `*.json` files below it.
    pub directory: PathBuf,
    /// Objects known from the cache. Those that the directory doesn't have
    /// count as vanished at its first complete reading.
    pub known: BTreeSet<ObjectId>,
    /// How long deletions are held when more than half of the ports vanish;
    /// zero: not at all.
    pub grace: Duration,
    /// How far back ports that vanished count as "at once".
    pub window: Duration,
    /// How long a file has to be gone before its objects are: editors and
    /// scripts replace a file by removing it first.
    pub settle: Duration,
    /// How often the directory is compared with what was read, beside the
    /// kernel's events: for file systems that have none.
    pub rescan: Duration,
    /// Largest document in bytes.
    pub file_size: u64,
    /// How many levels of directories are read.
    pub depth: usize,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            known: BTreeSet::new(),
            grace: Duration::from_secs(300),
            window: Duration::from_secs(10),
            settle: Duration::from_millis(50),
            rescan: Duration::from_secs(30),
            file_size: 64 << 20,
            depth: 16,
        }
    }
}

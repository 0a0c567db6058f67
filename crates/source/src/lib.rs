//! Where intent comes from, and where the last of it rests.
//!
//! * [`directory`](spawn): documents below a directory, watched; the embedded
//!   default. A thread of its own reads them and sends [`Update`]s.
//! * [`guard`]: holds deletions when most ports vanish at once.
//! * [`cache`]: the last intent on disk, one file per object.
//!
//! Clocks live here, so that planning needs none. What can break it: a writer
//! that changes files in place (half of a file is never valid JSON, and what
//! was known of it stays), a file system without inotify (it is read anew at
//! intervals), and a directory that disappears (nothing is gone then: the
//! source is away).

pub mod cache;
mod directory;
mod file;
pub mod guard;
mod ledger;
mod scan;
mod update;
mod watch;
mod worker;

pub use update::{Availability, Held, Options, State, Update};
pub use worker::{Error, Handle, spawn};

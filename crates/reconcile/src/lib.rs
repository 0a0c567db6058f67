//! Makes what is observed what is desired, one object at a time.
//!
//! The engine holds two maps and always knows the keys in which they differ:
//!
//! ```text
//!   want(owner, objects) ──▶ desired ─┐
//!                                     ├─▶ pending ──next()──▶ changes ──▶ backend
//!   observe(key, value)  ──▶ observed ┘                                     │
//!            ▲                          done(change, result) ◀──────────────┘
//!            └── events, and a full observation now and then
//! ```
//!
//! It knows nothing of what the objects are: order, equality and what may be
//! deleted come from [`Rules`]. It does no I/O and reads no clock, so every
//! interleaving of changes, events and failures can be tested.
//!
//! * One object that fails is tried again later, and later still; it never
//!   holds up another, except those that [`Rules::waits_for`] names.
//! * An object that somebody else keeps changing back is mended at once a few
//!   times, then more and more slowly (up to a second): a fight costs little.
//! * While deletions are held nothing is deleted, whatever is desired.
//! * The cost of a call depends on the objects it names, not on all there are;
//!   only [`Reconciler::observe_all`] looks at everything.

mod pace;
mod reconciler;

pub use pace::Failure;
pub use reconciler::{Change, Difference, Reconciler, Totals};

use std::fmt::Debug;

/// Place of what is set when all deletions are done.
pub const LAST: u8 = u8::MAX;

/// What the engine must know of the objects it reconciles.
pub trait Rules {
    /// Names an object.
    type Key: Ord + Clone + Debug;
    /// What an object is.
    type Value: Clone + PartialEq + Debug;
    /// Who wants objects, such as a device whose port is planned as a whole.
    type Owner: Ord + Clone + Debug;

    /// Whether `observed` is good enough for `desired`.
    fn satisfies(desired: &Self::Value, observed: &Self::Value) -> bool;

    /// Whether an object that nobody wants is to be deleted. Only for keys of
    /// which every observed object is ours.
    fn deletable(key: &Self::Key) -> bool;

    /// Place in a batch: smaller is set earlier, and deleted later. Sets come
    /// before deletions (make before break), but those of [`LAST`] after them.
    fn order(key: &Self::Key, desired: Option<&Self::Value>) -> u8;

    /// Whether setting `key` to `desired` may have to wait at all. Asked first,
    /// since looking for what it waits for looks at all that its owner wants.
    fn may_wait(_key: &Self::Key, _desired: &Self::Value) -> bool {
        true
    }

    /// Whether setting `key` to `desired` has to wait until `other`, wanted by
    /// the same owner, is in place.
    fn waits_for(key: &Self::Key, desired: &Self::Value, other: &Self::Key) -> bool;
}

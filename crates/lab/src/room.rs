//! Room in the machine's neighbour tables, for tests.
//!
//! The tables are one for all namespaces, with 1,024 entries of each family
//! unless the machine says otherwise, and every device that is up has some for
//! multicast. A test with hundreds of devices fills them, and then others'
//! guests can't find each other. So such a test takes the room alone.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static ROOM: RwLock<()> = RwLock::new(());

/// Holds a place, or all of them, until dropped.
#[derive(Debug, Default)]
#[must_use]
pub struct Room {
    _place: Option<RwLockReadGuard<'static, ()>>,
    _all: Option<RwLockWriteGuard<'static, ()>>,
}

/// Waits for a place beside others of this process. A thread takes only one.
pub fn shared() -> Room {
    Room {
        _place: Some(ROOM.read().unwrap_or_else(PoisonError::into_inner)),
        ..Room::default()
    }
}

/// Waits until nobody else of this process has a place.
pub fn whole() -> Room {
    Room {
        _all: Some(ROOM.write().unwrap_or_else(PoisonError::into_inner)),
        ..Room::default()
    }
}

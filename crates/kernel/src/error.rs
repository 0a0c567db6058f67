//! What can go wrong, in words that name the object.

use std::io;

use l2isolate_model::desired::{Key, Value};
use l2isolate_reconcile::Change;
use nix::errno::Errno;

/// The kernel can't be talked to, or doesn't answer a question.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket can't be made or used.
    #[error("netlink: {0}: {1}")]
    Socket(&'static str, #[source] io::Error),
    /// The kernel refuses a question.
    #[error("netlink: {0}: {1}")]
    Refused(&'static str, Refusal),
    /// What was read changed under the reading, each time it was tried.
    #[error("netlink: {0}: changes faster than it can be read; try again later")]
    Unstable(&'static str),
}

/// Events were lost, or what they mean isn't known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("kernel events were lost; only observing everything shows what is there now")]
pub struct Lost;

/// The kernel's "no": the error number, and what its extended acknowledgement
/// says (`NLMSGERR_ATTR_MSG`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// The kernel's own words; may be empty.
    pub detail: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.errno.desc(), self.errno)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// Why a change was not made. Each names the object.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The device, or the file below /proc/sys, isn't there.
    #[error("{0}: isn't there: the device is gone, or this kernel or namespace doesn't have it")]
    Absent(String),
    /// The kernel says no.
    #[error("{0}: {1}")]
    Refused(String, Refusal),
    /// The kernel gave no answer that could be read; whether the change was
    /// made is unknown.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

impl ApplyError {
    /// The kernel's answer to a change, told by what it means.
    pub(crate) fn refused(change: &Change<Key, Value>, refusal: Refusal) -> Self {
        match refusal.errno {
            Errno::ENODEV | Errno::ENXIO => Self::Absent(describe(change)),
            _ => Self::Refused(describe(change), refusal),
        }
    }

    /// A file's error.
    pub(crate) fn file(change: &Change<Key, Value>, error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => Self::Absent(describe(change)),
            Some(errno) => Self::Refused(
                describe(change),
                Refusal {
                    errno,
                    detail: String::new(),
                },
            ),
            None => Self::Io(describe(change), error),
        }
    }
}

/// A change as its error names it: `route 10.0.0.5/32 metric 5 dev tap1234`.
pub(crate) fn describe(change: &Change<Key, Value>) -> String {
    match change {
        Change::Set(key @ (Key::Route(..) | Key::Delivery(_)), value) => format!("{key} {value}"),
        Change::Set(key @ (Key::Address(..) | Key::TunnelRule(_)), _) => key.to_string(),
        Change::Set(key, value) => format!("{key} = {value}"),
        Change::Delete(key) => format!("deleting {key}"),
    }
}

//! The agent's Unix socket: who may connect may ask, and let go what is held.
//!
//! One JSON object on a line asks, one on a line answers, then the connection
//! ends. The socket's permissions (0660) say who may.

pub(crate) mod client;
pub(crate) mod server;

use l2isolate_model::{IfName, PortId};
use l2isolate_plan::migration::State;
use serde::{Deserialize, Serialize};

/// Longest request, in bytes with its newline.
const MAX_REQUEST: u64 = 4096;

/// A question to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub(crate) enum Request {
    /// [`crate::report::StatusReport`].
    Status,
    /// A list of [`crate::report::PortReport`].
    Ports,
    /// A list of [`crate::report::DifferenceReport`].
    Diff,
    /// Let the deletions go that are held. Answers how many ports they are of.
    Release,
    /// Compare kernel, routing daemon and what each switch was sent, now:
    /// [`crate::announcer::report::VerifyReport`].
    Verify,
    /// Mark all that is announced, so that others prefer any other way.
    Drain {
        /// How often the own AS is prepended.
        #[serde(default)]
        prepend: u8,
    },
    /// Take the mark back.
    Undrain,
    /// The hypervisor says what has become of a guest that leaves by live
    /// migration: a list of [`Followed`].
    Guest {
        /// What.
        event: Event,
        /// Of whom.
        subject: Subject,
    },
    /// The firewall in the words of `nft`.
    ShowNft {
        /// Only this port's part.
        #[serde(default)]
        port: Option<PortId>,
    },
}

/// What becomes of a guest at the source of its live migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// It has stopped, and goes on elsewhere.
    Stopped,
    /// It goes on here after all.
    Resumed,
}

/// Which ports are spoken of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Subject {
    /// That of a tap.
    Tap(IfName),
    /// One by its identifier.
    Port(PortId),
    /// All of an instance, which is libvirt's UUID of the domain.
    Instance(String),
}

/// A port of which the hypervisor has said something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Followed {
    /// Its tap.
    pub(crate) tap: IfName,
    /// Its state by now, in the words of docs/migration.md.
    pub(crate) migration: String,
}

impl Followed {
    /// That port is in that state.
    pub(crate) fn new(tap: IfName, state: State) -> Self {
        Self {
            tap,
            migration: state.word().to_owned(),
        }
    }
}

/// The agent's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// What was asked for.
    Ok(serde_json::Value),
    /// Why not.
    Error(String),
}

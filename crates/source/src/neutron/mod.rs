//! Intent from a neutron-server with the mechanism driver `l2isolate`, over
//! RabbitMQ (docs/neutron-wire.md).
//!
//! ```text
//!   engine ──taps, figures──▶ worker ──report_state, update_device_list──▶ Neutron
//!   engine ◀────Updates────── worker ◀─────── sync, casts ──────────────── driver
//! ```
//!
//! * `worker`, with `handle`, `answers`, `casts` and `telling`: the thread, what
//!   is under way, what comes of it and unasked, what is told of it.
//! * `wire`: what is sent and what is answered.
//! * `ledger`: what is known of Neutron's objects, and how a reply differs.
//! * `devices`: which ports Neutron is to be told of as up or down.
//! * `groups`: groups, so that differences can be applied to them.
//! * `schedule`, `doubts`: when to sync, everything or single objects.
//!
//! All but the first are pure. The server is asked for everything that differs
//! (`sync`). What it tells unasked (casts) comes sooner and changes nothing in
//! that: what is lost or can't be judged is asked for. What the engine tells of its taps
//! is data: which are there, which are wired. Clocks and dice live here.
//!
//! What can break it: the broker or the server away (everything that is known
//! stays in force, and it goes on by itself afterwards); another agent with the
//! same host name (it is named).

mod answers;
mod casts;
mod devices;
mod doubts;
mod groups;
mod handle;
mod ledger;
mod schedule;
mod telling;
mod wire;
mod worker;

use std::time::Duration;

use l2isolate_model::{document::ObjectId, intent::Change};

pub use devices::TapState;
pub use handle::{Error, Handle, spawn};

use crate::Stamp;

/// The agent's type, as Neutron's mechanism driver knows it.
pub const AGENT_TYPE: &str = "L2 isolate agent";

/// How to talk to Neutron.
#[derive(Debug, Clone)]
pub struct Options {
    /// The broker, and the exchange of Neutron's topics.
    pub messaging: l2isolate_oslo::Options,
    /// This host's name, as in `binding:host_id`: nova-compute's `host`.
    pub host: String,
    /// What the cache held.
    pub known: Vec<(ObjectId, Change)>,
    /// The stamps of these.
    pub stamps: Vec<(ObjectId, Stamp)>,
    /// How long deletions are held when more than half of the ports vanish;
    /// zero: not at all.
    pub grace: Duration,
    /// How far back ports that vanished count as "at once".
    pub window: Duration,
    /// How often the server is told that we live (`report_interval`).
    pub report_interval: Duration,
    /// How often the server is asked for what differs, give or take a quarter.
    pub sync_interval: Duration,
    /// How long an answer may take (`rpc_response_timeout`).
    pub timeout: Duration,
    /// What that grows to while the server is overloaded
    /// (`rpc_response_max_timeout`).
    pub max_timeout: Duration,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new(messaging: l2isolate_oslo::Options, host: &str) -> Self {
        Self {
            messaging,
            host: host.to_owned(),
            known: Vec::new(),
            stamps: Vec::new(),
            grace: Duration::from_secs(300),
            window: Duration::from_secs(10),
            report_interval: Duration::from_secs(30),
            sync_interval: Duration::from_secs(300),
            timeout: Duration::from_secs(60),
            max_timeout: Duration::from_secs(600),
        }
    }
}

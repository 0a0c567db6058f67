//! What a source tells.

use jiff::Timestamp;
use l2isolate_model::{document::ObjectId, intent::Change, problem::Problem};
use serde::{Deserialize, Serialize};

/// What became different at the source. Updates are to be taken in the order
/// in which they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Objects that are not as they were told before. One id may come twice: a
    /// good version, then what is wrong with a newer one.
    pub changes: Vec<(ObjectId, Change)>,
    /// What the source knows an object's version by, where it has such a thing:
    /// of those that are set here. To be kept with them.
    pub stamps: Vec<(ObjectId, Stamp)>,
    /// True from the first complete reading on: what has not been named by
    /// then is not wanted.
    pub complete: bool,
    /// How the source is.
    pub state: State,
}

/// By what a source knows a version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Equal digests mean equal objects; what is in it is the source's own affair.
    pub digest: String,
    /// When the source read the object, by its own clock.
    pub read_at: Timestamp,
}

/// How a source is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// Whether it can be read.
    #[serde(flatten)]
    pub availability: Availability,
    /// What is wrong with its files as such, and objects that two files name.
    /// What is wrong with an object comes as a [`Change::Bad`] instead.
    pub problems: Vec<Problem>,
    /// Deletions that are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// What passed between a server and us, where the source is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<Contact>,
}

/// What passed between a server and us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// To whom we are connected; absent: to nobody.
    pub connected: Option<String>,
    /// When the server last told everything that differs.
    pub last_sync: Option<Timestamp>,
    /// When it is to be asked next.
    pub next_sync: Option<Timestamp>,
    /// When it last took our report.
    pub last_report: Option<Timestamp>,
    /// How often it told of a change unasked.
    #[serde(default)]
    pub casts: u64,
    /// Ports whose state it doesn't have from us yet.
    pub unreported: usize,
}

/// Whether a source can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "source")]
pub enum Availability {
    /// Nobody has tried yet.
    #[default]
    Starting,
    /// It was read, and is followed.
    Available {
        /// Since when.
        since: Timestamp,
    },
    /// It can't be read; what was known of it stays in force.
    Away {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: String,
    },
}

/// Deletions that are held since more than half of the ports vanished at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// How many ports.
    pub ports: usize,
    /// How many objects of all kinds.
    pub objects: usize,
    /// When the first of them go, unless they come back or are released.
    pub until: Timestamp,
}

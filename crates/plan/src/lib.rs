//! Every networking decision of l2isolate, as pure functions.
//!
//! ```text
//!   plan(intent, taps, config) ──▶ Desired
//! ```
//!
//! A host's plan is the sum of the plans of its taps ([`tap::plan`]) and of
//! the host itself ([`host::plan`]). No two of them want the same object, so
//! when one tap or port changes it is enough to plan that tap again; [`plan`]
//! over everything says the same, and a test holds the two together.
//!
//! No I/O, no clock, no randomness. [`order::KernelRules`] tells the reconcile
//! engine in which order the objects go into the kernel, and why.

pub mod announce;
pub mod config;
pub mod filter;
pub mod guest;
pub mod host;
pub mod migration;
pub mod order;
pub mod tap;

use std::collections::{BTreeMap, BTreeSet};

use l2isolate_model::{IfName, desired::Objects, intent::Intent, tap::Tap};

pub use config::{Config, Connections, FLOOR_METRIC, Standing, Tunnel};
pub use order::{KernelRules, Owner};

/// A tap, and whether it carries objects of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapView<'a> {
    /// The device.
    pub tap: &'a Tap,
    /// A frame of the guest that is expected here has come, or its routes are
    /// here from such a time; see [`migration`].
    pub seen: bool,
    /// How far the routes of a guest that leaves have come, from 1: the step that
    /// they are at or may take now; see [`migration`].
    pub step: u8,
    /// The guest has stopped here to go on elsewhere, and hasn't been heard since.
    pub stopped: bool,
    /// Addresses or neighbours with our protocol number are on it: it was some
    /// port's tap, whatever the intent says now.
    pub marked: bool,
}

/// What everybody wants: each owner's objects.
pub type Desired = BTreeMap<Owner, Objects>;

/// The whole host's plan.
#[must_use]
pub fn plan(intent: &Intent, taps: &BTreeMap<IfName, TapView<'_>>, config: &Config) -> Desired {
    let named = intent
        .ports()
        .filter_map(|(_, entry)| Some(entry.effective()?.port.tap));
    let all: BTreeSet<IfName> = taps.keys().copied().chain(named).collect();
    let taps = all.into_iter().map(|name| {
        let port = intent.on_tap(name);
        (
            Owner::Tap(name),
            tap::plan(name, taps.get(&name), port.map(AsRef::as_ref), config),
        )
    });
    taps.chain([(Owner::Host, host::plan(intent.ports().len(), config))])
        .filter(|(_, objects)| !objects.is_empty())
        .collect()
}

//! Flows that connection tracking knows, and that today's firewall would not
//! let begin: they are ended, and no others.
//!
//! Level-triggered like everything else: what a change may concern is suspect
//! until it has been looked at after the change was in the kernel, and at the
//! start everything is. So an agent that is killed in between leaves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use ipnet::IpNet;
use l2isolate_kernel::conntrack::{Conntrack, Flow};
use l2isolate_model::{
    IfName,
    filter::{Item, Key, Value},
    port::CheckedPort,
};
use l2isolate_plan::filter::{FilterRules, Packet, Taps, sources, would_begin};
use l2isolate_reconcile::Reconciler;
use tracing::{debug, info, warn};

/// The flows of this host's guests.
pub(crate) struct Flows {
    conntrack: Conntrack,
    taps: Taps,
    known: BTreeMap<IfName, Arc<CheckedPort>>,
    suspects: Suspects,
}

/// Whose flows are to be looked at.
#[derive(Default)]
struct Suspects {
    /// Everybody's.
    all: bool,
    addresses: BTreeSet<IpAddr>,
    prefixes: BTreeSet<IpNet>,
}

impl Suspects {
    fn add(&mut self, net: IpNet) {
        if net.prefix_len() == net.max_prefix_len() {
            self.addresses.insert(net.addr());
        } else {
            self.prefixes.insert(net);
        }
    }

    fn are_none(&self) -> bool {
        !self.all && self.addresses.is_empty() && self.prefixes.is_empty()
    }

    fn concern(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.prefixes.iter().any(|net| net.contains(&address))
    }
}

impl Flows {
    /// Everything is suspect.
    ///
    /// # Errors
    /// The kernel has no connection tracking, or we aren't allowed to use it.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Ok(Self {
            conntrack: Conntrack::open().context("connection tracking can't be opened")?,
            taps: Taps::default(),
            known: BTreeMap::new(),
            suspects: Suspects {
                all: true,
                ..Suspects::default()
            },
        })
    }

    /// A tap's port is this now: what was its, and what is, is suspect.
    pub(crate) fn port(&mut self, tap: IfName, port: Option<&Arc<CheckedPort>>) {
        if let Some(old) = self.known.remove(&tap) {
            self.taps.set(&old, false);
            self.suspect(&old);
        }
        if let Some(new) = port {
            self.taps.set(new, true);
            self.suspect(new);
            self.known.insert(tap, Arc::clone(new));
        }
    }

    fn suspect(&mut self, port: &CheckedPort) {
        for (_, net) in sources(port) {
            self.suspects.add(net);
        }
    }

    /// What judges a tap's packets has changed.
    pub(crate) fn judged_anew(&mut self, tap: IfName) {
        if let Some(port) = self.known.get(&tap).cloned() {
            self.suspect(&port);
        }
    }

    /// Addresses went from a set of peers, or came: of the flows that go on by
    /// now only those of an address that went could be refused.
    pub(crate) fn members_changed(&mut self, changes: &[(Key, Option<Value>)]) {
        for (key, value) in changes {
            if let (Key::Element(_, _, Item::Address(address)), None) = (key, value) {
                self.suspects.addresses.insert(*address);
            }
        }
    }

    /// Looks at the suspects and ends what would not begin today.
    pub(crate) fn sweep(&mut self, firewall: &Reconciler<FilterRules>) {
        if self.suspects.are_none() {
            return;
        }
        let started = Instant::now();
        let Self {
            conntrack,
            taps,
            suspects,
            ..
        } = self;
        let refused = |flow: &Flow| {
            let (source, destination) = (flow.source, flow.destination);
            let ours = taps.knows(source) || taps.knows(destination);
            // An address that nobody here has any more is a suspect by itself.
            let suspect =
                (suspects.all && ours) || suspects.concern(source) || suspects.concern(destination);
            let Flow {
                protocol,
                ports,
                icmp,
                ..
            } = *flow;
            suspect
                && !would_begin(
                    firewall,
                    taps,
                    &Packet {
                        source,
                        destination,
                        protocol,
                        ports,
                        icmp,
                    },
                )
        };
        let ended = conntrack
            .flows(refused)
            .and_then(|flows| conntrack.end(&flows));
        match ended {
            Ok(ended) => {
                *suspects = Suspects::default();
                let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                if ended > 0 {
                    info!(ended, us, "flows that today's rules would refuse");
                } else {
                    debug!(us, "no flow has to be ended");
                }
            }
            Err(problem) => warn!(%problem, "flows can't be looked at; will try again"),
        }
    }
}

//! Flows that connection tracking knows, and that today's firewall would not
//! let begin: they are ended, and no others.
//!
//! Level-triggered like everything else: what a change may concern is suspect
//! until it has been looked at after the change was in the kernel, and at the
//! start everything is. So an agent that is killed in between leaves nothing.
//!
//! An address that has left is another matter: what was its flow may well begin
//! again, but elsewhere. All its flows end here ([`l2isolate_plan::filter::left`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
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

/// Of the agent's time one part in so many goes into looking at flows, at most.
const SHARE: u32 = 10;
/// After a failure the next try is so far away.
const RETRY: Duration = Duration::from_secs(1);

/// The flows of this host's guests.
pub(crate) struct Flows {
    conntrack: Conntrack,
    taps: Taps,
    known: BTreeMap<IfName, Arc<CheckedPort>>,
    suspects: Suspects,
    /// Addresses that have left: whatever the policy says of their flows, these
    /// go on elsewhere.
    left: BTreeSet<IpAddr>,
    /// When they may be looked at next.
    next: Instant,
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
            left: BTreeSet::new(),
            next: Instant::now(),
        })
    }

    /// A tap's port is this now: what was its, and what is, is suspect.
    pub(crate) fn port(&mut self, tap: IfName, port: Option<&Arc<CheckedPort>>) {
        let old = self.known.remove(&tap);
        if let Some(old) = &old {
            self.taps.set(old, false);
            self.suspect(old);
        }
        if let Some(new) = port {
            self.taps.set(new, true);
            self.suspect(new);
            for (_, net) in sources(new) {
                self.left.remove(&net.addr());
            }
            self.known.insert(tap, Arc::clone(new));
        }
        for (address, _) in old.iter().flat_map(|old| &old.addresses) {
            self.has_left(*address);
        }
    }

    /// Its flows are to be ended, unless somebody here has it.
    pub(crate) fn has_left(&mut self, address: IpAddr) {
        if !self.taps.holds(address) {
            self.left.insert(address);
        }
    }

    /// Addresses that have left and whose flows haven't been ended yet.
    pub(crate) fn left(&self) -> &BTreeSet<IpAddr> {
        &self.left
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

    /// When to look at flows; `None`: there is nothing to be looked at.
    pub(crate) fn due(&self) -> Option<Instant> {
        let nothing = self.suspects.are_none() && self.left.is_empty();
        (!nothing).then_some(self.next)
    }

    /// Looks at the suspects and ends what would not begin today.
    pub(crate) fn sweep(&mut self, firewall: &Reconciler<FilterRules>) {
        let started = Instant::now();
        let Self {
            conntrack,
            taps,
            suspects,
            left,
            next,
            ..
        } = self;
        let refused = |flow: &Flow| {
            let (source, destination) = (flow.source, flow.destination);
            if left.contains(&source) || left.contains(&destination) {
                return true;
            }
            let ours = taps.knows(source) || taps.knows(destination);
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
        let took = started.elapsed();
        *next = Instant::now() + took * (SHARE - 1);
        match ended {
            Ok(ended) => {
                *suspects = Suspects::default();
                left.clear();
                let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                if ended > 0 {
                    info!(
                        ended,
                        us, "flows that today's rules would refuse, or whose address has left"
                    );
                } else {
                    debug!(us, "no flow has to be ended");
                }
            }
            Err(problem) => {
                *next = Instant::now() + RETRY;
                warn!(%problem, "flows can't be looked at; will try again");
            }
        }
    }
}

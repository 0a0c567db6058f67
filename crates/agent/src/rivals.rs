//! Other hosts that announce what is announced from here, outside of a migration.
//! It is found out ([`l2isolate_kernel::stray`]) and said, at both hosts; nothing
//! is moved, since neither can know which of them is right.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use l2isolate_kernel::stray::{Strays, provoke};
use l2isolate_model::IfName;
use tracing::{debug, warn};

use crate::config::Config;

/// One address is looked at in this time: switches' processors have better to do
/// than to answer us.
const PACE: Duration = Duration::from_secs(1);
/// Switches that are so many hops away: those of the rack, spines, and what may be
/// above.
const HOPS: std::ops::RangeInclusive<u8> = 1..=4;
/// Packets to each: equal ways are taken by turns.
const TIMES: usize = 2;
/// Who wasn't heard for so long isn't there any more. Whoever hears of another one
/// looks at once, so both hear of each other again and again.
const MEMORY: Duration = Duration::from_secs(30);

/// Looks for others.
pub(crate) struct Rivals {
    strays: Strays,
    uplinks: Vec<IfName>,
    /// What this host is called.
    own: IpAddr,
    guests: Vec<IpNet>,
    /// Addresses that are announced from here alone.
    of: BTreeMap<IfName, BTreeSet<IpAddr>>,
    held: BTreeMap<IpAddr, IfName>,
    /// Whose turn it is: of all, and before them of those that are new or that
    /// another host was heard of.
    all: VecDeque<IpAddr>,
    urgent: VecDeque<IpAddr>,
    next: Instant,
    turn: bool,
    /// Who else announces an address, and when that was heard last.
    heard: BTreeMap<IpAddr, (IpAddr, Instant)>,
}

impl Rivals {
    /// Looks for nobody yet; `None` where it isn't wanted, or can't be: without
    /// uplinks' names there is nowhere to listen, without a loopback no name to give.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn start(config: &Config) -> io::Result<Option<Self>> {
        let own = config.loopbacks.first().map(IpNet::addr);
        let uplinks: Vec<IfName> = config
            .uplinks
            .0
            .iter()
            .filter_map(|n| n.parse().ok())
            .collect();
        let Some(own) = own.filter(|_| config.find_duplicates && !uplinks.is_empty()) else {
            return Ok(None);
        };
        Ok(Some(Self {
            strays: Strays::new()?,
            uplinks,
            own,
            guests: config.guest_prefixes.0.clone(),
            of: BTreeMap::new(),
            held: BTreeMap::new(),
            all: VecDeque::new(),
            urgent: VecDeque::new(),
            next: Instant::now(),
            turn: false,
            heard: BTreeMap::new(),
        }))
    }

    /// What is announced by way of a tap, outside of a migration.
    pub(crate) fn plan(&mut self, tap: IfName, addresses: BTreeSet<IpAddr>) {
        if self
            .of
            .get(&tap)
            .map_or(addresses.is_empty(), |known| *known == addresses)
        {
            return;
        }
        for gone in self.of.remove(&tap).unwrap_or_default() {
            if !addresses.contains(&gone) && self.held.get(&gone) == Some(&tap) {
                self.held.remove(&gone);
                self.heard.remove(&gone);
            }
        }
        for address in &addresses {
            if self.held.insert(*address, tap).is_none() {
                self.urgent.push_back(*address);
                self.all.push_back(*address);
            }
        }
        if !addresses.is_empty() {
            self.of.insert(tap, addresses);
        }
    }

    /// Takes in what was heard.
    pub(crate) fn listen(&mut self) {
        for stray in self.strays.heard() {
            // A guest can say anything from its own address, but nothing from a
            // switch's.
            let forged = self.guests.iter().any(|net| net.contains(&stray.switch));
            if forged || stray.host == self.own || !self.held.contains_key(&stray.address) {
                continue;
            }
            let now = Instant::now();
            let known = self.heard.insert(stray.address, (stray.host, now));
            if known.is_none_or(|(host, _)| host != stray.host) {
                let (address, host) = (stray.address, stray.host);
                warn!(%address, %host, "announced by another host as well");
            }
            if !self.urgent.contains(&stray.address) {
                self.urgent.push_back(stray.address);
            }
        }
    }

    /// Looks at the next address, if it is time to.
    pub(crate) fn look(&mut self, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + PACE;
        // The more of them, the longer until it is the turn of each again.
        let turns = u32::try_from(self.heard.len()).unwrap_or(u32::MAX);
        let memory = MEMORY.saturating_add(PACE.saturating_mul(turns.saturating_mul(4)));
        self.heard
            .retain(|_, (_, at)| now.duration_since(*at) < memory);
        for uplink in &self.uplinks {
            if let Err(error) = self.strays.follow(*uplink) {
                debug!(%uplink, %error, "can't listen for what switches say");
            }
        }
        self.turn = !self.turn;
        let address = match self.turn {
            true => self.one_urgent().or_else(|| self.one_of_all()),
            false => self.one_of_all().or_else(|| self.one_urgent()),
        };
        let Some(address) = address else { return };
        for hops in HOPS.flat_map(|hops| [hops; TIMES]) {
            if let Err(error) = provoke(address, self.own, hops) {
                debug!(%address, hops, %error, "can't look for others that announce it");
                break;
            }
        }
    }

    fn one_urgent(&mut self) -> Option<IpAddr> {
        loop {
            let address = self.urgent.pop_front()?;
            if self.held.contains_key(&address) {
                return Some(address);
            }
        }
    }

    fn one_of_all(&mut self) -> Option<IpAddr> {
        loop {
            let address = self.all.pop_front()?;
            if self.held.contains_key(&address) {
                self.all.push_back(address);
                return Some(address);
            }
        }
    }

    /// When to look next.
    pub(crate) fn due(&self) -> Option<Instant> {
        (!self.held.is_empty()).then_some(self.next)
    }

    /// Who else announces an address of a tap.
    pub(crate) fn found(&self) -> impl Iterator<Item = (IfName, IpAddr, IpAddr)> {
        self.heard.iter().filter_map(|(address, (host, _))| {
            let tap = self.held.get(address)?;
            Some((*tap, *address, *host))
        })
    }

    /// To wait on.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.strays.as_fd()
    }
}

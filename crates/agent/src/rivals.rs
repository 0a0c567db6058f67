//! Other hosts that announce what is announced from here, outside of a migration.
//! It is found out ([`l2isolate_kernel::stray`]) and said, at both hosts; nothing
//! is moved, since neither can know which of them is right.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    ops::Bound,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use l2isolate_kernel::stray::{self, Stray, Strays, provoke};
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
/// After something was shown the next is listened to no sooner: anybody can send what is
/// shown, as much as he likes.
const BREATH: Duration = Duration::from_millis(100);
/// Who wasn't heard for so long isn't there any more. Whoever hears of another one
/// looks at once, so both hear of each other again and again.
const MEMORY: Duration = Duration::from_secs(30);

/// Looks for others.
pub(crate) struct Rivals {
    /// Absent where nothing can be heard; it is tried again and again.
    strays: Option<Strays>,
    /// It has been said that nothing can be heard.
    said: bool,
    /// Nothing is listened to until then: whoever sends much is heard a little.
    deaf: Instant,
    /// What this host is called.
    own: IpAddr,
    guests: Vec<IpNet>,
    /// Addresses that are announced from here alone.
    of: BTreeMap<IfName, BTreeSet<IpAddr>>,
    held: BTreeMap<IpAddr, IfName>,
    /// Whose turn it is: of those that are new or that another host was heard of,
    /// and of all, whose last turn it was.
    urgent: VecDeque<IpAddr>,
    last: Option<IpAddr>,
    next: Instant,
    turn: bool,
    /// Who else announces an address, and when that was heard last.
    heard: BTreeMap<IpAddr, (IpAddr, Instant)>,
}

impl Rivals {
    /// Looks for nobody yet; `None` where it isn't wanted, or can't be: without the
    /// firewall nothing is heard, without a loopback there is no name to give.
    pub(crate) fn start(config: &Config) -> Option<Self> {
        let own = config.loopbacks.first().map(IpNet::addr);
        let own = own.filter(|_| config.strays().is_some())?;
        Some(Self::new(own, config.guest_prefixes.0.clone()))
    }

    fn new(own: IpAddr, guests: Vec<IpNet>) -> Self {
        Self {
            strays: None,
            said: false,
            deaf: Instant::now(),
            own,
            guests,
            of: BTreeMap::new(),
            held: BTreeMap::new(),
            urgent: VecDeque::new(),
            last: None,
            next: Instant::now(),
            turn: false,
            heard: BTreeMap::new(),
        }
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
            }
        }
        if !addresses.is_empty() {
            self.of.insert(tap, addresses);
        }
    }

    /// Takes in what was heard.
    pub(crate) fn listen(&mut self) {
        let now = Instant::now();
        let strays = self.strays.as_mut().filter(|_| self.deaf <= now);
        let Some(heard) = strays.and_then(Strays::heard) else {
            return;
        };
        self.deaf = now + BREATH;
        for stray in heard {
            self.hear(stray, now);
        }
    }

    fn hear(&mut self, stray: Stray, now: Instant) {
        let Stray {
            switch,
            address,
            host,
        } = stray;
        // A guest can say anything from its own address, but nothing from a switch's.
        let forged = self.guests.iter().any(|net| net.contains(&switch));
        if forged || host == self.own || !self.held.contains_key(&address) {
            return;
        }
        let known = self.heard.insert(address, (host, now));
        if known.is_none_or(|(known, _)| known != host) {
            warn!(%address, %host, "announced by another host as well");
        }
        if !self.urgent.contains(&address) {
            self.urgent.push_back(address);
        }
    }

    /// Forgets who wasn't heard for long. The more of them, the longer until it is
    /// the turn of each again.
    fn forget(&mut self, now: Instant) {
        let turns = u32::try_from(self.heard.len()).unwrap_or(u32::MAX);
        let memory = MEMORY.saturating_add(PACE.saturating_mul(turns.saturating_mul(4)));
        self.heard
            .retain(|_, (_, at)| now.duration_since(*at) < memory);
    }

    /// Looks at the next address, if it is time to.
    pub(crate) fn look(&mut self, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + PACE;
        self.forget(now);
        self.listen_if_not_yet();
        let address = self.turn();
        let Some(address) = address else { return };
        for hops in HOPS.flat_map(|hops| [hops; TIMES]) {
            if let Err(error) = provoke(address, self.own, hops) {
                debug!(%address, hops, %error, "can't look for others that announce it");
                break;
            }
        }
    }

    fn listen_if_not_yet(&mut self) {
        if self.strays.is_some() {
            return;
        }
        match Strays::listen() {
            Ok(strays) => self.strays = Some(strays),
            Err(error) if !self.said => {
                self.said = true;
                warn!(
                    %error, group = stray::GROUP,
                    "whether other hosts announce the same guests can't be heard (find_duplicates), \
                     will try again: see whether the kernel has NFLOG, and who else listens to \
                     that group"
                );
            }
            Err(_) => {}
        }
    }

    /// Whose turn it is: one that is urgent and one of all, as far as there are.
    fn turn(&mut self) -> Option<IpAddr> {
        self.turn = !self.turn;
        match self.turn {
            true => self.one_urgent().or_else(|| self.one_of_all()),
            false => self.one_of_all().or_else(|| self.one_urgent()),
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
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.held.range((after, Bound::Unbounded));
        let next = rest.next().or_else(|| self.held.first_key_value());
        self.last = next.map(|(address, _)| *address);
        self.last
    }

    /// When to look next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let next = (!self.held.is_empty()).then_some(self.next);
        let deaf = Some(self.deaf).filter(|until| *until > Instant::now());
        next.into_iter().chain(deaf).min()
    }

    /// Who else announces an address of a tap.
    pub(crate) fn found(&self) -> impl Iterator<Item = (IfName, IpAddr, IpAddr)> {
        self.heard.iter().filter_map(|(address, (host, _))| {
            let tap = self.held.get(address)?;
            Some((*tap, *address, *host))
        })
    }

    /// To wait on; `None` while nothing is listened to.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        let strays = self.strays.as_ref();
        strays
            .filter(|_| self.deaf <= Instant::now())
            .map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 252, 0, last])
    }

    fn rivals(of: &[(&str, &[u8])]) -> Rivals {
        let guests = vec!["10.252.0.0/16".parse().unwrap()];
        let mut rivals = Rivals::new([10, 255, 16, 1].into(), guests);
        for (tap, addresses) in of {
            let addresses = addresses.iter().map(|last| address(*last));
            rivals.plan(tap.parse().unwrap(), addresses.collect());
        }
        rivals
    }

    // Only a switch's word, of an address that is announced from here alone, about
    // another host, is one; who isn't heard again is forgotten, and so is who a
    // guest is gone for.
    #[test]
    fn another_host_is_one_that_a_switch_speaks_of() {
        let mut rivals = rivals(&[("tap1", &[1]), ("tap2", &[2])]);
        let now = Instant::now();
        let (other, own) = (IpAddr::from([10, 255, 16, 2]), rivals.own);
        let stray = |switch: [u8; 4], last, host| Stray {
            switch: switch.into(),
            address: address(last),
            host,
        };
        let spine = [10, 255, 0, 1];
        for nothing in [
            stray([10, 252, 0, 9], 1, other),
            stray(spine, 1, own),
            stray(spine, 3, other),
        ] {
            rivals.hear(nothing, now);
            assert_eq!(rivals.found().count(), 0, "{nothing:?}");
        }
        for last in [1, 2] {
            rivals.hear(stray(spine, last, other), now);
        }
        let found: Vec<_> = rivals.found().collect();
        let tap = |name: &str| name.parse().unwrap();
        assert_eq!(
            found,
            [
                (tap("tap1"), address(1), other),
                (tap("tap2"), address(2), other)
            ]
        );
        rivals.plan(tap("tap1"), BTreeSet::new());
        assert_eq!(rivals.found().count(), 1);
        rivals.forget(now + MEMORY);
        assert_eq!(rivals.found().count(), 1);
        rivals.forget(now + 2 * MEMORY);
        assert_eq!(rivals.found().count(), 0);
    }

    // What is new or suspicious comes soon, and all others by turns all the same.
    #[test]
    fn everybody_has_a_turn() {
        let mut rivals = rivals(&[("tap1", &[1, 2, 3])]);
        let turns = |rivals: &mut Rivals, count| -> BTreeSet<IpAddr> {
            (0..count).filter_map(|_| rivals.turn()).collect()
        };
        assert_eq!(turns(&mut rivals, 6).len(), 3);
        // One that comes and goes takes nobody's turn.
        for _ in 0..9 {
            rivals.plan(
                "tap1".parse().unwrap(),
                BTreeSet::from([address(1), address(3)]),
            );
            let all = BTreeSet::from([1, 2, 3].map(address));
            rivals.plan("tap1".parse().unwrap(), all);
            assert!(rivals.urgent.pop_front().is_some() && rivals.urgent.is_empty());
        }
        assert_eq!(turns(&mut rivals, 3).len(), 3);
        let other = Stray {
            switch: [10, 255, 0, 1].into(),
            address: address(2),
            host: [10, 255, 16, 2].into(),
        };
        for _ in 0..3 {
            rivals.hear(other, Instant::now());
            assert!(turns(&mut rivals, 2).contains(&address(2)));
        }
        rivals.plan("tap1".parse().unwrap(), BTreeSet::from([address(3)]));
        assert_eq!(turns(&mut rivals, 6), BTreeSet::from([address(3)]));
        rivals.plan("tap1".parse().unwrap(), BTreeSet::new());
        assert_eq!((rivals.turn(), rivals.due()), (None, None));
    }
}

//! The host's network configuration as the kernel has it, behind the model's
//! keys and values.
//!
//! ```text
//!              ┌── observe ──▶ Observation          all there is
//!   Kernel ────┼── drain ────▶ [Event]              what has changed since
//!              └── apply ◀──── [Change<Key, Value>] what shall change
//! ```
//!
//! The only place that names netlink messages and files below /proc/sys.
//! Synchronous; nothing waits but for the kernel's own locks. The caller polls
//! the monitor's descriptor ([`AsFd`]).
//!
//! **Ours** is what carries our protocol number: routes of the main table and of
//! the tunnel's (`rtm_protocol`), addresses (`IFA_PROTO`), permanent neighbour entries
//! (`NDA_PROTOCOL`), the tunnel's rules (`FRA_PROTOCOL`). The tunnel device is ours
//! by its name and kind. Nothing else is ever deleted. What is wanted takes its
//! place, though: an address or neighbour entry that somebody else has made
//! becomes ours when it's set, and so does a place in the main table (prefix
//! and metric).
//!
//! **Events** keep what was observed true. When [`Kernel::apply`] returns, all
//! that it caused can be drained at once. What goes without a message (see
//! `mirror.rs`) is told all the same. Settings are the exception: the kernel
//! announces forwarding, `rp_filter` and `proxy_arp`, no others.
//!
//! Needs Linux 5.18, for `IFA_PROTO`. What can break it: events that are lost ([`Lost`]); a thread that calls it
//! from another network namespace than it was opened in, since sockets stay
//! where they were made, but files are those of the calling thread.

mod apply;
pub mod arrival;
pub mod conntrack;
mod decode;
mod echo;
mod encode;
mod error;
mod event;
mod mirror;
mod nflog;
pub mod nft;
pub mod packet;
mod raw;
mod settings;
mod socket;
pub mod stray;
pub mod tap;
#[cfg(feature = "testing")]
pub mod testing;
pub mod traffic;
mod uapi;
mod wire;

use std::{
    collections::HashMap,
    mem,
    os::fd::{AsFd, BorrowedFd},
};

use l2isolate_model::{
    IfName,
    desired::{DELIVERIES, Key, Objects, Value},
};
use nix::errno::Errno;

use crate::{
    decode::Link,
    mirror::Mirror,
    socket::{Monitor, Requests},
    uapi::{AF_INET, AF_INET6, route::RT_TABLE_MAIN},
    wire::{Message, Messages},
};
pub use crate::{
    echo::Echo,
    error::{ApplyError, Error, Lost, Refusal},
    event::{Event, Observation},
};

/// Both address families.
const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];
/// Receive queue for events: some ten thousand routes that BGP puts in at once.
const EVENTS: usize = 16 * 1024 * 1024;

/// How to know what is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Protocol number of our routes, addresses and neighbour entries.
    pub protocol: u8,
}

impl Config {
    /// With that protocol number.
    #[must_use]
    pub const fn new(protocol: u8) -> Self {
        Self { protocol }
    }
}

/// The kernel's network configuration in one network namespace.
pub struct Kernel {
    config: Config,
    requests: Requests,
    monitor: Monitor,
    mirror: Mirror,
    /// Events of our changes that the kernel announces late, or never.
    told: Vec<Event>,
    /// Events were lost, or nothing was observed yet.
    lost: bool,
}

impl Kernel {
    /// Opens the calling thread's network namespace, and subscribes to its
    /// events.
    ///
    /// # Errors
    /// The sockets can't be made.
    pub fn open(config: Config) -> Result<Self, Error> {
        Self::with_queue(config, EVENTS)
    }

    /// The same with another size of the queue in which events wait, in bytes;
    /// what is beyond it is lost.
    ///
    /// # Errors
    /// The sockets can't be made.
    pub fn with_queue(config: Config, bytes: usize) -> Result<Self, Error> {
        Ok(Self {
            monitor: Monitor::open(bytes)?,
            requests: Requests::open()?,
            mirror: Mirror::new(config.protocol),
            told: Vec::new(),
            lost: true,
            config,
        })
    }

    /// Reads everything. Events from before are forgotten; those of changes
    /// while it was read come with the next drain.
    ///
    /// # Errors
    /// The kernel can't be asked, or changes so fast that what it says isn't
    /// consistent. Then events stay lost.
    pub fn observe(&mut self) -> Result<Observation, Error> {
        self.lost = true;
        self.told.clear();
        let listening = self.monitor.discard();
        let mut mirror = Mirror::new(self.config.protocol);
        let mut unheard = Vec::new();
        let mut fill = |messages: &[u8]| {
            for message in Messages(messages) {
                // A dump's messages mean what events mean.
                mirror.take(&message, &mut unheard);
                unheard.clear();
            }
        };
        let links = self.requests.dump("reading links", &encode::get_links())?;
        fill(&links);
        let mut delays = HashMap::new();
        for family in FAMILIES {
            let addresses = encode::get_addresses(family, 0);
            fill(&self.requests.dump("reading addresses", &addresses)?);
            let neighbours = encode::get_neighbours(family);
            fill(
                &self
                    .requests
                    .dump("reading neighbour entries", &neighbours)?,
            );
            for table in [RT_TABLE_MAIN, DELIVERIES] {
                fill(&self.routes(family, table)?);
            }
            let rules = encode::get_rules(family);
            fill(&self.requests.dump("reading rules", &rules)?);
            let tables = encode::get_neighbour_tables(family);
            let tables = self.requests.dump("reading neighbour tables", &tables)?;
            let read = Messages(&tables).filter_map(|message| decode::proxy_delay(&message));
            delays.extend(read.map(|(index, delay)| ((family, index), delay)));
        }
        let mut objects = mirror.objects();
        for link in Messages(&links).filter_map(|message| Link::read(&message)) {
            // A device that has gone in the meantime is a file less.
            let delay = |family| delays.get(&(family, link.index)).copied();
            objects.extend(device_settings(&link, delay));
        }
        objects.extend(self.read_host());
        let links = mirror
            .links()
            .map(|(name, tap)| (name, tap.clone()))
            .collect();
        self.mirror = mirror;
        self.lost = !listening;
        Ok(Observation { links, objects })
    }

    /// Our routes of a family in a table, as messages.
    fn routes(&mut self, family: u8, table: u8) -> Result<Vec<u8>, Error> {
        let request = encode::get_routes(family, table, self.config.protocol);
        match self.requests.dump("reading routes", &request) {
            // The table comes into being with its first route.
            Err(Error::Refused(_, refusal)) if refusal.errno == Errno::ENOENT => Ok(Vec::new()),
            other => other,
        }
    }

    /// Reads all settings of a device; none if it isn't there.
    pub fn read_device(&mut self, name: IfName) -> Vec<(Key, Value)> {
        let Ok(answer) = self.requests.get("reading a link", &encode::get_link(name)) else {
            return Vec::new();
        };
        let link = Messages(answer).find_map(|message| Link::read(&message));
        link.iter()
            .flat_map(|link| device_settings(link, |_| None))
            .collect()
    }

    /// Reads all settings of the host.
    #[must_use]
    pub fn read_host(&self) -> Objects {
        settings::of_host()
            .map(|(knob, value)| (Key::Sysctl(knob, None), value))
            .collect()
    }

    /// What has changed since it was last called; never waits. After
    /// [`Self::apply`] the events of its changes are there; some of them the
    /// descriptor doesn't tell of, so drain before waiting for it.
    ///
    /// # Errors
    /// [`Lost`] until everything is observed anew.
    pub fn drain(&mut self) -> Result<Vec<Event>, Lost> {
        let mut events = mem::take(&mut self.told);
        while !self.lost {
            match self.monitor.next() {
                Ok(Some(datagram)) => {
                    for message in Messages(datagram) {
                        self.mirror.take(&message, &mut events);
                    }
                }
                Ok(None) => return Ok(events),
                // ENOBUFS mostly; whatever it is, something may be missing.
                Err(_) => self.lost = true,
            }
        }
        Err(Lost)
    }
}

/// The monitor's descriptor: readable when [`Kernel::drain`] has something.
impl AsFd for Kernel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

/// A device's settings as objects. No name: none that a tap could have.
fn device_settings(link: &Link<'_>, proxy_delay: impl Fn(u8) -> Option<u64>) -> Vec<(Key, Value)> {
    let Some(name) = link.name else {
        return Vec::new();
    };
    settings::of_device(name, link, proxy_delay)
        .map(|(knob, value)| (Key::Sysctl(knob, Some(name)), value))
        .collect()
}

/// Whether a datagram has a message for which `is` holds.
fn any(datagram: &[u8], is: impl Fn(&Message<'_>) -> bool) -> bool {
    Messages(datagram).any(|message| is(&message))
}

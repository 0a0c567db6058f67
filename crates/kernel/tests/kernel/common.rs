//! Words for tests: a host with its observed map, kept by events alone.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use l2isolate_kernel::{Config, Event, Kernel};
use l2isolate_model::{
    IfName,
    desired::{Key, Objects, Target, Value},
};
use l2isolate_reconcile::Change;

pub(crate) const CONFIG: Config = Config::new(76);
pub(crate) const METRIC: u32 = 5;
pub(crate) const FLOOR: u32 = (200 << 24) | 5;

pub(crate) fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub(crate) fn address(tap: &str, net: &str) -> (Key, Value) {
    (
        Key::Address(name(tap), net.parse().unwrap()),
        Value::Address,
    )
}

pub(crate) fn neighbour(tap: &str, ip: &str, mac: &str) -> (Key, Value) {
    (
        Key::Neighbour(name(tap), ip.parse().unwrap()),
        Value::Mac(mac.parse().unwrap()),
    )
}

pub(crate) fn route(prefix: &str, tap: &str) -> (Key, Value) {
    let target = Target::Device(name(tap));
    (
        Key::Route(prefix.parse().unwrap(), METRIC),
        Value::Route(target),
    )
}

pub(crate) fn floor(prefix: &str) -> (Key, Value) {
    (
        Key::Route(prefix.parse().unwrap(), FLOOR),
        Value::Route(Target::Unreachable),
    )
}

/// A host as a caller of the crate knows it.
pub(crate) struct Host {
    pub(crate) kernel: Kernel,
    /// Observed once, and kept true by events.
    pub(crate) objects: Objects,
    pub(crate) links: std::collections::BTreeMap<IfName, l2isolate_model::tap::Tap>,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with_queue(16 << 20)
    }

    pub(crate) fn with_queue(bytes: usize) -> Self {
        let mut kernel = Kernel::with_queue(CONFIG, bytes).unwrap();
        let seen = kernel.observe().unwrap();
        Self {
            kernel,
            objects: seen.objects,
            links: seen.links,
        }
    }

    /// Applies sets that must all succeed.
    pub(crate) fn set(&mut self, objects: impl IntoIterator<Item = (Key, Value)>) {
        let changes: Vec<_> = objects
            .into_iter()
            .map(|(k, v)| Change::Set(k, v))
            .collect();
        for outcome in self.kernel.apply(&changes) {
            outcome.unwrap();
        }
    }

    /// Deletes what must be deletable.
    pub(crate) fn delete(&mut self, keys: impl IntoIterator<Item = Key>) {
        let changes: Vec<_> = keys.into_iter().map(Change::Delete).collect();
        for outcome in self.kernel.apply(&changes) {
            outcome.unwrap();
        }
    }

    /// Takes in what is queued, once.
    pub(crate) fn drain(&mut self) -> Vec<Event> {
        let events = self.kernel.drain().unwrap();
        for event in &events {
            match event.clone() {
                Event::Link(name, Some(tap)) => drop(self.links.insert(name, tap)),
                Event::Link(name, None) => drop(self.links.remove(&name)),
                Event::Object(key, Some(value)) => drop(self.objects.insert(key, value)),
                Event::Object(key, None) => drop(self.objects.remove(&key)),
                Event::SysctlsDirty(name) => self.objects.extend(self.kernel.read_device(name)),
                Event::HostSysctlsDirty => self.objects.extend(self.kernel.read_host()),
            }
        }
        events
    }

    /// What events made of the map must be what is there; carriers and such
    /// are announced a little later, so this waits for the two to agree.
    pub(crate) fn settle(&mut self) {
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            self.drain();
            // Another observer, since observing anew would mend this one.
            let fresh = Kernel::open(CONFIG).unwrap().observe().unwrap();
            if fresh.objects == self.objects && fresh.links == self.links {
                return;
            }
            if Instant::now() > end {
                let differ = |a: &Objects, b: &Objects| {
                    let only = a.iter().filter(|(k, v)| b.get(k) != Some(v));
                    only.map(|(k, v)| format!("{k} = {v}")).collect::<Vec<_>>()
                };
                let there = differ(&fresh.objects, &self.objects);
                let believed = differ(&self.objects, &fresh.objects);
                assert_eq!(there, believed, "there, but believed");
                assert_eq!(fresh.links, self.links);
            }
            sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn has(&self, object: &(Key, Value)) -> bool {
        self.objects.get(&object.0) == Some(&object.1)
    }
}

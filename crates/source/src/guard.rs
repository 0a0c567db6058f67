//! Holds deletions when more than half of the ports vanish at once: that is
//! more often an accident at the source than a wish.
//!
//! Pure: the clock is a parameter. Ports that vanished within the last
//! [`Guard::new`] `window` count together, so that a slow `rm` is no way
//! around; fewer than [`AT_LEAST`] never count as an accident, or a host with
//! one machine could not lose it. While deletions are held, every further one
//! joins them, of whatever kind: a held port keeps its subnet. Each is held for
//! the grace, and goes earlier if so many others came back that what is left
//! would have passed.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    time::{Duration, Instant},
};

use l2isolate_model::document::ObjectId;

/// So many ports must vanish for an accident to be suspected.
pub const AT_LEAST: usize = 4;

/// The guard.
#[derive(Debug)]
pub struct Guard {
    grace: Duration,
    window: Duration,
    /// When how many ports were let go without having been held.
    passed: VecDeque<(Instant, usize)>,
    /// Until when each is held.
    held: BTreeMap<ObjectId, Instant>,
    /// How many of `held` are ports.
    held_ports: usize,
}

impl Guard {
    /// A guard that holds nothing.
    #[must_use]
    pub fn new(grace: Duration, window: Duration) -> Self {
        Self {
            grace,
            window,
            passed: VecDeque::new(),
            held: BTreeMap::new(),
            held_ports: 0,
        }
    }

    /// Takes in what the source no longer has, and returns what may go: now or
    /// of what was held. `ports` is how many ports are in force, with those
    /// that are held and those that `gone` names.
    pub fn judge(&mut self, now: Instant, ports: usize, gone: Vec<ObjectId>) -> Vec<ObjectId> {
        if self.held.is_empty() {
            while let Some((at, _)) = self.passed.front()
                && now.saturating_duration_since(*at) >= self.window
            {
                self.passed.pop_front();
            }
        }
        let mut go = Vec::new();
        let mut left = ports;
        self.held.retain(|id, until| {
            let due = *until <= now;
            if due {
                let is_port = usize::from(is_port(id));
                self.held_ports = self.held_ports.saturating_sub(is_port);
                left = left.saturating_sub(is_port);
                go.push(id.clone());
            }
            !due
        });
        for id in gone {
            let is_port = usize::from(is_port(&id));
            if let Entry::Vacant(entry) = self.held.entry(id) {
                entry.insert(now + self.grace);
                self.held_ports += is_port;
            }
        }
        let passed: usize = self.passed.iter().map(|(_, ports)| ports).sum();
        let vanished = passed + self.held_ports;
        if vanished < AT_LEAST || vanished * 2 <= left + passed {
            if self.held_ports > 0 {
                self.passed.push_back((now, self.held_ports));
            }
            self.held_ports = 0;
            go.extend(std::mem::take(&mut self.held).into_keys());
        }
        go
    }

    /// The source has `id`, perhaps again.
    pub fn present(&mut self, id: &ObjectId) {
        if self.held.remove(id).is_some() && is_port(id) {
            self.held_ports = self.held_ports.saturating_sub(1);
        }
    }

    /// Lets all that is held go at the next [`Guard::judge`].
    pub fn release(&mut self, now: Instant) {
        for until in self.held.values_mut() {
            *until = now;
        }
    }

    /// How many ports and how many objects of all kinds are held.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.held_ports, self.held.len())
    }

    /// When the first of what is held goes.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.held.values().min().copied()
    }
}

fn is_port(id: &ObjectId) -> bool {
    matches!(id, ObjectId::Port(_))
}

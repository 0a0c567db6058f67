//! Holds deletions when more than half of the ports vanish at once: that is
//! more often an accident at the source than a wish.
//!
//! Pure: the clock is a parameter. Deletions are held when
//!
//! * one reading lacks more than half of the ports that are in force, or
//! * fewer than half would be left of the most that there were within the
//!   window, so that a slow `rm` is no way around. Ports that come and go as
//!   fast as they like, while others stay, are no accident.
//!
//! Fewer than [`AT_LEAST`] never count, or a host with one machine could not
//! lose it. While deletions are held, every further one joins them, of whatever
//! kind: a held port keeps its subnet. Each is held for the grace, and goes
//! earlier if so many others came back that what is left would have passed, and
//! none has for [`QUIET`]: whoever puts files back does it one by one.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    time::{Duration, Instant},
};

use l2isolate_model::document::ObjectId;

/// So many ports must vanish for an accident to be suspected.
pub const AT_LEAST: usize = 4;

/// So long nothing must have come back before what is still missing after an
/// accident is taken for a wish.
pub const QUIET: Duration = Duration::from_secs(5);

/// The guard.
#[derive(Debug)]
pub struct Guard {
    grace: Duration,
    window: Duration,
    /// Until when there were how many ports; the later, the fewer.
    peaks: VecDeque<(Instant, usize)>,
    /// Until when each is held.
    held: BTreeMap<ObjectId, Instant>,
    /// How many of `held` are ports.
    held_ports: usize,
    /// Something that was held came back since the last judgement.
    returning: bool,
    /// Until when things came back, if they did.
    returned: Option<Instant>,
}

impl Guard {
    /// A guard that holds nothing yet; without a grace it never will.
    #[must_use]
    pub fn new(grace: Duration, window: Duration) -> Self {
        Self {
            grace,
            window,
            peaks: VecDeque::new(),
            held: BTreeMap::new(),
            held_ports: 0,
            returning: false,
            returned: None,
        }
    }

    /// Takes in what the source no longer has, and returns what may go: of that
    /// and of what was held. `ports` is how many ports are in force, with those
    /// that are held and those that `gone` names.
    pub fn judge(&mut self, now: Instant, ports: usize, gone: Vec<ObjectId>) -> Vec<ObjectId> {
        let (mut go, due_ports) = self.take_due(now);
        let left = ports.saturating_sub(due_ports);
        if !go.is_empty() {
            // What was held long enough is no news.
            self.peaks.clear();
        }
        self.remember(now, left);
        let restoring = self.is_restoring(now);
        for id in gone {
            let is_port = is_port(&id);
            if let Entry::Vacant(entry) = self.held.entry(id) {
                entry.insert(now + self.grace);
                self.held_ports += usize::from(is_port);
            }
        }
        if self.grace.is_zero() || !restoring && !self.is_accident(left) {
            self.held_ports = 0;
            go.extend(std::mem::take(&mut self.held).into_keys());
        }
        go
    }

    /// The source has `id`, perhaps again.
    pub fn present(&mut self, id: &ObjectId) {
        if self.held.remove(id).is_some() {
            self.returning = true;
            self.held_ports = self.held_ports.saturating_sub(usize::from(is_port(id)));
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

    /// When there is something to judge again, though nothing else is gone.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let quiet = self.returned.map(|at| at + QUIET);
        self.held.values().copied().chain(quiet).min()
    }

    /// Whether what is held may be coming back right now.
    fn is_restoring(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.returning) {
            self.returned = Some(now);
        }
        let recent = |at: &Instant| now < *at + QUIET;
        self.returned = self
            .returned
            .filter(recent)
            .filter(|_| !self.held.is_empty());
        self.returned.is_some()
    }

    /// Whether the deletions at hand look like an accident, with so many ports
    /// in force.
    fn is_accident(&self, ports: usize) -> bool {
        let held = self.held_ports;
        let sudden = held >= AT_LEAST && held * 2 > ports;
        let peak = self.peaks.front().map_or(0, |(_, peak)| *peak);
        let lost = peak.saturating_sub(ports.saturating_sub(held));
        let slow = held > 0 && lost >= AT_LEAST && lost * 2 > peak;
        sudden || slow
    }

    /// What has been held long enough, and how many of that are ports.
    fn take_due(&mut self, now: Instant) -> (Vec<ObjectId>, usize) {
        let due: Vec<ObjectId> = self
            .held
            .extract_if(.., |_, until| *until <= now)
            .map(|(id, _)| id)
            .collect();
        let ports = due.iter().filter(|id| is_port(id)).count();
        self.held_ports = self.held_ports.saturating_sub(ports);
        (due, ports)
    }

    /// Notes how many ports there were until now. While deletions are held,
    /// nothing is forgotten: waiting makes no accident good.
    fn remember(&mut self, now: Instant, ports: usize) {
        while let Some((_, peak)) = self.peaks.back()
            && *peak <= ports
        {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, ports));
        while self.held.is_empty()
            && let Some((until, _)) = self.peaks.front()
            && now.saturating_duration_since(*until) > self.window
        {
            self.peaks.pop_front();
        }
    }
}

fn is_port(id: &ObjectId) -> bool {
    matches!(id, ObjectId::Port(_))
}

//! Which ports Neutron is to be told of as up or down. Pure.
//!
//! Level-triggered: what counts is what Neutron thinks of a port (`statuses` of
//! the last sync, and what was reported since) against what is so: its tap is
//! there and wired, or it isn't there. A port whose tap is there but not wired
//! yet is left as it is.
//!
//! A port that is expected by live migration has its status from the other
//! host; Nova waits to hear that it is plugged in here, so that is said once for
//! each tap (Neutron passes it on and changes nothing).
//!
//! A few calls are under way at a time, so that several of Neutron's workers have
//! something to do; a port is in one of them only, so what is said of it arrives in
//! order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use l2isolate_model::{
    GroupId, IfName, PortId,
    port::{BindingState, Port},
};

use super::wire::Status;

/// How many ports one call reports: Neutron needs some 50 ms for each.
const BATCH: usize = 10;
/// How many calls are under way at most: two of Neutron's workers, and no more of
/// them for one host.
const CALLS: usize = 2;
/// Before a port is reported again that Neutron couldn't take: doubled each time.
const REFUSED: Duration = Duration::from_secs(10);
const REFUSED_MOST: Duration = Duration::from_secs(300);
/// The same of a call that wasn't answered, or with a failure.
const FAILED: Duration = Duration::from_secs(1);
const FAILED_MOST: Duration = Duration::from_secs(30);

/// A tap that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapState {
    /// The device's index: another one means another device.
    pub index: u32,
    /// The port that has it, if one has.
    pub port: Option<PortId>,
    /// All that the port needs is in the kernel; if it is administratively
    /// down, nothing of it is.
    pub wired: bool,
}

/// What is known of taps and ports.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    /// None until the engine has told of its taps for the first time.
    taps: Option<BTreeMap<IfName, TapState>>,
    ports: BTreeMap<PortId, Device>,
    by_tap: BTreeMap<IfName, PortId>,
    /// Ports that there may be something to say about.
    dirty: BTreeSet<PortId>,
    /// Ports of which a report is under way, and how many reports that are.
    under_way: BTreeSet<PortId>,
    calls: usize,
    /// How many reports have been made: what was read before one of a port is
    /// older than it.
    reports: u64,
}

#[derive(Debug)]
struct Device {
    tap: IfName,
    groups: Vec<GroupId>,
    binding: BindingState,
    admin_up: bool,
    status: Option<Status>,
    /// The tap of which Neutron knows.
    told: Option<u32>,
    /// Number of the last report of it, and when it was taken.
    reported: u64,
    reported_at: Option<Instant>,
    /// How many times in a row Neutron couldn't take it,
    refused: u32,
    /// or a call with it failed.
    failed: u32,
    not_before: Option<Instant>,
}

/// One call's worth.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// With the index of the tap.
    pub(crate) up: BTreeMap<PortId, u32>,
    pub(crate) down: BTreeSet<PortId>,
}

impl Report {
    fn ids(&self) -> impl Iterator<Item = &PortId> {
        self.up.keys().chain(&self.down)
    }
}

fn doubled(pause: Duration, times: u32) -> Duration {
    pause.saturating_mul(1 << times.min(8))
}

enum Due {
    Up(u32),
    Down,
}

impl Devices {
    /// What has become of taps; the first time, all of them.
    pub(crate) fn tell(&mut self, news: Vec<(IfName, Option<TapState>)>) {
        if self.taps.is_none() {
            self.dirty.extend(self.ports.keys().cloned());
        }
        let taps = self.taps.get_or_insert_default();
        for (name, state) in news {
            let before = match state {
                Some(state) => {
                    self.dirty.extend(state.port.clone());
                    taps.insert(name, state)
                }
                None => taps.remove(&name),
            };
            self.dirty.extend(before.and_then(|before| before.port));
            self.dirty.extend(self.by_tap.get(&name).cloned());
        }
    }

    /// The groups that ports here have.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.ports.values().flat_map(|device| &device.groups)
    }

    /// What is wanted of a port; none: it has nothing to do with this host any
    /// more.
    pub(crate) fn set_port(&mut self, id: &PortId, port: Option<&Port>) {
        let Some(port) = port else {
            if let Some(device) = self.ports.remove(id)
                && self.by_tap.get(&device.tap) == Some(id)
            {
                self.by_tap.remove(&device.tap);
            }
            self.dirty.remove(id);
            return;
        };
        let device = self.ports.entry(id.clone()).or_insert_with(|| Device {
            tap: port.tap,
            groups: Vec::new(),
            binding: port.binding.state,
            admin_up: port.admin_state_up,
            status: None,
            told: None,
            reported: 0,
            reported_at: None,
            refused: 0,
            failed: 0,
            not_before: None,
        });
        if device.binding != port.binding.state {
            // What was said of it was said of another binding.
            device.told = None;
        }
        device.tap = port.tap;
        device.groups.clone_from(&port.groups);
        device.binding = port.binding.state;
        device.admin_up = port.admin_state_up;
        self.by_tap.insert(port.tap, id.clone());
        self.dirty.insert(id.clone());
    }

    /// What Neutron thought of the ports when `reports` had been made. Of a port
    /// that isn't named, nothing that concerns this host.
    pub(crate) fn set_statuses(&mut self, statuses: &BTreeMap<PortId, Status>, reports: u64) {
        for (id, device) in &mut self.ports {
            if !statuses.contains_key(id) {
                device.status = None;
            }
        }
        self.set_some_statuses(statuses, reports);
    }

    /// The same, of these ports only.
    pub(crate) fn set_some_statuses(&mut self, statuses: &BTreeMap<PortId, Status>, reports: u64) {
        for (id, status) in statuses {
            if self.ports.get(id).is_some_and(|d| d.reported <= reports) {
                self.set_status(id, *status);
            }
        }
    }

    /// What Neutron thought of a port some time ago. Returns whether it could be
    /// taken: not so soon after a report that the one may not know of the other.
    pub(crate) fn hear_status(
        &mut self,
        now: Instant,
        soon: Duration,
        id: &PortId,
        status: Status,
    ) -> bool {
        let Some(device) = self.ports.get(id) else {
            return true;
        };
        if device.status == Some(status) {
            return true;
        }
        if device.reported_at.is_some_and(|at| now < at + soon) {
            return false;
        }
        self.set_status(id, status);
        true
    }

    fn set_status(&mut self, id: &PortId, status: Status) {
        let Some(device) = self.ports.get_mut(id) else {
            return;
        };
        let first = device.status.is_none();
        device.status = Some(status);
        if first && status == Status::Active && device.binding != BindingState::Incoming {
            // Adopted: it was up before this agent was started.
            let tap = self.taps.as_ref().and_then(|taps| taps.get(&device.tap));
            device.told = tap.map(|tap| tap.index);
        }
        self.dirty.insert(id.clone());
    }

    /// How many reports have been made.
    pub(crate) fn reports(&self) -> u64 {
        self.reports
    }

    /// What to report now, which is under way from then on: what is read after
    /// this knows of it. None: nothing, not yet, or enough is under way.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Report> {
        if self.calls >= CALLS {
            return None;
        }
        let mut report = Report::default();
        for id in std::mem::take(&mut self.dirty) {
            // It is looked at again when the report of it has ended.
            if self.under_way.contains(&id) {
                continue;
            }
            let Some(due) = self.due(&id) else { continue };
            let waits = self.ports.get(&id).and_then(|device| device.not_before);
            let full = report.up.len() + report.down.len() >= BATCH;
            if full || waits.is_some_and(|at| at > now) {
                self.dirty.insert(id);
                continue;
            }
            match due {
                Due::Up(index) => {
                    report.up.insert(id, index);
                }
                Due::Down => {
                    report.down.insert(id);
                }
            }
        }
        if report == Report::default() {
            return None;
        }
        self.under_way.extend(report.ids().cloned());
        self.calls += 1;
        self.reports += 1;
        Some(report)
    }

    fn due(&self, id: &PortId) -> Option<Due> {
        let device = self.ports.get(id)?;
        let tap = self.taps.as_ref()?.get(&device.tap);
        let wired = tap.filter(|tap| tap.wired && tap.port.as_ref() == Some(id));
        if device.binding == BindingState::Incoming {
            let index = wired?.index;
            return (device.told != Some(index)).then_some(Due::Up(index));
        }
        let status = device.status?;
        let up = matches!(status, Status::Active | Status::Build);
        match (tap, wired) {
            (None, _) => up.then_some(Due::Down),
            (Some(_), Some(_)) if !device.admin_up => up.then_some(Due::Down),
            // Another device than the one that is up: that one has gone.
            (Some(tap), _)
                if status == Status::Active
                    && device.told.is_some_and(|told| told != tap.index) =>
            {
                Some(Due::Down)
            }
            (Some(_), None) => None,
            (Some(_), Some(tap)) => (status != Status::Active).then_some(Due::Up(tap.index)),
        }
    }

    /// Neutron has taken a report, except for these.
    pub(crate) fn done(&mut self, now: Instant, report: &Report, refused: &BTreeSet<PortId>) {
        self.ended(report);
        let up = report.up.iter().map(|(id, index)| (id, Some(*index)));
        let down = report.down.iter().map(|id| (id, None));
        for (id, index) in up.chain(down) {
            let Some(device) = self.ports.get_mut(id) else {
                continue;
            };
            device.failed = 0;
            if refused.contains(id) {
                let pause = doubled(REFUSED, device.refused).min(REFUSED_MOST);
                device.refused += 1;
                device.not_before = Some(now + pause);
                continue;
            }
            device.refused = 0;
            device.not_before = None;
            device.told = index;
            device.reported = self.reports;
            device.reported_at = Some(now);
            if device.binding != BindingState::Incoming {
                device.status = Some(match index {
                    Some(_) => Status::Active,
                    None => Status::Down,
                });
            }
        }
    }

    /// A report came to nothing: all of it is still to be said, after a pause
    /// that is `spread` times the usual one. Others don't wait for it.
    pub(crate) fn failed(&mut self, now: Instant, report: &Report, spread: f64) {
        self.ended(report);
        for id in report.ids() {
            if let Some(device) = self.ports.get_mut(id) {
                let pause = doubled(FAILED, device.failed).min(FAILED_MOST);
                device.failed += 1;
                device.not_before = Some(now + pause.mul_f64(spread));
            }
        }
    }

    fn ended(&mut self, report: &Report) {
        self.calls -= 1;
        self.reports += 1;
        for id in report.ids() {
            self.under_way.remove(id);
            // There may be something else to say by now.
            self.dirty.insert(id.clone());
        }
    }

    /// There is another connection: what failed needn't wait any more.
    pub(crate) fn reconnected(&mut self) {
        for device in self.ports.values_mut().filter(|d| d.failed > 0) {
            device.failed = 0;
            device.not_before = None;
        }
    }

    /// When something can be said that has to wait.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        if self.calls >= CALLS {
            return None;
        }
        let waiting = self.dirty.iter().filter_map(|id| self.ports.get(id));
        waiting.filter_map(|device| device.not_before).min()
    }

    /// Taps that no port has: their ports may be new.
    pub(crate) fn strays(&self) -> impl Iterator<Item = (IfName, u32)> {
        let taps = self.taps.iter().flatten();
        taps.filter(|(name, tap)| tap.port.is_none() && !self.by_tap.contains_key(*name))
            .map(|(name, tap)| (*name, tap.index))
    }

    /// Whether a port's machine may be here, as far as taps tell.
    pub(crate) fn in_use(&self, id: &PortId) -> bool {
        let Some(taps) = &self.taps else { return true };
        let device = self.ports.get(id);
        device.is_some_and(|device| taps.contains_key(&device.tap))
    }

    /// Ports that Neutron couldn't take.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &PortId> {
        let refused = self.ports.iter().filter(|(_, device)| device.refused > 0);
        refused.map(|(id, _)| id)
    }

    /// How many ports there is something to say about.
    pub(crate) fn unreported(&self) -> usize {
        self.dirty
            .iter()
            .filter(|id| self.due(id).is_some())
            .count()
    }
}

#[cfg(test)]
mod tests;

//! What is told to whoever follows the source.

use std::{collections::BTreeMap, time::Instant};

use jiff::Timestamp;
use l2isolate_model::problem::Problem;

use super::{
    ledger::Changes,
    worker::{Worker, Wrong},
};
use crate::update::{Held, State, Update};

impl Worker {
    /// Sends what differs. Returns whether anybody still listens.
    pub(super) fn publish(&mut self) -> bool {
        let now = Instant::now();
        let ended = self.ledger.settle(now);
        self.take_changes(ended, &BTreeMap::new());
        self.contact.next_sync = self.schedule.next().map(|(at, _)| self.timestamp(at));
        self.contact.unreported = self.devices.unreported();
        let state = State {
            availability: self.availability.clone(),
            problems: self.problems(),
            held: self.held(),
            contact: Some(self.contact.clone()),
        };
        let Changes { changes, stamps } = std::mem::take(&mut self.pending);
        let same = self.last.as_ref() == Some(&(state.clone(), self.complete));
        if changes.is_empty() && same {
            return true;
        }
        self.log_held(&state);
        self.last = Some((state.clone(), self.complete));
        let update = Update {
            changes,
            stamps,
            complete: self.complete,
            state,
        };
        let heard = self.sender.send(update).is_ok();
        (self.wake)();
        heard
    }

    fn problems(&self) -> Vec<Problem> {
        let Wrong {
            sync: _,
            report,
            devices,
            other_agent,
            clock,
            unidentified,
        } = &self.wrong;
        // A sync that fails is why the source is away; it is said there.
        let words = [report, devices, other_agent, clock].into_iter().flatten();
        let problems = words.map(|reason| Problem {
            origin: "neutron".to_owned(),
            reason: reason.clone(),
            ..Problem::default()
        });
        problems.chain(unidentified.iter().cloned()).collect()
    }

    fn held(&self) -> Option<Held> {
        let until = self.ledger.guard.until()?;
        let (ports, objects) = self.ledger.guard.held();
        Some(Held {
            ports,
            objects,
            until: self.timestamp(until),
        })
    }

    fn log_held(&self, state: &State) {
        let before = self.last.as_ref().and_then(|(last, _)| last.held.as_ref());
        match (&state.held, before) {
            (Some(held), old) if old.is_none_or(|old| old.ports < held.ports) => {
                tracing::error!(
                    ports = held.ports,
                    objects = held.objects,
                    until = %held.until,
                    "Neutron has lost more than half of the ports at once; their deletion is held"
                );
            }
            (None, Some(_)) => tracing::info!("no deletion is held any more"),
            _ => {}
        }
    }

    /// A moment of the monotonic clock, for people.
    fn timestamp(&self, at: Instant) -> Timestamp {
        let (instant, timestamp) = self.epoch;
        let moved = timestamp.checked_add(at.saturating_duration_since(instant));
        moved.unwrap_or(Timestamp::MAX)
    }
}

//! From what is known of a tap to what is wanted of it.

use std::time::Instant;

use l2isolate_model::{
    IfName,
    desired::{Key, Value},
    port::{BindingState, CheckedPort},
};
use l2isolate_plan::{Owner, TapView, guest::metadata, migration::State, tap};

use super::Engine;
use crate::arrivals::Known;

impl Engine {
    /// Plans what is dirty. By itself this changes nothing but what
    /// [`Self::reconciler`] tells of differences.
    pub(crate) fn plan_dirty(&mut self) {
        let now = Instant::now();
        self.dirty.extend(self.departures.ripe(now));
        self.dirty.extend(self.aftermath.ripe(now));
        for tap in std::mem::take(&mut self.dirty) {
            self.plan(tap, now);
        }
    }

    fn plan(&mut self, name: IfName, now: Instant) {
        self.touched.insert(name);
        self.rerouted.insert(name);
        let bound = self.intent.on_tap(name).cloned();
        let port = match &bound {
            Some(port) => Some(port.clone()),
            None => self.aftermath.port(name, now),
        };
        let port = port.as_deref();
        let tap = self.taps.get(&name);
        // Before the intent is complete a tap may have a port all the same.
        let known = self.complete || port.is_some();
        let (of_guest, step) = if known {
            let leaves = port.is_some_and(|it| it.port.binding.state == BindingState::Outgoing);
            (
                self.arrivals.plan(name, tap, port),
                self.departures.plan(name, leaves, now),
            )
        } else {
            (Known::default(), 1)
        };
        let view = tap.map(|tap| TapView {
            tap,
            seen: of_guest.seen,
            stopped: of_guest.stopped,
            step,
            marked: self.complete && self.marked(name),
        });
        let view = view.as_ref();
        let state = State::of_port(port.map(|it| it.port.as_ref()), view, &self.config);
        if let Some(guests) = &mut self.guests {
            let entry = metadata::plan(name, view, port, &self.config);
            guests.metadata(name, entry.as_ref());
        }
        let objects = tap::plan(name, view, port, &self.config);
        let owner = Owner::Tap(name);
        let first = tap.is_some() && !objects.is_empty() && !self.reconciler.wants_anything(&owner);
        let open = tap.is_some_and(|tap| tap.carrier);
        self.reconciler.want(&owner, objects);
        if first {
            self.read_settings(name);
        }
        if let Some(port) = bound {
            self.aftermath
                .know(name, (state == State::Followed).then_some(port));
        }
        self.watch_others(name, port, state, open);
        self.is_in(name, state);
    }

    /// Who else has to do with the guest: the host at the other end of its migration,
    /// or without one whoever announces it as well.
    fn watch_others(&mut self, name: IfName, port: Option<&CheckedPort>, state: State, open: bool) {
        let moves = port.filter(|it| it.port.binding.state != BindingState::Active);
        let peer = moves.and_then(|it| it.port.binding.peer);
        self.peers.plan(name, peer);
        if let Some(rivals) = &mut self.rivals {
            let alone = state == State::Active && open;
            let here = port.filter(|it| alone && it.port.admin_state_up);
            let addresses = here.into_iter().flat_map(|it| &it.addresses);
            rivals.plan(name, addresses.map(|(address, _)| *address).collect());
        }
    }

    /// Whether objects of ours are on the tap.
    fn marked(&self, name: IfName) -> bool {
        let mut addresses = self.reconciler.observed().range(Key::first_address(name)..);
        let mut neighbours = self
            .reconciler
            .observed()
            .range(Key::first_neighbour(name)..);
        let here = |entry: Option<(&Key, &Value)>| match entry {
            Some((Key::Address(tap, _) | Key::Neighbour(tap, _), _)) => *tap == name,
            _ => false,
        };
        here(addresses.next()) || here(neighbours.next())
    }
}

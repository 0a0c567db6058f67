//! What the engine knows for the sake of the tunnel by which guests are followed:
//! how large a packet the underlay carries, and what the hypervisor says of guests
//! that stop.

use l2isolate_model::{IfName, port::BindingState};
use l2isolate_plan::migration::follow;
use tracing::info;

use super::Engine;
use crate::control::{Event, Followed};

impl Engine {
    /// Tells the engine which interfaces lead to switches. Before anything is
    /// absorbed.
    pub(crate) fn with_uplinks(mut self, names: &[IfName]) -> Self {
        self.uplinks = names.to_vec();
        if let Some(first) = self.uplinks.first().copied() {
            self.measure_underlay(first);
        }
        self
    }

    /// An interface has changed: if it leads to a switch, the tunnel's room may have.
    pub(super) fn measure_underlay(&mut self, changed: IfName) {
        let Some(tunnel) = &mut self.config.tunnel else {
            return;
        };
        if !self.uplinks.contains(&changed) {
            return;
        }
        let there = self.uplinks.iter().filter_map(|name| self.taps.get(name));
        let underlay = there.map(|link| link.mtu).min().unwrap_or(0);
        if underlay != tunnel.underlay {
            tunnel.underlay = underlay;
            self.dirty.extend(self.taps.keys().copied());
            self.dirty.extend(self.migrations.keys().copied());
            self.plan_host();
        }
    }

    /// The hypervisor says of guests, by their taps, that they have stopped here or go
    /// on here. Only of one that leaves by live migration something follows from it.
    /// Gives the states of those, now.
    pub(crate) fn told_of_guests(&mut self, taps: &[IfName], event: Event) -> Vec<Followed> {
        let mut leaving = Vec::new();
        for name in taps {
            let port = self.intent.on_tap(*name).map(|checked| &checked.port);
            let port = port.filter(|port| port.binding.state == BindingState::Outgoing);
            let (Some(port), Some(tap)) = (port, self.taps.get(name)) else {
                continue;
            };
            info!(port = port.id.as_str(), tap = %name, ?event, "told of a guest that leaves");
            match event {
                Event::Stopped => self.arrivals.stopped(*name, tap),
                Event::Resumed => self.arrivals.resumed(*name),
            }
            leaving.push(*name);
        }
        self.dirty.extend(leaving.iter().copied());
        self.converge();
        let state = |name: IfName| Followed::new(name, self.migration(name));
        leaving.into_iter().map(state).collect()
    }

    /// Why what arrives for the guest on a tap can't be sent after it, though there
    /// is a tunnel.
    pub(super) fn unfollowed(&self, tap: IfName) -> Option<String> {
        let checked = self.intent.on_tap(tap)?;
        follow(&checked.port, &self.config).err()
    }
}

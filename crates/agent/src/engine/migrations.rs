//! Where each port is in a live migration, for those who look: it follows from
//! what is known ([`State::of`]); kept is only since when.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use l2isolate_model::{IfName, port::Port, problem::Problem};
use l2isolate_plan::migration::State;
use tracing::info;

use super::{Engine, Rivals};

/// A migration whose guest has moved, and of which nobody has told this host that
/// it is over, is a problem after so many seconds.
const PATIENCE: i64 = 60;

/// States by tap, and since when.
pub(super) type Migrations = BTreeMap<IfName, (State, Timestamp)>;

impl Engine {
    /// The port on that tap is in this state now.
    pub(super) fn is_in(&mut self, tap: IfName, state: State) {
        let before = self.migration(tap);
        if before == state {
            return;
        }
        if state == State::Gone {
            self.migrations.remove(&tap);
        } else {
            self.migrations.insert(tap, (state, Timestamp::now()));
        }
        let usual = |state| matches!(state, State::Gone | State::Active);
        if !(usual(before) && usual(state)) {
            let port = self.port_name(tap);
            info!(port, %tap, from = before.word(), to = state.word(), "live migration");
        }
    }

    /// The state of the port on that tap.
    pub(crate) fn migration(&self, tap: IfName) -> State {
        self.migrations
            .get(&tap)
            .map_or(State::Gone, |(state, _)| *state)
    }

    /// Migrations that don't come to their end, and guests that two hosts announce
    /// without one.
    pub(crate) fn migration_problems(&self) -> Vec<Problem> {
        let now = Timestamp::now();
        let strangers = self.migrations.keys().filter_map(|tap| {
            let mac = self.arrivals.stranger(*tap)?;
            let port = &self.intent.on_tap(*tap)?.port;
            let reason = format!(
                "a frame from {mac} came by {tap}, where the guest {} is expected: it moves \
                 nothing; see who is behind that tap",
                port.mac
            );
            Some((port, "mac", reason))
        });
        let rivals = self.rivals.iter().flat_map(Rivals::found);
        let rivals = rivals.filter_map(|(tap, address, host)| {
            let port = &self.intent.on_tap(tap)?.port;
            let prefix = IpNet::from(address);
            let reason = format!(
                "{prefix} is announced by another host as well, {host}: packets for it go to \
                 either; see where the guest runs, and unbind the port at the other host"
            );
            Some((port, "addresses", reason))
        });
        let silent = self.migrations.keys().filter_map(|tap| {
            let peer = self.peers.silent(*tap)?;
            let port = &self.intent.on_tap(*tap)?.port;
            let reason = format!(
                "the host at the other end of its migration, {peer}, doesn't answer pings: see \
                 whether it is there, and whether that is its address"
            );
            Some((port, "binding", reason))
        });
        let stuck = self.migrations.iter().filter_map(|(tap, (state, since))| {
            let seconds = now.as_second() - since.as_second();
            let port = &self.intent.on_tap(*tap)?.port;
            let peer = port.binding.peer.map(|peer| format!(" ({peer})"));
            let peer = peer.unwrap_or_default();
            let reason = match state {
                State::Outgoing | State::Left if let Some(why) = self.unfollowed(*tap) => format!(
                    "what arrives here for the guest once it has stopped can't be sent after \
                     it: {why}"
                ),
                _ if seconds < PATIENCE => return None,
                State::Live => format!(
                    "the guest has been here for {seconds} s, and the port is still bound here \
                     as incoming: see whether the host that it came from{peer} still announces \
                     it, and end the migration"
                ),
                State::Followed => format!(
                    "the guest has been elsewhere for {seconds} s, and the port is still bound \
                     here as outgoing: see whether it runs where it was to go{peer} and is \
                     reached there, and end the migration"
                ),
                State::Left => format!(
                    "nobody has been behind its tap for {seconds} s, and the port is still \
                     bound here as outgoing: see whether the guest runs where it was to go\
                     {peer}, and end the migration"
                ),
                _ => return None,
            };
            Some((port, "binding", reason))
        });
        let all = strangers.chain(rivals).chain(silent).chain(stuck);
        let problem = |(port, field, reason): (&Arc<Port>, &str, String)| Problem {
            origin: String::new(),
            object: format!("port {}", port.id),
            field: field.to_owned(),
            reason,
        };
        all.map(problem).collect()
    }
}

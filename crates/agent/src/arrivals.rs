//! Guests that are expected by live migration: waited for on their taps, and
//! remembered once they were seen; and those that have stopped to go on elsewhere,
//! until they are heard here again. [`l2isolate_plan::migration`] says what
//! follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

use l2isolate_kernel::arrival::{self, Sender};
use l2isolate_model::{
    IfName,
    desired::{Key, Target, Value},
    port::{BindingState, CheckedPort},
    tap::Tap,
};
use tracing::{info, warn};

/// Who is expected, and who was seen.
pub(crate) struct Arrivals {
    expected: arrival::Arrivals,
    /// Names of the devices on which somebody is expected.
    names: BTreeMap<u32, IfName>,
    /// Taps on which the guest was seen while it was expected, with the number
    /// of the device: another one under the same name is another tap.
    seen: BTreeMap<IfName, u32>,
    /// Who else was heard where a guest is expected.
    strangers: BTreeMap<IfName, String>,
    /// The same of guests that have stopped there to go on elsewhere.
    stopped: BTreeMap<IfName, u32>,
    /// Addresses of guests that an earlier agent had followed: their routes by the
    /// tunnel are the memory, until it is known whose they are.
    followed: BTreeSet<IpAddr>,
}

/// What is known of a tap's guest by its own frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// It was expected, and was seen.
    pub(crate) seen: bool,
    /// It has stopped, and wasn't heard since.
    pub(crate) stopped: bool,
}

impl Arrivals {
    /// Expects nobody. Whose routes of `metric` are there on a tap with somebody
    /// behind it has been seen by an earlier agent, and whose routes are by the
    /// tunnel has been followed: the route is the memory.
    pub(crate) fn start<'a>(
        objects: impl Iterator<Item = (&'a Key, &'a Value)> + Clone,
        taps: &BTreeMap<IfName, Tap>,
        metric: u32,
    ) -> io::Result<Self> {
        let followed = objects
            .clone()
            .filter_map(|(key, value)| match (key, value) {
                (Key::Route(prefix, _), Value::Route(Target::Tunnel { .. })) => Some(prefix.addr()),
                _ => None,
            });
        let followed = followed.collect();
        let routed = objects.filter_map(|(key, value)| match (key, value) {
            (Key::Route(_, m), Value::Route(Target::Device(tap))) if *m == metric => Some(*tap),
            _ => None,
        });
        Ok(Self {
            expected: arrival::Arrivals::new()?,
            names: BTreeMap::new(),
            strangers: BTreeMap::new(),
            seen: routed
                .filter_map(|name| Some((name, taps.get(&name)?)))
                .filter(|(_, tap)| tap.carrier)
                .map(|(name, tap)| (name, tap.index))
                .collect(),
            stopped: BTreeMap::new(),
            followed,
        })
    }

    /// What is known of the guest of a tap. Waits for its frames if they would say
    /// more; forgets what is another's affair by now. `port` is `None` only if it is
    /// known that there is none.
    pub(crate) fn plan(
        &mut self,
        name: IfName,
        tap: Option<&Tap>,
        port: Option<&CheckedPort>,
    ) -> Known {
        let port = port.filter(|checked| checked.port.admin_state_up);
        let is = |state| port.is_some_and(|checked| checked.port.binding.state == state);
        let index = tap.map(|tap| tap.index);
        // A tap that nobody has open says as much by itself; whoever opens it again
        // runs there.
        let open = tap.filter(|tap| tap.carrier).map(|tap| tap.index);
        let addresses = port.iter().flat_map(|checked| &checked.addresses);
        let remembered = addresses.filter(|(address, _)| self.followed.remove(address));
        if remembered.count() > 0
            && let Some(index) = open
        {
            self.stopped.insert(name, index);
        }
        if !is(BindingState::Incoming) || self.seen.get(&name).copied() != index {
            self.seen.remove(&name);
        }
        if !is(BindingState::Outgoing) || self.stopped.get(&name).copied() != open {
            self.stopped.remove(&name);
        }
        let known = Known {
            seen: self.seen.contains_key(&name),
            stopped: self.stopped.contains_key(&name),
        };
        let waits = known.stopped || is(BindingState::Incoming) && !known.seen;
        let (Some(tap), Some(checked)) = (tap, port.filter(|_| waits)) else {
            self.strangers.remove(&name);
            self.forget(name, None);
            return known;
        };
        self.forget(name, Some(tap.index));
        match self.expected.expect(tap.index, checked.port.mac) {
            Ok(()) => {
                self.names.insert(tap.index, name);
            }
            // A tap that goes has an event of its own. Of whom is never heard
            // the control plane tells.
            Err(error) => {
                let port = checked.port.id.as_str();
                warn!(port, tap = %name, %error, "can't wait for the guest's first frame");
            }
        }
        known
    }

    /// The guest of a tap, whose port leaves, has stopped there to go on elsewhere.
    pub(crate) fn stopped(&mut self, name: IfName, tap: &Tap) {
        self.stopped.insert(name, tap.index);
    }

    /// It goes on there after all.
    pub(crate) fn resumed(&mut self, name: IfName) {
        self.stopped.remove(&name);
    }

    /// Nobody has the tap's other end open any more: whoever was seen there isn't
    /// there now, as when QEMU fails after it has said where its guest is.
    pub(crate) fn left(&mut self, name: IfName) {
        self.seen.remove(&name);
    }

    /// The hardware address from which a frame came on this tap, where another
    /// one's guest is expected.
    pub(crate) fn stranger(&self, name: IfName) -> Option<&str> {
        self.strangers.get(&name).map(String::as_str)
    }

    /// Takes in who was heard; gives the taps whose guests are here now.
    pub(crate) fn listen(&mut self) -> Vec<IfName> {
        let heard = match self.expected.heard() {
            Ok(heard) => heard,
            Err(error) => {
                warn!(%error, "expected guests can't be heard");
                return Vec::new();
            }
        };
        let mut here = Vec::new();
        for (index, sender) in heard {
            let Some(name) = self.names.get(&index).copied() else {
                continue;
            };
            match sender {
                Sender::Guest => {
                    info!(tap = %name, "the guest is here");
                    self.names.remove(&index);
                    self.strangers.remove(&name);
                    // Of one that had stopped it says that it hasn't.
                    if self.stopped.remove(&name).is_none() {
                        self.seen.insert(name, index);
                    }
                    here.push(name);
                }
                Sender::Stranger(bytes) => {
                    let pairs: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
                    let mac = pairs.join(":");
                    warn!(
                        tap = %name, mac,
                        "a frame from a hardware address that isn't the expected guest's: it moves nothing"
                    );
                    self.strangers.insert(name, mac);
                }
            }
        }
        here
    }

    /// Waits on no device of that name, but on this one.
    fn forget(&mut self, name: IfName, but: Option<u32>) {
        let stale = self.names.iter().filter(|(_, n)| **n == name);
        let stale: Vec<u32> = stale.map(|(index, _)| *index).collect();
        for index in stale.into_iter().filter(|index| Some(*index) != but) {
            self.names.remove(&index);
            self.expected.forget(index);
        }
    }
}

impl AsFd for Arrivals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.expected.as_fd()
    }
}

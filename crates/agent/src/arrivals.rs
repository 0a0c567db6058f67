//! Guests that are expected by live migration: waited for on their taps, and
//! remembered once they were seen. [`l2isolate_plan::migration`] says what
//! follows from it.

use std::{
    collections::BTreeMap,
    io,
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
}

impl Arrivals {
    /// Expects nobody. Whose routes of `metric` are there on a tap with somebody
    /// behind it has been seen by an earlier agent: the route is the memory.
    pub(crate) fn start<'a>(
        objects: impl Iterator<Item = (&'a Key, &'a Value)>,
        taps: &BTreeMap<IfName, Tap>,
        metric: u32,
    ) -> io::Result<Self> {
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
        })
    }

    /// Whether the guest of a tap was seen there. Waits for it if not, if the port
    /// is expected; forgets it once it is another's affair. `port` is `None` only
    /// if it is known that there is none.
    pub(crate) fn plan(
        &mut self,
        name: IfName,
        tap: Option<&Tap>,
        port: Option<&CheckedPort>,
    ) -> bool {
        let expected = port.filter(|checked| {
            checked.port.admin_state_up && checked.port.binding.state == BindingState::Incoming
        });
        let (Some(tap), Some(checked)) = (tap, expected) else {
            self.seen.remove(&name);
            self.strangers.remove(&name);
            self.forget(name, None);
            return false;
        };
        if self.seen.get(&name) == Some(&tap.index) {
            return true;
        }
        self.seen.remove(&name);
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
        false
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
                    self.seen.insert(name, index);
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

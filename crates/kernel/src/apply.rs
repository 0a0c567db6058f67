//! Changes, carried out in order.
//!
//! Requests over netlink that follow each other go out together, and each is
//! acknowledged by itself. A setting, and a question before a deletion, make
//! the requests before it go first.

use std::{io, mem, net::IpAddr};

use ipnet::IpNet;
use l2isolate_model::{
    IfName,
    desired::{Key, Target, Value},
};
use l2isolate_reconcile::Change;
use nix::errno::Errno;

use crate::{
    Kernel, any,
    decode::{Address, Neighbour, Slot},
    encode,
    error::{ApplyError, Error, Refusal, describe},
    settings,
    socket::Answer,
    uapi::{AF_INET, AF_INET6},
    wire::Request,
};

/// What came of a change.
type Outcome = Result<(), ApplyError>;

/// Requests that wait to be sent, each with the place of its change.
#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    places: Vec<usize>,
}

impl Kernel {
    /// Carries changes out in order, one result for each. One that fails
    /// doesn't stop the others; deleting what isn't there, or isn't ours,
    /// succeeds.
    pub fn apply(&mut self, changes: &[Change<Key, Value>]) -> Vec<Result<(), ApplyError>> {
        // Those that are sent get the last word on theirs when they're sent.
        let mut outcomes: Vec<Outcome> = changes.iter().map(|_| Ok(())).collect();
        let mut queue = Queue::default();
        for (place, change) in changes.iter().enumerate() {
            let alone = match change {
                Change::Set(Key::Sysctl(..), _) => true,
                Change::Delete(key) => Slot::of(key).is_none(),
                Change::Set(..) => false,
            };
            if alone {
                self.send(&mut queue, changes, &mut outcomes);
            }
            match self.requests_for(change) {
                Ok(requests) => {
                    queue.places.extend(requests.iter().map(|_| place));
                    queue.requests.extend(requests);
                }
                Err(error) => {
                    if let Some(outcome) = outcomes.get_mut(place) {
                        *outcome = Err(error);
                    }
                }
            }
        }
        self.send(&mut queue, changes, &mut outcomes);
        outcomes
    }

    /// Does what is done without netlink; gives the requests for all else.
    fn requests_for(&mut self, change: &Change<Key, Value>) -> Result<Vec<Request>, ApplyError> {
        match change {
            Change::Set(Key::Sysctl(knob, device), value) => {
                settings::write(*knob, *device, value)
                    .map_err(|error| ApplyError::file(change, error))?;
                Ok(Vec::new())
            }
            Change::Set(key, value) => self.set(change, key, value),
            Change::Delete(key) => self.delete(change, key),
        }
    }

    fn set(
        &self,
        change: &Change<Key, Value>,
        key: &Key,
        value: &Value,
    ) -> Result<Vec<Request>, ApplyError> {
        let protocol = self.config.protocol;
        let index = |name| self.index(change, name);
        let request = match (key, value) {
            (Key::Mac(tap), Value::Mac(_))
            | (Key::Mtu(tap), Value::Mtu(_))
            | (Key::Up(tap), Value::Up(_)) => encode::set_link(index(*tap)?, value),
            (Key::Address(tap, net), Value::Address) => {
                Some(encode::set_address(index(*tap)?, *net, protocol))
            }
            (Key::Neighbour(tap, ip), Value::Mac(mac)) => {
                Some(encode::set_neighbour(index(*tap)?, *ip, *mac, protocol))
            }
            (Key::Tunnel, Value::Tunnel { port }) => {
                // A port can't be changed.
                let old = self.mirror.tunnel().map(encode::delete_link);
                return Ok(old
                    .into_iter()
                    .chain([encode::create_tunnel(*port)])
                    .collect());
            }
            (Key::TunnelRule(family), Value::Rule) => {
                Some(encode::tunnel_rule(true, *family, protocol))
            }
            (key, Value::Route(target)) => match Slot::of(key) {
                Some(slot) => return self.set_route(change, slot, *target),
                None => None,
            },
            _ => None,
        };
        let nonsense = || Refusal {
            errno: Errno::EINVAL,
            detail: "such an object has no such value".to_owned(),
        };
        request
            .map(|request| vec![request])
            .ok_or_else(|| ApplyError::refused(change, nonsense()))
    }

    fn set_route(
        &self,
        change: &Change<Key, Value>,
        slot: Slot,
        target: Target,
    ) -> Result<Vec<Request>, ApplyError> {
        let protocol = self.config.protocol;
        let index = match target {
            Target::Device(name) => Some(self.index(change, name)?),
            Target::Tunnel { .. } => Some(self.index(change, IfName::TUNNEL)?),
            Target::Unreachable => None,
        };
        let set = encode::set_route(slot, target, index, protocol);
        // Replacing replaces one route of the place, the first. Where others
        // have one beside ours, ours makes room, so that theirs is replaced.
        Ok(if self.mirror.contested(slot) {
            vec![encode::delete_route(slot, protocol), set]
        } else {
            vec![set]
        })
    }

    fn delete(
        &mut self,
        change: &Change<Key, Value>,
        key: &Key,
    ) -> Result<Vec<Request>, ApplyError> {
        let request = match *key {
            Key::Tunnel => self.mirror.tunnel().map(encode::delete_link),
            Key::TunnelRule(family) => {
                Some(encode::tunnel_rule(false, family, self.config.protocol))
            }
            Key::Route(..) | Key::Delivery(_) => {
                let protocol = self.config.protocol;
                let Some(slot) = Slot::of(key) else {
                    return Ok(Vec::new());
                };
                let delete = encode::delete_route(slot, protocol);
                // BIRD passes over what is said of a route without carrier, also
                // that it goes: it would announce it until its next scan.
                if self.mirror.leads_to_nobody(slot) {
                    let target = Target::Unreachable;
                    let first = encode::set_route(slot, target, None, protocol);
                    return Ok(vec![first, delete]);
                }
                Some(delete)
            }
            // The kernel deletes these whoever made them, so it's asked first.
            Key::Address(tap, net) => match self.mirror.index(tap) {
                Some(index) if self.owns_address(change, index, net)? => {
                    Some(encode::delete_address(index, net))
                }
                _ => None,
            },
            Key::Neighbour(tap, ip) => match self.mirror.index(tap) {
                Some(index) if self.owns_neighbour(change, index, ip)? => {
                    Some(encode::delete_neighbour(index, ip))
                }
                _ => None,
            },
            Key::Sysctl(..) | Key::Mac(_) | Key::Mtu(_) | Key::Up(_) => {
                let detail = "it is always there and can only be set".to_owned();
                let refusal = Refusal {
                    errno: Errno::EOPNOTSUPP,
                    detail,
                };
                return Err(ApplyError::refused(change, refusal));
            }
        };
        Ok(request.into_iter().collect())
    }

    fn index(&self, change: &Change<Key, Value>, name: IfName) -> Result<u32, ApplyError> {
        self.mirror
            .index(name)
            .ok_or_else(|| ApplyError::Absent(describe(change)))
    }

    fn owns_address(
        &mut self,
        change: &Change<Key, Value>,
        index: u32,
        net: IpNet,
    ) -> Result<bool, ApplyError> {
        let family = if net.addr().is_ipv4() {
            AF_INET
        } else {
            AF_INET6
        };
        let request = encode::get_addresses(family, index);
        let protocol = self.config.protocol;
        let addresses = match self.requests.dump("reading addresses", &request) {
            Ok(addresses) => addresses,
            Err(error) => return unless_gone(change, error),
        };
        Ok(any(&addresses, |message| {
            Address::read(message).is_some_and(|address| {
                (address.index, address.net, address.protocol) == (index, net, protocol)
            })
        }))
    }

    fn owns_neighbour(
        &mut self,
        change: &Change<Key, Value>,
        index: u32,
        ip: IpAddr,
    ) -> Result<bool, ApplyError> {
        let protocol = self.config.protocol;
        let request = encode::get_neighbour(index, ip);
        let answer = match self.requests.get("reading a neighbour entry", &request) {
            Ok(answer) => answer,
            Err(error) => return unless_gone(change, error),
        };
        Ok(any(answer, |message| {
            Neighbour::read(message).is_some_and(|neighbour| neighbour.protocol == protocol)
        }))
    }

    /// Sends what waits, and notes what came of it.
    fn send(
        &mut self,
        queue: &mut Queue,
        changes: &[Change<Key, Value>],
        outcomes: &mut [Outcome],
    ) {
        if queue.requests.is_empty() {
            return;
        }
        let Queue { requests, places } = mem::take(queue);
        let answers = self.requests.tell(&requests);
        for (answer, place) in answers.into_iter().zip(places) {
            if let (Some(change), Some(outcome)) = (changes.get(place), outcomes.get_mut(place)) {
                // Of several requests the last one makes the change.
                *outcome = self.judge(change, answer);
            }
        }
    }

    fn judge(&mut self, change: &Change<Key, Value>, answer: Answer) -> Outcome {
        let refusal = match answer {
            Ok(Ok(())) => {
                match change {
                    Change::Set(key, value) => match Slot::of(key) {
                        Some(slot) => self.mirror.settle(slot),
                        None => self.told.extend(self.mirror.became(*key, *value)),
                    },
                    Change::Delete(_) => {}
                }
                return Ok(());
            }
            Ok(Err(refusal)) => refusal,
            Err(error) => return Err(ApplyError::Io(describe(change), error)),
        };
        match (change, refusal.errno) {
            (Change::Delete(_), errno) if gone(errno) => Ok(()),
            // Ours is there, and somebody's before it: the next try clears up.
            (Change::Set(key, _), Errno::EEXIST) => {
                if let Some(slot) = Slot::of(key) {
                    self.mirror.contest(slot);
                }
                Err(ApplyError::refused(change, refusal))
            }
            _ => Err(ApplyError::refused(change, refusal)),
        }
    }
}

/// The object of a deletion isn't there, or not even its device.
fn gone(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENXIO
    )
}

/// The answer to "is it ours?" where the kernel gives none.
fn unless_gone(change: &Change<Key, Value>, error: Error) -> Result<bool, ApplyError> {
    match error {
        Error::Refused(_, refusal) if gone(refusal.errno) => Ok(false),
        Error::Refused(_, refusal) => Err(ApplyError::refused(change, refusal)),
        Error::Socket(_, error) => Err(ApplyError::Io(describe(change), error)),
        Error::Unstable(_) => Err(ApplyError::Io(describe(change), io::Error::other(error))),
    }
}

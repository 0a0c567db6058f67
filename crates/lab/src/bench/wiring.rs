//! What a wired port is, seen from the kernel's side.
//!
//! The list is written down here once more, from the operator's view, and not
//! taken from the agent's plan: the bench shall notice what is missing.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::Path,
    time::Instant,
};

use super::{
    message::{News, Object},
    monitor::Event,
};
use crate::{
    Error, Result,
    fabric::{Family, GATEWAY4, GATEWAY6, Vm},
    netns,
};

const METRIC: u32 = 5;
const FLOOR_METRIC: u32 = (200 << 24) | 0xff_ffff;
const MAC: [u8; 6] = [0x02, 0x4c, 0x32, 0x49, 0x53, 0x4f];

/// What every tap's settings shall be; the last path element but one is the
/// device. Most of them are inherited or set without a message of the kernel,
/// so they are read when all else is there.
const SETTINGS: &[(&str, &str, &str)] = &[
    ("ipv4/conf", "forwarding", "1"),
    ("ipv4/conf", "proxy_arp", "1"),
    ("ipv4/conf", "rp_filter", "0"),
    ("ipv4/conf", "arp_ignore", "1"),
    ("ipv4/conf", "send_redirects", "0"),
    ("ipv4/neigh", "proxy_delay", "0"),
    ("ipv6/conf", "forwarding", "1"),
    ("ipv6/conf", "accept_ra", "0"),
    ("ipv6/conf", "accept_dad", "0"),
];

/// All objects of one port.
fn objects(vm: &Vm, device: u32) -> impl Iterator<Item = Object> {
    let gateways = [GATEWAY4.into(), GATEWAY6.into()];
    let of_family = Family::ALL.into_iter().zip(gateways);
    let of_family = of_family.flat_map(move |(family, gateway): (_, IpAddr)| {
        let address = vm.address(family);
        let route = |metric, device| Object::Route {
            to: address,
            metric,
            device,
        };
        [
            route(METRIC, Some(device)),
            route(FLOOR_METRIC, None),
            Object::Neighbour { device, address },
            Object::Address {
                device,
                address: gateway,
            },
        ]
    });
    of_family.chain([
        Object::ProxyArp { device },
        Object::Hardware { device, mac: MAC },
    ])
}

/// When ports came into the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The first tap was named.
    pub(super) named: Instant,
    /// It was switched on.
    pub(super) up: Instant,
    /// The first object that the agent made.
    pub(super) first: Instant,
    /// The last one.
    pub(super) last: Instant,
}

/// Ports on their way into the kernel.
#[derive(Debug, Default)]
pub(super) struct Wiring<'a> {
    /// By tap; those whose tap hasn't been seen yet.
    awaited: HashMap<&'a str, &'a Vm>,
    expected: HashSet<Object>,
    missing: HashSet<Object>,
    /// When the first tap was named, and when it was switched on.
    named: Option<Instant>,
    up: Option<Instant>,
    /// When the first and the last of the objects came.
    first: Option<Instant>,
    last: Option<Instant>,
}

impl<'a> Wiring<'a> {
    /// Waits for these ports.
    pub(super) fn of(vms: &'a [Vm]) -> Self {
        Self {
            awaited: vms.iter().map(|vm| (vm.tap.as_str(), vm)).collect(),
            ..Self::default()
        }
    }

    /// Takes a message in.
    pub(super) fn hear(&mut self, event: &Event<News>) {
        match &event.news {
            News::Link {
                index,
                name,
                mac,
                up,
            } => {
                if let Some(vm) = self.awaited.remove(name.as_str()) {
                    self.named.get_or_insert(event.at);
                    self.expected.extend(objects(vm, *index));
                    self.missing.extend(objects(vm, *index));
                }
                let device = *index;
                if *up && self.expected.contains(&Object::ProxyArp { device }) {
                    self.up.get_or_insert(event.at);
                }
                if let Some(mac) = *mac {
                    self.note(event.at, Object::Hardware { device, mac }, true);
                }
            }
            News::Object { object, there } => self.note(event.at, *object, *there),
            News::Setting { proxy_arp } => {
                if let Some((device, on)) = *proxy_arp {
                    self.note(event.at, Object::ProxyArp { device }, on);
                }
            }
        }
    }

    fn note(&mut self, at: Instant, object: Object, there: bool) {
        if !there {
            if self.expected.contains(&object) {
                self.missing.insert(object);
            }
        } else if self.missing.remove(&object) {
            self.first.get_or_insert(at);
            self.last = Some(at);
        }
    }

    /// Whether every tap has been seen.
    pub(super) fn all_taps(&self) -> bool {
        self.awaited.is_empty()
    }

    /// When it all came, if all is there.
    pub(super) fn complete(&self) -> Option<Times> {
        if !self.awaited.is_empty() || !self.missing.is_empty() {
            return None;
        }
        Some(Times {
            named: self.named?,
            up: self.up?,
            first: self.first?,
            last: self.last?,
        })
    }

    /// What is missing, for a message.
    pub(super) fn missing(&self) -> String {
        let some: Vec<String> = (self.awaited.keys().map(|tap| format!("device {tap}")))
            .chain(self.missing.iter().map(|object| format!("{object:?}")))
            .take(8)
            .collect();
        format!(
            "{} ({} in all)",
            some.join(", "),
            self.awaited.len() + self.missing.len()
        )
    }
}

/// Reads the settings of all taps.
///
/// # Errors
/// One isn't as it should be.
pub(super) fn check_settings(namespace: &str, vms: &[Vm]) -> Result<()> {
    netns::inside(namespace, || {
        for vm in vms {
            for (directory, name, wanted) in SETTINGS {
                let path = Path::new("/proc/sys/net")
                    .join(directory)
                    .join(&vm.tap)
                    .join(name);
                let found = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
                if found.trim() != *wanted {
                    return Err(Error::Program(format!(
                        "{} is {} and not {wanted}: the port isn't wired, so its times say nothing",
                        path.display(),
                        found.trim()
                    )));
                }
            }
        }
        Ok(())
    })?
}

//! What is known of the kernel, just enough to tell what each message means.
//!
//! The kernel announces most changes, but some only by what caused them:
//!
//! | cause | goes without a message |
//! |---|---|
//! | a device goes down | its IPv4 routes; its IPv6 routes under `net.ipv6.route.skip_notify_on_dev_down` |
//! | a device loses its last IPv4 address, whoever's | its IPv4 routes |
//! | a device goes | whatever of the above still was on it |
//! | a device is renamed | nothing, but all that is on it has another name |
//! | somebody replaces our route | our route |
//!
//! So the mirror holds, per device, what is ours on it and all its IPv4
//! addresses. A full observation fills a new mirror by the same code that
//! events go through.
//!
//! What can break it: a message that was lost. Then it's filled anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use l2isolate_model::{
    IfName, Mac,
    desired::{Key, Knob, Objects, Target, Value},
    filter::Family,
    tap::Tap,
};

use crate::{
    decode::{Address, Leads, Link, Neighbour, Netconf, Route, Slot, tunnel_rule},
    event::Event,
    settings,
    uapi::{flag, kind, link, netconf::NETCONFA_IFINDEX_ALL},
    wire::Message,
};

#[derive(Debug)]
struct Device {
    name: IfName,
    tap: Tap,
    /// See [`Link::tunnel`].
    tunnel: Option<u16>,
    /// All IPv4 addresses, also those of others.
    addresses4: HashSet<IpNet>,
    addresses: BTreeSet<IpNet>,
    neighbours: BTreeMap<IpAddr, Mac>,
    /// Routes that go when the device goes down.
    routes: BTreeSet<Slot>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    protocol: u8,
    devices: HashMap<u32, Device>,
    names: BTreeMap<IfName, u32>,
    routes: HashMap<Slot, Leads>,
    /// Places in which setting a route begins with removing ours: another one
    /// stands beside it, or the same has to be told anew.
    contested: HashSet<Slot>,
    /// Families whose rule for what comes out of the tunnel is ours.
    rules: BTreeSet<Family>,
}

/// Events in the making.
type Out = Vec<Event>;

fn gone(key: Key) -> Event {
    Event::Object(key, None)
}

/// The objects that a device has by being there.
fn properties(
    name: IfName,
    tap: &Tap,
    tunnel: Option<u16>,
) -> impl Iterator<Item = (Key, Value)> + use<> {
    // Somebody else's device of that name is none of our objects.
    let port = tunnel.filter(|_| name == IfName::TUNNEL);
    let tunnel = port.map(|port| (Key::Tunnel, Value::Tunnel { port }));
    let mac = tap.mac.map(|mac| (Key::Mac(name), Value::Mac(mac)));
    let others = [
        (Key::Mtu(name), Value::Mtu(tap.mtu)),
        (Key::Up(name), Value::Up(tap.up)),
    ];
    tunnel.into_iter().chain(mac).chain(others)
}

impl Mirror {
    /// An empty one; `protocol` marks what is ours.
    pub(crate) fn new(protocol: u8) -> Self {
        Self {
            protocol,
            ..Self::default()
        }
    }

    /// The index of a device.
    pub(crate) fn index(&self, name: IfName) -> Option<u32> {
        self.names.get(&name).copied()
    }

    /// The index of the tunnel device, if it is one as we make it.
    pub(crate) fn tunnel(&self) -> Option<u32> {
        let index = self.index(IfName::TUNNEL)?;
        self.devices.get(&index)?.tunnel.map(|_| index)
    }

    /// All devices.
    pub(crate) fn links(&self) -> impl Iterator<Item = (IfName, &Tap)> {
        self.devices
            .values()
            .map(|device| (device.name, &device.tap))
    }

    /// Whether ours leads out of a device that is up and has no carrier.
    pub(crate) fn leads_to_nobody(&self, slot: Slot) -> bool {
        let leads = self.routes.get(&slot).copied();
        let device = leads.and_then(Leads::device);
        device
            .and_then(|index| self.devices.get(&index))
            .is_some_and(|device| device.tap.up && !device.tap.carrier)
    }

    /// Whether ours has to make room when the place is set.
    pub(crate) fn contested(&self, slot: Slot) -> bool {
        self.contested.contains(&slot)
    }

    /// Notes that another route stands in that place.
    pub(crate) fn contest(&mut self, slot: Slot) {
        self.contested.insert(slot);
    }

    /// Notes that nothing but ours is in that place.
    pub(crate) fn settle(&mut self, slot: Slot) {
        self.contested.remove(&slot);
    }

    /// Notes what was set on a device. The kernel says of a new IPv6 address
    /// only a moment later, and nothing where no more than a neighbour entry's
    /// protocol number is new.
    pub(crate) fn became(&mut self, key: Key, value: Value) -> Option<Event> {
        let device = self.devices.get_mut(self.names.get(&key.device()?)?)?;
        let new = match (key, value) {
            (Key::Address(_, net), Value::Address) => device.addresses.insert(net),
            (Key::Neighbour(_, ip), Value::Mac(mac)) => {
                device.neighbours.insert(ip, mac) != Some(mac)
            }
            _ => false,
        };
        new.then_some(Event::Object(key, Some(value)))
    }

    /// All objects but the settings.
    pub(crate) fn objects(&self) -> Objects {
        let mut objects = Objects::new();
        for device in self.devices.values() {
            let name = device.name;
            objects.extend(properties(name, &device.tap, device.tunnel));
            let addresses = device.addresses.iter();
            objects.extend(addresses.map(|net| (Key::Address(name, *net), Value::Address)));
            let neighbours = device.neighbours.iter();
            objects
                .extend(neighbours.map(|(ip, mac)| (Key::Neighbour(name, *ip), Value::Mac(*mac))));
        }
        for (slot, leads) in &self.routes {
            if let Some(value) = self.route_value(*leads) {
                objects.insert(slot.key(), value);
            }
        }
        let rules = self.rules.iter();
        objects.extend(rules.map(|family| (Key::TunnelRule(*family), Value::Rule)));
        objects
    }

    /// Takes in one message, and says what it means.
    pub(crate) fn take(&mut self, message: &Message<'_>, out: &mut Out) {
        match message.kind {
            // First, since there may be tens of thousands of others'.
            kind::RTM_NEWROUTE | kind::RTM_DELROUTE => self.route(message, out),
            kind::RTM_NEWLINK => {
                if let Some(link) = Link::read(message) {
                    self.link(&link, out);
                }
            }
            kind::RTM_DELLINK => {
                if let Some(link) = Link::read(message) {
                    self.drop_device(link.index, out);
                }
            }
            kind::RTM_NEWADDR | kind::RTM_DELADDR => {
                if let Some(address) = Address::read(message) {
                    self.address(&address, message.kind == kind::RTM_NEWADDR, out);
                }
            }
            kind::RTM_NEWNEIGH | kind::RTM_DELNEIGH => {
                if let Some(neighbour) = Neighbour::read(message) {
                    self.neighbour(&neighbour, message.kind == kind::RTM_NEWNEIGH, out);
                }
            }
            kind::RTM_NEWRULE | kind::RTM_DELRULE => {
                if let Some(family) = tunnel_rule(message, self.protocol) {
                    let new = message.kind == kind::RTM_NEWRULE;
                    if new {
                        self.rules.insert(family);
                    } else {
                        self.rules.remove(&family);
                    }
                    out.push(Event::Object(
                        Key::TunnelRule(family),
                        new.then_some(Value::Rule),
                    ));
                }
            }
            kind::RTM_NEWNETCONF | kind::RTM_DELNETCONF => {
                if let Some(netconf) = Netconf::read(message) {
                    self.netconf(&netconf, message.kind == kind::RTM_NEWNETCONF, out);
                }
            }
            _ => {}
        }
    }

    fn link(&mut self, link: &Link<'_>, out: &mut Out) {
        let known = self.devices.get(&link.index).map(|device| device.name);
        let Some(name) = link.name else {
            // Renamed to what no tap can be called. Should it get a proper name
            // again, the next observation shows what is on it.
            self.drop_device(link.index, out);
            return;
        };
        let tap = Tap {
            index: link.index,
            mac: link.mac,
            mtu: link.mtu,
            up: link.flags & link::IFF_UP != 0,
            carrier: link.flags & link::IFF_LOWER_UP != 0,
        };
        // Another device of that name has been renamed or has gone.
        if let Some(other) = self.index(name).filter(|index| *index != link.index) {
            self.drop_device(other, out);
        }
        match known {
            Some(old) if old == name => self.changed(link.index, tap, out),
            Some(old) => self.renamed(old, name, tap, out),
            None => {
                out.push(Event::Link(name, Some(tap.clone())));
                let tunnel = link.tunnel;
                out.extend(properties(name, &tap, tunnel).map(|(k, v)| Event::Object(k, Some(v))));
                out.push(Event::SysctlsDirty(name));
                self.names.insert(name, link.index);
                let device = Device {
                    name,
                    tap,
                    tunnel,
                    addresses4: HashSet::new(),
                    addresses: BTreeSet::new(),
                    neighbours: BTreeMap::new(),
                    routes: BTreeSet::new(),
                };
                self.devices.insert(link.index, device);
            }
        }
    }

    fn changed(&mut self, index: u32, tap: Tap, out: &mut Out) {
        let Some(device) = self
            .devices
            .get_mut(&index)
            .filter(|device| device.tap != tap)
        else {
            return;
        };
        let name = device.name;
        let old = std::mem::replace(&mut device.tap, tap.clone());
        let before: Vec<_> = properties(name, &old, None).collect();
        out.push(Event::Link(name, Some(tap.clone())));
        if old.mac.is_some() && tap.mac.is_none() {
            out.push(gone(Key::Mac(name)));
        }
        let now = properties(name, &tap, None).filter(|property| !before.contains(property));
        out.extend(now.map(|(key, value)| Event::Object(key, Some(value))));
        if old.up && !tap.up {
            self.drop_routes(index, |_| true, out);
        }
        if !old.carrier && tap.carrier {
            // Nothing tells those who follow the kernel's messages that these
            // routes work now; setting them anew does, if ours makes room: an
            // equal route in its place would be no change, and no message.
            let slots = self.devices.get(&index).map(|device| device.routes.clone());
            self.contested.extend(slots.into_iter().flatten());
        }
    }

    fn renamed(&mut self, old: IfName, new: IfName, tap: Tap, out: &mut Out) {
        let Some(index) = self.names.remove(&old) else {
            return;
        };
        self.names.insert(new, index);
        if let Some(device) = self.devices.get_mut(&index) {
            Self::bury(device, out);
            device.name = new;
            device.tap = tap.clone();
            out.push(Event::Link(new, Some(tap.clone())));
            let properties = properties(new, &tap, device.tunnel);
            out.extend(properties.map(|(k, v)| Event::Object(k, Some(v))));
            let addresses = device.addresses.iter();
            out.extend(
                addresses.map(|net| Event::Object(Key::Address(new, *net), Some(Value::Address))),
            );
            let neighbours = device.neighbours.iter();
            out.extend(
                neighbours.map(|(ip, mac)| {
                    Event::Object(Key::Neighbour(new, *ip), Some(Value::Mac(*mac)))
                }),
            );
        }
        let slots = self.devices.get(&index).map(|device| device.routes.clone());
        for slot in slots.into_iter().flatten() {
            let value = self
                .routes
                .get(&slot)
                .and_then(|leads| self.route_value(*leads));
            out.push(Event::Object(slot.key(), value));
        }
        out.push(Event::SysctlsDirty(new));
    }

    fn drop_device(&mut self, index: u32, out: &mut Out) {
        self.drop_routes(index, |_| true, out);
        if let Some(device) = self.devices.remove(&index) {
            Self::bury(&device, out);
            self.names.remove(&device.name);
        }
    }

    /// Nothing of that name is there any more.
    fn bury(device: &Device, out: &mut Out) {
        let name = device.name;
        out.push(Event::Link(name, None));
        out.extend(properties(name, &device.tap, device.tunnel).map(|(key, _)| gone(key)));
        out.extend(
            device
                .addresses
                .iter()
                .map(|net| gone(Key::Address(name, *net))),
        );
        out.extend(
            device
                .neighbours
                .keys()
                .map(|ip| gone(Key::Neighbour(name, *ip))),
        );
        let knobs = Knob::ALL.iter().filter(|knob| knob.per_device());
        out.extend(knobs.map(|knob| gone(Key::Sysctl(*knob, Some(name)))));
    }

    fn address(&mut self, address: &Address, new: bool, out: &mut Out) {
        let ours = new && address.protocol == self.protocol;
        let Some(device) = self.devices.get_mut(&address.index) else {
            return;
        };
        let key = Key::Address(device.name, address.net);
        let known = device.addresses.contains(&address.net);
        if ours && !known {
            device.addresses.insert(address.net);
            out.push(Event::Object(key, Some(Value::Address)));
        } else if known && !ours {
            device.addresses.remove(&address.net);
            out.push(gone(key));
            // It may have gone because somebody switched IPv6 off, of which
            // the kernel says nothing else.
            if device.tap.up && !new && address.net.addr().is_ipv6() {
                out.push(Event::SysctlsDirty(device.name));
            }
        }
        if address.net.addr().is_ipv6() {
            return;
        }
        if new {
            device.addresses4.insert(address.net);
        } else if device.addresses4.remove(&address.net) && device.addresses4.is_empty() {
            self.drop_routes(address.index, |prefix| prefix.addr().is_ipv4(), out);
        }
    }

    fn neighbour(&mut self, neighbour: &Neighbour, new: bool, out: &mut Out) {
        let Some(device) = self.devices.get_mut(&neighbour.index) else {
            return;
        };
        let key = Key::Neighbour(device.name, neighbour.address);
        let ours = neighbour
            .permanent
            .filter(|_| new && neighbour.protocol == self.protocol);
        let known = match ours {
            Some(mac) => device.neighbours.insert(neighbour.address, mac),
            None => device.neighbours.remove(&neighbour.address),
        };
        if known != ours {
            out.push(Event::Object(key, ours.map(Value::Mac)));
        }
    }

    fn route(&mut self, message: &Message<'_>, out: &mut Out) {
        let Some(protocol) = Route::protocol(message) else {
            return;
        };
        let new = message.kind == kind::RTM_NEWROUTE;
        // What becomes of others' routes matters only where one replaces ours.
        if protocol != self.protocol && (!new || self.routes.is_empty()) {
            return;
        }
        let Some(route) = Route::read(message) else {
            return;
        };
        let slot = route.slot;
        let known = self.routes.get(&slot).copied();
        match (route.protocol == self.protocol, new) {
            (true, true) => {
                if known != Some(route.leads) {
                    // With two of ours in one place, one is too many.
                    if known.is_some() && message.flags & flag::NLM_F_REPLACE == 0 {
                        self.contested.insert(slot);
                    }
                    self.forget_route(slot);
                    self.routes.insert(slot, route.leads);
                    let device = route.leads.device();
                    if let Some(device) = device.and_then(|index| self.devices.get_mut(&index)) {
                        device.routes.insert(slot);
                    }
                    let value = self.route_value(route.leads);
                    out.push(Event::Object(slot.key(), value));
                }
            }
            // Otherwise another of ours that had stood beside it.
            (true, false) if known == Some(route.leads) => self.drop_route(slot, out),
            (true, false) | (false, false) => {}
            (false, true) if known.is_some() => {
                if message.flags & flag::NLM_F_REPLACE == 0 {
                    self.contested.insert(slot);
                }
                // Behind ours it does no harm; any other place hides ours.
                if message.flags & flag::NLM_F_APPEND == 0 {
                    self.drop_route(slot, out);
                }
            }
            (false, true) => {}
        }
    }

    fn netconf(&mut self, netconf: &Netconf<'_>, new: bool, out: &mut Out) {
        let Ok(index) = u32::try_from(netconf.index) else {
            // What devices start with (-2) is none of our settings.
            if netconf.index == NETCONFA_IFINDEX_ALL {
                out.push(Event::HostSysctlsDirty);
            }
            return;
        };
        let Some(device) = self.devices.get(&index) else {
            return;
        };
        let name = device.name;
        match netconf.single().filter(|_| new) {
            Some((kind, number)) => {
                if let Some(knob) = settings::announced(netconf.family, kind) {
                    let value = Value::Number(number.into());
                    out.push(Event::Object(Key::Sysctl(knob, Some(name)), Some(value)));
                }
            }
            // A family's settings have come into being, or have gone.
            None => out.push(Event::SysctlsDirty(name)),
        }
    }

    /// What a route is, where it can be named.
    fn route_value(&self, leads: Leads) -> Option<Value> {
        match leads {
            Leads::Device(index) => {
                let device = self.devices.get(&index)?;
                Some(Value::Route(Target::Device(device.name)))
            }
            Leads::Tunnel { device, from, to } => {
                let name = self.devices.get(&device)?.name;
                Some(match name {
                    IfName::TUNNEL => Value::Route(Target::Tunnel { from, to }),
                    _ => Value::Other,
                })
            }
            Leads::Unreachable(_) => Some(Value::Route(Target::Unreachable)),
            Leads::Otherwise => Some(Value::Other),
        }
    }

    fn forget_route(&mut self, slot: Slot) {
        let leads = self.routes.remove(&slot);
        let device = leads.and_then(Leads::device);
        if let Some(device) = device.and_then(|index| self.devices.get_mut(&index)) {
            device.routes.remove(&slot);
        }
    }

    fn drop_route(&mut self, slot: Slot, out: &mut Out) {
        self.forget_route(slot);
        out.push(gone(slot.key()));
    }

    /// The device's routes to such prefixes have gone.
    fn drop_routes(&mut self, index: u32, which: impl Fn(&IpNet) -> bool, out: &mut Out) {
        let slots = self.devices.get(&index).map(|device| device.routes.clone());
        for slot in slots
            .into_iter()
            .flatten()
            .filter(|slot| which(&slot.prefix))
        {
            self.drop_route(slot, out);
        }
    }
}

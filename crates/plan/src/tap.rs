//! What a tap wants: the wiring of one port, both families alike.
//!
//! | the tap's port is | link | gateway, metadata's addresses, neighbours | floor | route (announced) | proxy ARP |
//! |---|---|---|---|---|---|
//! | active, live, or outgoing | up | yes | yes | yes | on |
//! | followed | up | yes | yes | yes: by the tunnel to its new host | off |
//! | incoming, or left | up | yes | no: the guest still runs elsewhere, or does now | no | off |
//! | administratively down | down | no | no | no | off |
//! | not there, but was once | as found | no | no | no | off |
//! | not there | as found | no | no | no | as found |
//!
//! A port that is followed has its routes without a tap as well. Where there is a
//! tunnel, what comes out of it is routed to the taps of guests that are here or
//! are expected, by a table that nothing else asks.
//!
//! [`crate::migration`] says which of the first three a port is.

use std::net::IpAddr;

use ipnet::IpNet;
use l2isolate_model::{
    IfName,
    desired::{Key, Knob, Objects, Target, Value},
    metadata,
    port::CheckedPort,
};

use crate::{
    Config, FLOOR_METRIC, TapView, guest,
    migration::{self, State},
};

/// Settings of a tap that are the same for every port. `proxy_arp` is not
/// among them: it opens and closes with the port.
const SETTINGS: &[(Knob, i64)] = &[
    (Knob::TapForwarding4, 1),
    // Strict would drop what guests send from address pairs, which have no
    // route back to the tap. Anti-spoofing is the firewall's.
    (Knob::TapRpFilter, 0),
    // Only the gateway's own addresses; not the hypervisor's loopback.
    (Knob::TapArpIgnore, 1),
    (Knob::TapAcceptRedirects4, 0),
    (Knob::TapSendRedirects, 0),
    (Knob::TapSourceRoute4, 0),
    (Knob::TapProxyArpPvlan, 0),
    // The default is a random wait of up to 0.8 s before each answer.
    (Knob::TapProxyDelay4, 0),
    (Knob::TapDisable6, 0),
    (Knob::TapForwarding6, 1),
    (Knob::TapAcceptRa, 0),
    (Knob::TapAcceptRedirects6, 0),
    (Knob::TapAcceptDad, 0),
    // Only those that are planned shall be there; an address more on each
    // tap makes each further tap dearer for the kernel.
    (Knob::TapAddrGenMode, 1),
    (Knob::TapProxyDelay6, 0),
];

/// Plans one tap: `view` is the device if there is one, `port` the port that
/// has it. A port without a device, and a device without a port, are states
/// like any other.
#[must_use]
pub fn plan(
    name: IfName,
    view: Option<&TapView<'_>>,
    port: Option<&CheckedPort>,
    config: &Config,
) -> Objects {
    let of_port = port.map(|checked| checked.port.as_ref());
    let state = State::of_port(of_port, view, config);
    let step = view.map_or(config.leaving_steps, |view| view.step);
    let metric = state.announced(step, config);
    let Some(view) = view else {
        let port = port.filter(|port| port.port.admin_state_up);
        return port.map_or_else(Objects::new, |port| {
            followed(port, state, metric, config).collect()
        });
    };
    match port {
        Some(port) if port.port.admin_state_up => wired(name, port, state, metric, config),
        Some(_) => Objects::from([proxy_arp(name, false), (Key::Up(name), Value::Up(false))]),
        None if view.marked => Objects::from([proxy_arp(name, false)]),
        None => Objects::new(),
    }
}

fn proxy_arp(name: IfName, on: bool) -> (Key, Value) {
    (
        Key::Sysctl(Knob::TapProxyArp, Some(name)),
        Value::Number(on.into()),
    )
}

fn wired(
    name: IfName,
    port: &CheckedPort,
    state: State,
    metric: Option<u32>,
    config: &Config,
) -> Objects {
    let mut objects: Objects = SETTINGS
        .iter()
        .map(|(knob, value)| (Key::Sysctl(*knob, Some(name)), Value::Number(*value)))
        .collect();
    objects.extend([
        (Key::Mac(name), Value::Mac(config.tap_mac)),
        (Key::Mtu(name), Value::Mtu(port.port.mtu)),
        (Key::Up(name), Value::Up(true)),
    ]);
    let link_local = IpAddr::from(config.gateway_link_local);
    for address in gateways(port).chain([link_local]) {
        objects.insert(Key::Address(name, on_link(address)), Value::Address);
    }
    if config.dhcp && guest::serves_dhcp(port) {
        let address = IpAddr::from(guest::DHCP_ADDRESS);
        objects.insert(Key::Address(name, on_link(address)), Value::Address);
    }
    if config.metadata {
        let addresses = metadata::ADDRESSES.map(IpNet::from);
        objects.extend(addresses.map(|address| (Key::Address(name, address), Value::Address)));
    }
    let answers = state.here() && metric.is_some();
    objects.extend([proxy_arp(name, answers)]);
    for (address, _) in &port.addresses {
        objects.insert(Key::Neighbour(name, *address), Value::Mac(port.port.mac));
        if config.tunnel.is_some() && state.here() {
            let key = Key::Delivery(IpNet::from(*address));
            objects.insert(key, Value::Route(Target::Device(name)));
        }
    }
    if state != State::Followed {
        let to_tap = Target::Device(name);
        objects.extend(routes(port, metric, to_tap));
    }
    objects.extend(followed(port, state, metric, config));
    objects
}

/// The routes of a port whose guest is followed; they need no tap.
fn followed(
    port: &CheckedPort,
    state: State,
    metric: Option<u32>,
    config: &Config,
) -> impl Iterator<Item = (Key, Value)> {
    let way = migration::follow(&port.port, config).ok().flatten();
    let way = way.filter(|_| state == State::Followed);
    way.into_iter()
        .flat_map(move |target| routes(port, metric, target))
}

/// The announced routes, each with its floor.
fn routes(
    port: &CheckedPort,
    metric: Option<u32>,
    target: Target,
) -> impl Iterator<Item = (Key, Value)> {
    let prefixes = port
        .addresses
        .iter()
        .map(|(address, _)| IpNet::from(*address));
    let announced = metric.into_iter().map(move |metric| (metric, target));
    let ways = move || {
        announced
            .clone()
            .chain(metric.map(|_| (FLOOR_METRIC, Target::Unreachable)))
    };
    prefixes.flat_map(move |prefix| {
        ways().map(move |(metric, target)| (Key::Route(prefix, metric), Value::Route(target)))
    })
}

/// The routers that the port's subnets name.
fn gateways(port: &CheckedPort) -> impl Iterator<Item = IpAddr> {
    port.addresses
        .iter()
        .filter_map(|(_, subnet)| subnet.gateway)
}

/// A gateway's prefix on the tap. Nothing is on-link but the two ends, so it
/// is the address alone; a link-local one brings fe80::/64, on which guests
/// are reached by their own link-local addresses (RFC 4291, 2.5.6).
fn on_link(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            IpNet::new(address, 64).unwrap_or_else(|_| IpNet::from(address))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => IpNet::from(address),
    }
}

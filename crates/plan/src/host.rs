//! What the host wants as a whole, whatever runs on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use l2isolate_model::{
    IfName,
    desired::{Key, Knob, Objects, Target, Value},
    filter::Family,
};

use crate::{Config, Connections, Tunnel};

/// Neighbour tables: entries that are never collected, the soft and the hard
/// limit. Guests' own entries are permanent and don't count; these are for the
/// fabric and for what guests send from link-local addresses.
const NEIGHBOURS: (i64, i64, i64) = (4096, 8192, 16384);

/// With less, the kernel has no IPv6 on a device (RFC 8200, section 5). A guest
/// whose packets don't fit isn't followed anyway.
const MTU_IPV6: u32 = 1280;

/// How large the table of connections shall be for so many ports: for what all
/// of them together may have open, as far as there is memory. In powers of two,
/// since whenever it grows all that is in it is put in its place anew.
#[must_use]
pub fn connection_table(ports: usize, connections: Connections) -> i64 {
    let ports = u64::try_from(ports).unwrap_or(u64::MAX);
    let all = ports.saturating_mul(connections.per_port.into());
    let room = all.checked_next_power_of_two().unwrap_or(u64::MAX);
    room.min(connections.most.into())
        .try_into()
        .unwrap_or(i64::MAX)
}

/// Plans the host of so many ports: forwarding, equal-cost paths, the sizes of
/// tables, and its own prefixes.
#[must_use]
pub fn plan(ports: usize, config: &Config) -> Objects {
    let mut objects = Objects::new();
    if config.manage_host {
        let (min, soft, max) = NEIGHBOURS;
        objects.extend(
            [
                (Knob::Forwarding4, Value::Number(1)),
                (Knob::Forwarding6, Value::Number(1)),
                // Addresses and ports: flows of one guest use all uplinks.
                (Knob::MultipathHash4, Value::Number(1)),
                (Knob::MultipathHash6, Value::Number(1)),
                (Knob::IgnoreLinkdown4, Value::Number(1)),
                (Knob::IgnoreLinkdown6, Value::Number(1)),
                // The larger of this and the tap's own is in force.
                (Knob::AllRpFilter, Value::Number(0)),
                (Knob::AllProxyArp, Value::Number(0)),
                (Knob::NeighbourMax4, Value::AtLeast(max)),
                (Knob::NeighbourSoft4, Value::AtLeast(soft)),
                (Knob::NeighbourMin4, Value::AtLeast(min)),
                (Knob::NeighbourMax6, Value::AtLeast(max)),
                (Knob::NeighbourSoft6, Value::AtLeast(soft)),
                (Knob::NeighbourMin6, Value::AtLeast(min)),
            ]
            .map(|(knob, value)| (Key::Sysctl(knob, None), value)),
        );
        // As many places as entries, which is what the kernel does by itself.
        let room = config.connections.map(|it| connection_table(ports, it));
        objects.extend(room.filter(|room| *room > 0).into_iter().flat_map(|room| {
            [Knob::ConnectionsBuckets, Knob::ConnectionsMax]
                .map(|knob| (Key::Sysctl(knob, None), Value::AtLeast(room)))
        }));
    }
    // Delivery is the local table's; in the main table the prefix stands to be
    // picked up by the routing daemon, just as the guests' are.
    objects.extend(config.loopbacks.iter().filter_map(|prefix| {
        let lo = "lo".parse().ok()?;
        Some((
            Key::Route(*prefix, config.route_metric),
            Value::Route(Target::Device(lo)),
        ))
    }));
    objects.extend(config.tunnel.iter().flat_map(tunnel));
    objects
}

/// The end of the tunnels that is here: a device for all peers. What comes out of
/// it goes to guests that are here, and nowhere else: not to the host itself, not
/// into a tunnel again, not back to the fabric. So there is no loop, whatever two
/// hosts believe of each other.
fn tunnel(tunnel: &Tunnel) -> impl Iterator<Item = (Key, Value)> + use<> {
    let settings = [
        (Knob::TapForwarding4, 1),
        (Knob::TapForwarding6, 1),
        // Senders aren't routed back by it.
        (Knob::TapRpFilter, 0),
        (Knob::TapAcceptRedirects4, 0),
        (Knob::TapSendRedirects, 0),
        (Knob::TapDisable6, 0),
        (Knob::TapAcceptRa, 0),
        (Knob::TapAcceptRedirects6, 0),
        (Knob::TapAddrGenMode, 1),
    ];
    let settings = settings.map(|(knob, value)| {
        let key = Key::Sysctl(knob, Some(IfName::TUNNEL));
        (key, Value::Number(value))
    });
    let device = [
        (Key::Tunnel, Value::Tunnel { port: tunnel.port }),
        (
            Key::Mtu(IfName::TUNNEL),
            Value::Mtu(tunnel.mtu().max(MTU_IPV6)),
        ),
        (Key::Up(IfName::TUNNEL), Value::Up(true)),
    ];
    let everywhere = [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let nowhere = everywhere.into_iter().filter_map(|address| {
        let prefix = IpNet::new(address, 0).ok()?;
        Some((Key::Delivery(prefix), Value::Route(Target::Unreachable)))
    });
    let rules = Family::ALL.map(|family| (Key::TunnelRule(family), Value::Rule));
    device
        .into_iter()
        .chain(settings)
        .chain(nowhere)
        .chain(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A table that is full refuses everybody's connections: one guest at its
    // limit may not do that to others as long as there is memory.
    #[test]
    fn the_table_of_connections_holds_what_all_may_open() {
        let connections = Connections {
            per_port: 20_000,
            most: 8_000_000,
        };
        let room = |ports| connection_table(ports, connections);
        assert_eq!(room(0), 1);
        for ports in [1, 7, 50, 399] {
            let all = i64::try_from(ports).unwrap() * 20_000;
            assert!((all..2 * all).contains(&room(ports)), "{ports} ports");
        }
        assert_eq!(room(1000), 8_000_000);
        assert_eq!(room(usize::MAX), 8_000_000);
    }
}

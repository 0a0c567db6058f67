//! What an operator decides about the plan.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use l2isolate_model::Mac;

/// Metric of the route to a guest, unless configured. Smaller than what
/// routing daemons give to what they learn (FRR 20, BIRD 32): a guest that is
/// here is reached here, also when another host announces it.
pub const ROUTE_METRIC: u32 = 5;

/// Metric of the floor behind a guest's route. zebra reads the upper eight
/// bits as administrative distance, 200 here: worse than whatever BGP learns.
/// The rest, all ones, is nobody's metric, so the floor is never announced.
pub const FLOOR_METRIC: u32 = 200 << 24 | 0xff_ffff;

/// Settings of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Metric of routes that are announced; with the protocol number it tells
    /// a routing daemon which routes are ours to announce.
    pub route_metric: u32,
    /// In so many steps the path gets longer by which a guest is announced that
    /// leaves by live migration: the metrics above [`Self::route_metric`]
    /// ([`crate::migration`]).
    pub leaving_steps: u8,
    /// The host's own prefixes to announce beside the guests'.
    pub loopbacks: Vec<IpNet>,
    /// Hardware address of every tap's host end, on every host the same: a
    /// guest that migrates keeps its neighbour cache.
    pub tap_mac: Mac,
    /// Link-local address of every tap's host end, on every host the same.
    pub gateway_link_local: Ipv6Addr,
    /// Whether DHCPv4 is served on taps, which takes an address on each.
    pub dhcp: bool,
    /// Whether guests get metadata: its addresses are on every tap.
    pub metadata: bool,
    /// Whether settings of the host as a whole are ours to make.
    pub manage_host: bool,
    /// What the table of connections is sized by; none without a firewall.
    pub connections: Option<Connections>,
    /// Whether what arrives for guests that have left follows them.
    pub tunnel: Option<Tunnel>,
}

/// The tunnel between the two hosts of a live migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// This host's end, an underlay address. The other one has the same family.
    pub address: IpAddr,
    /// UDP port, the same on all hosts.
    pub port: u16,
    /// MTU of the underlay in bytes: the smallest of the uplinks'; 0: not known.
    pub underlay: u32,
}

impl Tunnel {
    /// MTU of what the tunnel carries, in bytes: the underlay's less the outer IP
    /// header, UDP's and VXLAN-GPE's.
    #[must_use]
    pub const fn mtu(&self) -> u32 {
        let outer = match self.address {
            IpAddr::V4(_) => 20,
            IpAddr::V6(_) => 40,
        };
        self.underlay.saturating_sub(outer + 8 + 8)
    }
}

impl Config {
    /// Metric of routes whose guests leave by live migration, at this step of
    /// [`Self::leaving_steps`], the first being 1.
    #[must_use]
    pub fn leaving_metric(&self, step: u8) -> u32 {
        self.route_metric.saturating_add(step.into())
    }

    /// Metrics of the routes that are announced, of which a prefix has one.
    pub fn announced_metrics(&self) -> impl Iterator<Item = u32> + Clone + use<> {
        let last = self.leaving_metric(self.leaving_steps);
        self.route_metric..=last
    }

    /// How a route of this metric is announced; `None`: it isn't.
    #[must_use]
    pub fn standing(&self, metric: u32) -> Option<Standing> {
        let step = metric.checked_sub(self.route_metric)?;
        match u8::try_from(step).ok()? {
            0 => Some(Standing::Here),
            step if step <= self.leaving_steps => Some(Standing::Leaving(step)),
            _ => None,
        }
    }
}

/// How a prefix is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// As usual.
    Here,
    /// Its guest leaves by live migration: by a path that is so much longer, until
    /// at the last step whoever announces it from elsewhere is preferred.
    Leaving(u8),
}

/// What the table of connections is sized by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Connections that one port may have, both ways together.
    pub per_port: u32,
    /// Connections that there is memory for.
    pub most: u32,
}

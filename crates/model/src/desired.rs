//! What a host shall have in its kernel, as keys and values.
//!
//! A [`Key`] names one object that can be set, failed and mended by itself; a
//! [`Value`] is what it shall be. Desired and observed state are both maps
//! from the one to the other, so comparing them is all that reconciling needs.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::Serialize;

use crate::{IfName, Mac, filter::Family};

/// One object of the host's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A setting below /proc/sys; with a tap's name if it is per device.
    Sysctl(Knob, Option<IfName>),
    /// The hardware address of a tap's host end.
    Mac(IfName),
    /// A tap's MTU.
    Mtu(IfName),
    /// Whether a tap is switched on (`IFF_UP`).
    Up(IfName),
    /// A local address on a tap.
    Address(IfName, IpNet),
    /// A neighbour entry on a tap.
    Neighbour(IfName, IpAddr),
    /// A route in the main table, by prefix and metric (`RTA_PRIORITY`).
    Route(IpNet, u32),
    /// The tunnel device, which is known by its name.
    Tunnel,
    /// The rule that what comes out of the tunnel is looked up in the table of
    /// [`Key::Delivery`], for one family.
    TunnelRule(Family),
    /// A route in the table [`DELIVERIES`], by prefix.
    Delivery(IpNet),
}

/// The routing table for what comes out of the tunnel, and the priority of the
/// rules that lead to it.
pub const DELIVERIES: u8 = 76;

/// What an object is, or shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// A setting with exactly this value.
    Number(i64),
    /// A setting that this kernel, or this namespace, doesn't have.
    Unavailable,
    /// A setting that can't be written here, since it is another namespace's to
    /// decide, and what it is.
    Fixed(i64),
    /// A setting that is wanted no smaller; a larger one is somebody's choice.
    AtLeast(i64),
    /// A hardware address: of a link, or of a permanent neighbour entry.
    Mac(Mac),
    /// An MTU in bytes.
    Mtu(u32),
    /// On or off.
    Up(bool),
    /// A local address: there is nothing more to say of it than that it's there.
    Address,
    /// A route.
    Route(Target),
    /// A tunnel device that takes both families and any peer: VXLAN-GPE on that
    /// UDP port, with its outer addresses from the route (`IFLA_VXLAN_GPE`,
    /// `IFLA_VXLAN_COLLECT_METADATA`).
    Tunnel {
        /// Destination port, also the one it listens on.
        port: u16,
    },
    /// A rule: its key says all of it.
    Rule,
    /// Something that is never wanted, such as a route of ours by a gateway.
    Other,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Straight out of a device (`scope link`).
    Device(IfName),
    /// Nowhere; senders are told so (`RTN_UNREACHABLE`).
    Unreachable,
    /// Through the tunnel device to another hypervisor (`LWTUNNEL_ENCAP_IP`,
    /// `LWTUNNEL_ENCAP_IP6`). Both addresses are of one family.
    Tunnel {
        /// Outer source: this host's underlay address.
        from: IpAddr,
        /// Outer destination: the other host's.
        to: IpAddr,
    },
}

/// No address sorts before it.
const LEAST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The kernel that [`Key`] and [`Value`] speak of, as a map.
pub type Objects = std::collections::BTreeMap<Key, Value>;

macro_rules! knobs {
    ($($(#[$doc:meta])* $name:ident = $path:literal,)*) => {
        /// A setting below /proc/sys/net that a routed host depends on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Knob {
            $($(#[$doc])* $name,)*
        }

        impl Knob {
            /// Every setting there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Path below /proc/sys; `*` stands for the device.
            #[must_use]
            pub const fn template(self) -> &'static str {
                match self { $(Self::$name => $path,)* }
            }
        }
    };
}

knobs! {
    /// IPv4 forwarding of the host and of every device.
    Forwarding4 = "net/ipv4/ip_forward",
    /// IPv6 forwarding of the host.
    Forwarding6 = "net/ipv6/conf/all/forwarding",
    /// Spread flows over equal paths by addresses and ports.
    MultipathHash4 = "net/ipv4/fib_multipath_hash_policy",
    /// The same for IPv6.
    MultipathHash6 = "net/ipv6/fib_multipath_hash_policy",
    /// Leave a path at once when its link has no carrier.
    IgnoreLinkdown4 = "net/ipv4/conf/all/ignore_routes_with_linkdown",
    /// The same for IPv6.
    IgnoreLinkdown6 = "net/ipv6/conf/all/ignore_routes_with_linkdown",
    /// The host's part of the reverse path filter: max(all, device) is in force.
    AllRpFilter = "net/ipv4/conf/all/rp_filter",
    /// The host's part of proxy ARP: all or device is enough.
    AllProxyArp = "net/ipv4/conf/all/proxy_arp",
    /// Neighbour entries that are never collected.
    NeighbourMin4 = "net/ipv4/neigh/default/gc_thresh1",
    /// Neighbour entries from which on old ones are collected.
    NeighbourSoft4 = "net/ipv4/neigh/default/gc_thresh2",
    /// Neighbour entries at most.
    NeighbourMax4 = "net/ipv4/neigh/default/gc_thresh3",
    /// See [`Knob::NeighbourMin4`].
    NeighbourMin6 = "net/ipv6/neigh/default/gc_thresh1",
    /// See [`Knob::NeighbourSoft4`].
    NeighbourSoft6 = "net/ipv6/neigh/default/gc_thresh2",
    /// See [`Knob::NeighbourMax4`].
    NeighbourMax6 = "net/ipv6/neigh/default/gc_thresh3",
    /// Connections that connection tracking knows at most.
    ConnectionsMax = "net/netfilter/nf_conntrack_max",
    /// Places in the table that they are found by; each stands there twice.
    ConnectionsBuckets = "net/netfilter/nf_conntrack_buckets",

    /// A tap's IPv4 forwarding.
    TapForwarding4 = "net/ipv4/conf/*/forwarding",
    /// A tap's reverse path filter.
    TapRpFilter = "net/ipv4/conf/*/rp_filter",
    /// Answer ARP only for addresses of the tap itself.
    TapArpIgnore = "net/ipv4/conf/*/arp_ignore",
    /// Believe routers on the tap.
    TapAcceptRedirects4 = "net/ipv4/conf/*/accept_redirects",
    /// Tell guests of shorter ways: there are none.
    TapSendRedirects = "net/ipv4/conf/*/send_redirects",
    /// Obey source routes.
    TapSourceRoute4 = "net/ipv4/conf/*/accept_source_route",
    /// Proxy ARP back out of the device the request came from.
    TapProxyArpPvlan = "net/ipv4/conf/*/proxy_arp_pvlan",
    /// Wait before a proxy ARP answer, in ticks.
    TapProxyDelay4 = "net/ipv4/neigh/*/proxy_delay",
    /// Switch IPv6 off.
    TapDisable6 = "net/ipv6/conf/*/disable_ipv6",
    /// A tap's IPv6 forwarding: be a router in neighbour advertisements.
    TapForwarding6 = "net/ipv6/conf/*/forwarding",
    /// Believe router advertisements of guests.
    TapAcceptRa = "net/ipv6/conf/*/accept_ra",
    /// Believe redirects of guests.
    TapAcceptRedirects6 = "net/ipv6/conf/*/accept_redirects",
    /// Test the gateway's addresses for duplicates.
    TapAcceptDad = "net/ipv6/conf/*/accept_dad",
    /// How the device's own link-local address is made; 1 is not at all
    /// (`IN6_ADDR_GEN_MODE_NONE`, linux/if_link.h).
    TapAddrGenMode = "net/ipv6/conf/*/addr_gen_mode",
    /// Wait before a proxy neighbour advertisement, in ticks.
    TapProxyDelay6 = "net/ipv6/neigh/*/proxy_delay",
    /// Answer a guest's ARP requests for whatever is routed elsewhere.
    TapProxyArp = "net/ipv4/conf/*/proxy_arp",
}

impl Knob {
    /// Whether there is one per device.
    #[must_use]
    pub fn per_device(self) -> bool {
        self.template().contains('*')
    }

    /// Path below /proc/sys.
    #[must_use]
    pub fn path(self, device: Option<IfName>) -> String {
        match device {
            Some(name) => self.template().replace('*', name.as_str()),
            None => self.template().to_owned(),
        }
    }
}

impl Key {
    /// A key that sorts before every address of the tap, and after every
    /// address of taps before it.
    #[must_use]
    pub fn first_address(tap: IfName) -> Self {
        Self::Address(tap, LEAST.into())
    }

    /// A key that sorts before every neighbour entry of the tap.
    #[must_use]
    pub fn first_neighbour(tap: IfName) -> Self {
        Self::Neighbour(tap, LEAST)
    }

    /// The tap that the key itself names; routes name theirs in the value.
    #[must_use]
    pub fn device(&self) -> Option<IfName> {
        match *self {
            Self::Sysctl(_, device) => device,
            Self::Mac(tap)
            | Self::Mtu(tap)
            | Self::Up(tap)
            | Self::Address(tap, _)
            | Self::Neighbour(tap, _) => Some(tap),
            Self::Tunnel => Some(IfName::TUNNEL),
            Self::Route(..) | Self::TunnelRule(_) | Self::Delivery(_) => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl(knob, device) => {
                write!(f, "sysctl {}", knob.path(*device).replace('/', "."))
            }
            Self::Mac(tap) => write!(f, "mac of {tap}"),
            Self::Mtu(tap) => write!(f, "mtu of {tap}"),
            Self::Up(tap) => write!(f, "state of {tap}"),
            Self::Address(tap, address) => write!(f, "address {address} dev {tap}"),
            Self::Neighbour(tap, address) => write!(f, "neighbour {address} dev {tap}"),
            Self::Route(prefix, metric) => write!(f, "route {prefix} metric {metric}"),
            Self::Tunnel => write!(f, "tunnel device {}", IfName::TUNNEL),
            Self::TunnelRule(family) => {
                let digit = match family {
                    Family::V4 => 4,
                    Family::V6 => 6,
                };
                write!(
                    f,
                    "IPv{digit} rule iif {} lookup {DELIVERIES}",
                    IfName::TUNNEL
                )
            }
            Self::Delivery(prefix) => write!(f, "route {prefix} table {DELIVERIES}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::AtLeast(n) => write!(f, "at least {n}"),
            Self::Unavailable => f.write_str("not available"),
            Self::Fixed(n) => write!(f, "fixed at {n}"),
            Self::Mac(mac) => write!(f, "{mac}"),
            Self::Mtu(mtu) => write!(f, "{mtu}"),
            Self::Up(true) => f.write_str("up"),
            Self::Up(false) => f.write_str("down"),
            Self::Address => f.write_str("present"),
            Self::Route(Target::Device(tap)) => write!(f, "dev {tap}"),
            Self::Route(Target::Unreachable) => f.write_str("unreachable"),
            Self::Route(Target::Tunnel { from, to }) => {
                write!(f, "dev {} from {from} to {to}", IfName::TUNNEL)
            }
            Self::Tunnel { port } => write!(f, "VXLAN-GPE on UDP port {port}"),
            Self::Rule => f.write_str("present"),
            Self::Other => f.write_str("something else"),
        }
    }
}

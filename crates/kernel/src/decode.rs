//! The kernel's messages as what they say of objects.
//!
//! Only what this program asks about: a message of another kind, or without
//! what an object needs, is `None`. One decoder for both address families.

use std::net::IpAddr;

use ipnet::IpNet;
use l2isolate_model::{
    IfName, Mac,
    desired::{DELIVERIES, Key},
    filter::Family,
};

use crate::{
    uapi::{
        AF_INET, AF_INET6, AF_UNSPEC, address, kind, link, lwtunnel, neighbour, netconf, route,
        rule,
    },
    wire::{Attributes, Message, read_i32, read_u8, read_u16, read_u32},
};

/// `struct ifinfomsg`, `ifaddrmsg`, `rtmsg`, `ndmsg`, `netconfmsg`, `ndtmsg`.
pub(crate) const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;
const NDMSG: usize = 12;
const NETCONFMSG: usize = 1;
const NDTMSG: usize = 4;
/// `struct fib_rule_hdr`.
const RULE: usize = 12;

/// A link.
#[derive(Debug)]
pub(crate) struct Link<'a> {
    pub(crate) index: u32,
    /// `None`: a name that no tap can have.
    pub(crate) name: Option<IfName>,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) flags: u32,
    /// The port of a VXLAN-GPE device whose routes say the rest.
    pub(crate) tunnel: Option<u16>,
    /// Settings per address family (`IFLA_AF_SPEC`).
    pub(crate) families: Attributes<'a>,
}

/// A local address.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) index: u32,
    pub(crate) net: IpNet,
    pub(crate) protocol: u8,
}

/// A neighbour entry.
#[derive(Debug)]
pub(crate) struct Neighbour {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    /// Its hardware address, if the entry is permanent.
    pub(crate) permanent: Option<Mac>,
    pub(crate) protocol: u8,
}

/// Metric of routes in the table [`DELIVERIES`], where nobody chooses by it.
const DELIVERY: u32 = 5;

/// A place of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    pub(crate) table: u8,
    pub(crate) prefix: IpNet,
    pub(crate) metric: u32,
}

impl Slot {
    /// The place of an object; `None` if it is no route.
    pub(crate) fn of(key: &Key) -> Option<Self> {
        let (table, prefix, metric) = match *key {
            Key::Route(prefix, metric) => (route::RT_TABLE_MAIN, prefix, metric),
            Key::Delivery(prefix) => (DELIVERIES, prefix, DELIVERY),
            _ => return None,
        };
        Some(Self {
            table,
            prefix,
            metric,
        })
    }

    /// The object that has this place.
    pub(crate) fn key(self) -> Key {
        match self.table {
            DELIVERIES => Key::Delivery(self.prefix),
            _ => Key::Route(self.prefix, self.metric),
        }
    }
}

/// A route in the main table, or for what comes out of the tunnel.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) slot: Slot,
    pub(crate) protocol: u8,
    pub(crate) leads: Leads,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leads {
    /// Straight out of the device with that index.
    Device(u32),
    /// To another host, by the tunnel device with that index.
    Tunnel {
        device: u32,
        from: IpAddr,
        to: IpAddr,
    },
    /// Nowhere. IPv6 has such routes on a device, normally lo.
    Unreachable(Option<u32>),
    /// By a gateway, or something else that we never make.
    Otherwise,
}

impl Leads {
    /// The device that takes the route along when it goes down.
    pub(crate) fn device(self) -> Option<u32> {
        match self {
            Self::Device(index) | Self::Tunnel { device: index, .. } => Some(index),
            Self::Unreachable(index) => index,
            Self::Otherwise => None,
        }
    }
}

/// Settings of a device that somebody wrote.
#[derive(Debug)]
pub(crate) struct Netconf<'a> {
    pub(crate) family: u8,
    /// -1: all, -2: default.
    pub(crate) index: i32,
    values: Attributes<'a>,
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The address of all zeros: what the kernel leaves out of a default route.
fn any(family: u8) -> Option<IpAddr> {
    ip(
        family,
        [0; 16].get(..if family == AF_INET { 4 } else { 16 })?,
    )
}

impl<'a> Link<'a> {
    /// RTM_NEWLINK and RTM_DELLINK. Bridges and others speak of the same
    /// devices under families of their own.
    pub(crate) fn read(message: &Message<'a>) -> Option<Self> {
        if read_u8(message.body, 0)? != AF_UNSPEC {
            return None;
        }
        let mut link = Link {
            index: read_u32(message.body, 4)?,
            flags: read_u32(message.body, 8)?,
            name: None,
            mac: None,
            mtu: 0,
            tunnel: None,
            families: Attributes(&[]),
        };
        for (kind, value) in message.attributes(IFINFOMSG) {
            match kind {
                link::IFLA_IFNAME => {
                    let name = std::str::from_utf8(value).ok();
                    link.name = name.and_then(|name| name.trim_end_matches('\0').parse().ok());
                }
                link::IFLA_ADDRESS => {
                    link.mac = <[u8; 6]>::try_from(value)
                        .ok()
                        .and_then(|mac| Mac::new(mac).ok());
                }
                link::IFLA_MTU => link.mtu = read_u32(value, 0)?,
                link::IFLA_LINKINFO => link.tunnel = tunnel(&Attributes(value)),
                link::IFLA_AF_SPEC => link.families = Attributes(value),
                _ => {}
            }
        }
        Some(link)
    }
}

/// The port of a device as [`Link::tunnel`] speaks of.
fn tunnel(info: &Attributes<'_>) -> Option<u16> {
    let kind = info.value(link::IFLA_INFO_KIND)?;
    let data = Attributes(info.value(link::IFLA_INFO_DATA)?);
    let any_peer = data.value(link::IFLA_VXLAN_COLLECT_METADATA)?;
    data.value(link::IFLA_VXLAN_GPE)?;
    let port = data.value(link::IFLA_VXLAN_PORT)?;
    let is_one = kind.strip_suffix(&[0]) == Some(b"vxlan") && read_u8(any_peer, 0)? != 0;
    is_one.then_some(u16::from_be(read_u16(port, 0)?))
}

/// The family of a rule (RTM_NEWRULE, RTM_DELRULE) that is ours: what comes out of
/// the tunnel is looked up in its table.
pub(crate) fn tunnel_rule(message: &Message<'_>, protocol: u8) -> Option<Family> {
    let attributes = message.attributes(RULE);
    let device = attributes.value(rule::FRA_IIFNAME)?.strip_suffix(&[0])?;
    let by = read_u8(attributes.value(rule::FRA_PROTOCOL)?, 0)?;
    let priority = read_u32(attributes.value(rule::FRA_PRIORITY)?, 0)?;
    let ours = device == IfName::TUNNEL.as_str().as_bytes()
        && by == protocol
        && priority == u32::from(DELIVERIES)
        && read_u8(message.body, 4)? == DELIVERIES
        && read_u8(message.body, 7)? == rule::FR_ACT_TO_TBL;
    match read_u8(message.body, 0)? {
        AF_INET if ours => Some(Family::V4),
        AF_INET6 if ours => Some(Family::V6),
        _ => None,
    }
}

impl Address {
    /// RTM_NEWADDR and RTM_DELADDR.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let family = read_u8(message.body, 0)?;
        let attributes = message.attributes(IFADDRMSG);
        // On point-to-point links IFA_ADDRESS is the other end's.
        let local = attributes.value(address::IFA_LOCAL);
        let local = ip(
            family,
            local.or_else(|| attributes.value(address::IFA_ADDRESS))?,
        )?;
        let protocol = attributes.value(address::IFA_PROTO);
        Some(Self {
            index: read_u32(message.body, 4)?,
            net: IpNet::new(local, read_u8(message.body, 1)?).ok()?,
            protocol: protocol.and_then(|value| read_u8(value, 0)).unwrap_or(0),
        })
    }
}

impl Neighbour {
    /// RTM_NEWNEIGH and RTM_DELNEIGH.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let family = read_u8(message.body, 0)?;
        let state = read_u16(message.body, 8)?;
        let attributes = message.attributes(NDMSG);
        let protocol = attributes.value(neighbour::NDA_PROTOCOL);
        let mac = attributes.value(neighbour::NDA_LLADDR);
        let mac = mac.and_then(|value| Mac::new(value.try_into().ok()?).ok());
        Some(Self {
            index: read_u32(message.body, 4)?,
            address: ip(family, attributes.value(neighbour::NDA_DST)?)?,
            permanent: mac.filter(|_| state & neighbour::NUD_PERMANENT != 0),
            protocol: protocol.and_then(|value| read_u8(value, 0)).unwrap_or(0),
        })
    }
}

impl Route {
    /// Who made the route of RTM_NEWROUTE or RTM_DELROUTE, if it is a plain one
    /// of a table that concerns us: from the fixed part alone.
    pub(crate) fn protocol(message: &Message<'_>) -> Option<u8> {
        // Tables beyond 255 have a number of their own there (RT_TABLE_COMPAT).
        let table = read_u8(message.body, 4)?;
        let concerns = matches!(table, route::RT_TABLE_MAIN | DELIVERIES);
        // Routes for some sources or classes of service have other places.
        let plain = read_u16(message.body, 2)? == 0;
        read_u8(message.body, 5).filter(|_| concerns && plain)
    }

    /// The whole of it.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let protocol = Self::protocol(message)?;
        let family = read_u8(message.body, 0)?;
        let (mut prefix, mut metric, mut device, mut gateway) = (any(family)?, 0, None, false);
        let (mut encap, mut tunnel) = (None, Attributes(&[]));
        for (kind, value) in message.attributes(RTMSG) {
            match kind {
                route::RTA_DST => prefix = ip(family, value)?,
                route::RTA_PRIORITY => metric = read_u32(value, 0)?,
                route::RTA_OIF => device = Some(read_u32(value, 0)?),
                route::RTA_ENCAP_TYPE => encap = read_u16(value, 0),
                route::RTA_ENCAP => tunnel = Attributes(value),
                route::RTA_GATEWAY | route::RTA_VIA | route::RTA_MULTIPATH => gateway = true,
                _ => {}
            }
        }
        let leads = match (read_u8(message.body, 7)?, device) {
            (route::RTN_UNICAST, Some(index)) if !gateway => match encap {
                None => Leads::Device(index),
                Some(encap) => by_tunnel(index, encap, &tunnel).unwrap_or(Leads::Otherwise),
            },
            (route::RTN_UNREACHABLE, device) => Leads::Unreachable(device),
            _ => Leads::Otherwise,
        };
        let prefix = IpNet::new(prefix, read_u8(message.body, 1)?).ok()?;
        Some(Self {
            slot: Slot {
                table: read_u8(message.body, 4)?,
                prefix,
                metric,
            },
            protocol,
            leads,
        })
    }
}

/// What a route with an encapsulation of this type leads to, if it is one that we
/// make.
fn by_tunnel(device: u32, encap: u16, attributes: &Attributes<'_>) -> Option<Leads> {
    let family = match encap {
        lwtunnel::LWTUNNEL_ENCAP_IP => AF_INET,
        lwtunnel::LWTUNNEL_ENCAP_IP6 => AF_INET6,
        _ => return None,
    };
    let address = |kind| ip(family, attributes.value(kind)?);
    Some(Leads::Tunnel {
        device,
        from: address(lwtunnel::LWTUNNEL_IP_SRC)?,
        to: address(lwtunnel::LWTUNNEL_IP_DST)?,
    })
}

impl<'a> Netconf<'a> {
    /// RTM_NEWNETCONF and RTM_DELNETCONF.
    pub(crate) fn read(message: &Message<'a>) -> Option<Self> {
        let values = message.attributes(NETCONFMSG);
        Some(Self {
            family: read_u8(message.body, 0)?,
            index: read_i32(values.value(netconf::NETCONFA_IFINDEX)?, 0)?,
            values,
        })
    }

    /// The one setting that was written, or `None` if the message speaks of
    /// several, as it does when a device's settings come into being.
    pub(crate) fn single(&self) -> Option<(u16, i32)> {
        let mut values = self
            .values
            .clone()
            .filter(|(kind, _)| *kind != netconf::NETCONFA_IFINDEX);
        let (kind, value) = values.next()?;
        values
            .next()
            .is_none()
            .then_some((kind, read_i32(value, 0)?))
    }
}

/// Wait before a proxy answer: device and milliseconds (RTM_NEWNEIGHTBL).
pub(crate) fn proxy_delay(message: &Message<'_>) -> Option<(u32, u64)> {
    if message.kind != kind::RTM_NEWNEIGHTBL {
        return None;
    }
    let parameters = Attributes(message.attributes(NDTMSG).value(neighbour::NDTA_PARMS)?);
    let index = read_u32(parameters.value(neighbour::NDTPA_IFINDEX)?, 0)?;
    let delay = parameters.value(neighbour::NDTPA_PROXY_DELAY)?;
    Some((index, crate::wire::read_u64(delay, 0)?))
}

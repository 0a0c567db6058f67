//! The kernel's messages as what they say of objects.
//!
//! Only what this program asks about: a message of another kind, or without
//! what an object needs, is `None`. One decoder for both address families.

use std::net::IpAddr;

use ipnet::IpNet;
use l2isolate_model::{IfName, Mac};

use crate::{
    uapi::{AF_INET, AF_INET6, AF_UNSPEC, address, kind, link, neighbour, netconf, route},
    wire::{Attributes, Message, read_i32, read_u8, read_u16, read_u32},
};

/// `struct ifinfomsg`, `ifaddrmsg`, `rtmsg`, `ndmsg`, `netconfmsg`, `ndtmsg`.
pub(crate) const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;
const NDMSG: usize = 12;
const NETCONFMSG: usize = 1;
const NDTMSG: usize = 4;

/// A link.
#[derive(Debug)]
pub(crate) struct Link<'a> {
    pub(crate) index: u32,
    /// `None`: a name that no tap can have.
    pub(crate) name: Option<IfName>,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) flags: u32,
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

/// A place in the main table: prefix and metric.
pub(crate) type Slot = (IpNet, u32);

/// A route in the main table.
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
    /// Nowhere. IPv6 has such routes on a device, normally lo.
    Unreachable(Option<u32>),
    /// By a gateway, or something else that we never make.
    Otherwise,
}

impl Leads {
    /// The device that takes the route along when it goes down.
    pub(crate) fn device(self) -> Option<u32> {
        match self {
            Self::Device(index) => Some(index),
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
                link::IFLA_AF_SPEC => link.families = Attributes(value),
                _ => {}
            }
        }
        Some(link)
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
    /// of the main table: from the fixed part alone.
    pub(crate) fn protocol(message: &Message<'_>) -> Option<u8> {
        // Tables beyond 255 have a number of their own there (RT_TABLE_COMPAT).
        let main = read_u8(message.body, 4)? == route::RT_TABLE_MAIN;
        // Routes for some sources or classes of service have other places.
        let plain = read_u16(message.body, 2)? == 0;
        read_u8(message.body, 5).filter(|_| main && plain)
    }

    /// The whole of it.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let protocol = Self::protocol(message)?;
        let family = read_u8(message.body, 0)?;
        let (mut prefix, mut metric, mut device, mut gateway) = (any(family)?, 0, None, false);
        for (kind, value) in message.attributes(RTMSG) {
            match kind {
                route::RTA_DST => prefix = ip(family, value)?,
                route::RTA_PRIORITY => metric = read_u32(value, 0)?,
                route::RTA_OIF => device = Some(read_u32(value, 0)?),
                route::RTA_GATEWAY | route::RTA_VIA | route::RTA_MULTIPATH => gateway = true,
                _ => {}
            }
        }
        let leads = match (read_u8(message.body, 7)?, device) {
            (route::RTN_UNICAST, Some(index)) if !gateway => Leads::Device(index),
            (route::RTN_UNREACHABLE, device) => Leads::Unreachable(device),
            _ => Leads::Otherwise,
        };
        let prefix = IpNet::new(prefix, read_u8(message.body, 1)?).ok()?;
        Some(Self {
            slot: (prefix, metric),
            protocol,
            leads,
        })
    }
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

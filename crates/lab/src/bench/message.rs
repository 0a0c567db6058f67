//! What rtnetlink's messages say of ports, read independently of the agent's
//! own code, so that a mistake there can't hide itself here.
//!
//! What can break it: the layout of these messages, which is the kernel's
//! stable interface (linux/rtnetlink.h, if_addr.h, neighbour.h, netconf.h).

use std::net::IpAddr;

use nix::{libc, sys::socket::SockProtocol};

use super::monitor::Feed;

/// Multicast groups (RTNLGRP_*): links, neighbours, addresses, routes, settings.
const GROUPS: &[u32] = &[1, 3, 5, 7, 9, 11, 24, 25];
/// The agent's protocol number as the lab leaves it: the default.
const PROTOCOL: u8 = 76;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_PROTO: u16 = 11;
const NDA_DST: u16 = 1;
const NDA_PROTOCOL: u16 = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTM_NEWNETCONF: u16 = 80;
const RTM_DELNETCONF: u16 = 81;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_PROXY_NEIGH: u16 = 5;

/// Something that belongs to a port and carries the agent's mark, or has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Object {
    /// A route to one address; no device: unreachable.
    Route {
        to: IpAddr,
        metric: u32,
        device: Option<u32>,
    },
    Address {
        device: u32,
        address: IpAddr,
    },
    Neighbour {
        device: u32,
        address: IpAddr,
    },
    ProxyArp {
        device: u32,
    },
    /// The device's own hardware address.
    Hardware {
        device: u32,
        mac: [u8; 6],
    },
}

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    Link {
        index: u32,
        name: String,
        mac: Option<[u8; 6]>,
        /// Switched on (IFF_UP).
        up: bool,
    },
    /// An object with the agent's mark; `there`: made or changed, else gone.
    Object { object: Object, there: bool },
    /// A setting that the kernel announces.
    Setting { proxy_arp: Option<(u32, bool)> },
}

/// All of this, for a listener.
pub(super) const FEED: Feed<News> = Feed {
    protocol: SockProtocol::NetlinkRoute,
    groups: GROUPS,
    read,
};

fn read(datagram: &[u8]) -> Vec<News> {
    messages(datagram)
        .filter_map(|(kind, body)| one(kind, body))
        .collect()
}

/// Type and body of each message of a datagram (struct nlmsghdr).
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let (length, kind) = (u32_at(rest, 0)?, u16_at(rest, 4)?);
        let length = usize::try_from(length).ok()?;
        let body = rest.get(16..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The destinations of all routes that a datagram says are new, whoever wrote
/// them; of those to single addresses.
pub(super) fn new_routes(datagram: &[u8]) -> Vec<IpAddr> {
    messages(datagram)
        .filter(|(kind, _)| *kind == libc::RTM_NEWROUTE)
        .filter_map(|(_, body)| ip(attribute(body.get(12..)?, RTA_DST)?))
        .collect()
}

fn one(kind: u16, body: &[u8]) -> Option<News> {
    let (object, there) = match kind {
        libc::RTM_NEWLINK => return link(body),
        RTM_NEWNETCONF | RTM_DELNETCONF => return Some(netconf(body, kind == RTM_NEWNETCONF)),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => (route(body)?, kind == libc::RTM_NEWROUTE),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => (address(body)?, kind == libc::RTM_NEWADDR),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => (neighbour(body)?, kind == libc::RTM_NEWNEIGH),
        _ => return None,
    };
    Some(News::Object { object, there })
}

fn link(body: &[u8]) -> Option<News> {
    let attributes = body.get(16..)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let up = u32::try_from(libc::IFF_UP).ok()?;
    Some(News::Link {
        index: u32_at(body, 4)?,
        name: String::from_utf8_lossy(name).into_owned(),
        mac: attribute(attributes, IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
        up: u32_at(body, 8)? & up != 0,
    })
}

fn route(body: &[u8]) -> Option<Object> {
    if *body.get(5)? != PROTOCOL {
        return None;
    }
    let attributes = body.get(12..)?;
    Some(Object::Route {
        to: ip(attribute(attributes, RTA_DST)?)?,
        metric: attribute(attributes, RTA_PRIORITY).and_then(|v| u32_at(v, 0))?,
        device: match *body.get(7)? {
            // The kernel names lo for IPv6.
            libc::RTN_UNREACHABLE => None,
            _ => attribute(attributes, RTA_OIF).and_then(|v| u32_at(v, 0)),
        },
    })
}

fn address(body: &[u8]) -> Option<Object> {
    let attributes = body.get(8..)?;
    if attribute(attributes, IFA_PROTO)? != [PROTOCOL] {
        return None;
    }
    let address =
        attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    Some(Object::Address {
        device: u32_at(body, 4)?,
        address: ip(address)?,
    })
}

fn neighbour(body: &[u8]) -> Option<Object> {
    let attributes = body.get(12..)?;
    if attribute(attributes, NDA_PROTOCOL)? != [PROTOCOL] {
        return None;
    }
    Some(Object::Neighbour {
        device: u32_at(body, 4)?,
        address: ip(attribute(attributes, NDA_DST)?)?,
    })
}

fn netconf(body: &[u8], new: bool) -> News {
    let attributes = body.get(4..).unwrap_or_default();
    let number = |kind| attribute(attributes, kind).and_then(|v| u32_at(v, 0));
    let proxy_arp = number(NETCONFA_IFINDEX).zip(number(NETCONFA_PROXY_NEIGH));
    let inet = body.first().map(|f| i32::from(*f)) == Some(libc::AF_INET);
    News::Setting {
        proxy_arp: proxy_arp
            .filter(|_| inet)
            .map(|(index, on)| (index, new && on != 0)),
    }
}

/// The value of the first attribute of that kind.
pub(super) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    loop {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        if u16_at(rest, 2)? == kind {
            return Some(value);
        }
        rest = rest.get(aligned(length)..)?;
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

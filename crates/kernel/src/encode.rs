//! Changes and questions as netlink requests.

use std::net::IpAddr;

use ipnet::IpNet;
use l2isolate_model::{
    IfName, Mac,
    desired::{DELIVERIES, Target, Value},
    filter::Family,
};

use crate::{
    decode::Slot,
    uapi::{AF_INET, AF_INET6, address, flag, kind, link, lwtunnel, neighbour, route, rule},
    wire::Request,
};

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `struct ifinfomsg`
fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    let words = [index, flags, change];
    for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().skip(1).zip(words) {
        *place = word.to_ne_bytes();
    }
    bytes
}

/// A property of a link; `None` if the value isn't one.
pub(crate) fn set_link(index: u32, value: &Value) -> Option<Request> {
    let up = |on| if on { link::IFF_UP } else { 0 };
    let (flags, change) = match value {
        Value::Up(on) => (up(*on), link::IFF_UP),
        _ => (0, 0),
    };
    let request = Request::new(kind::RTM_SETLINK, 0, &ifinfomsg(index, flags, change));
    match value {
        Value::Up(_) => Some(request),
        Value::Mac(mac) => Some(request.with(link::IFLA_ADDRESS, &mac.bytes())),
        Value::Mtu(mtu) => Some(request.with(link::IFLA_MTU, &mtu.to_ne_bytes())),
        _ => None,
    }
}

/// A name as the kernel takes it.
fn terminated(name: IfName) -> Vec<u8> {
    let mut bytes = name.as_str().as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// The tunnel device: VXLAN-GPE, which carries IP packets as they are (`link/none`),
/// to and from whomever routes name.
pub(crate) fn create_tunnel(port: u16) -> Request {
    let data = Request::new(0, 0, &[])
        .with(link::IFLA_VXLAN_PORT, &port.to_be_bytes())
        .with(link::IFLA_VXLAN_LEARNING, &[0])
        .with(link::IFLA_VXLAN_COLLECT_METADATA, &[1])
        .with(link::IFLA_VXLAN_GPE, &[])
        .into_attributes();
    let info: [(u16, &[u8]); 2] = [
        (link::IFLA_INFO_KIND, b"vxlan"),
        (link::IFLA_INFO_DATA, &data),
    ];
    let flags = flag::NLM_F_CREATE | flag::NLM_F_EXCL;
    Request::new(kind::RTM_NEWLINK, flags, &ifinfomsg(0, 0, 0))
        .with(link::IFLA_IFNAME, &terminated(IfName::TUNNEL))
        .with_nested(link::IFLA_LINKINFO, &info)
}

pub(crate) fn delete_link(index: u32) -> Request {
    Request::new(kind::RTM_DELLINK, 0, &ifinfomsg(index, 0, 0))
}

/// All links.
pub(crate) fn get_links() -> Request {
    without_statistics(Request::new(kind::RTM_GETLINK, 0, &ifinfomsg(0, 0, 0)))
}

/// One link, by name.
pub(crate) fn get_link(name: IfName) -> Request {
    without_statistics(get_link_with_statistics(name))
}

/// The same with its counters.
pub(crate) fn get_link_with_statistics(name: IfName) -> Request {
    let request = Request::new(kind::RTM_GETLINK, 0, &ifinfomsg(0, 0, 0));
    request.with(link::IFLA_IFNAME, &terminated(name))
}

fn without_statistics(request: Request) -> Request {
    request.with(
        link::IFLA_EXT_MASK,
        &link::RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
    )
}

/// `struct ifaddrmsg`
fn ifaddrmsg(family: u8, length: u8, index: u32) -> [u8; 8] {
    let [a, b, c, d] = index.to_ne_bytes();
    // The kernel knows the scope of IPv6 addresses by itself, and IPv4 ones are
    // global here: RT_SCOPE_UNIVERSE.
    [family, length, 0, route::RT_SCOPE_UNIVERSE, a, b, c, d]
}

/// All addresses of a family, or those of one device.
pub(crate) fn get_addresses(family: u8, index: u32) -> Request {
    Request::new(kind::RTM_GETADDR, 0, &ifaddrmsg(family, 0, index))
}

fn address(kind: u16, flags: u16, index: u32, net: IpNet) -> Request {
    let local = octets(net.addr());
    Request::new(
        kind,
        flags,
        &ifaddrmsg(family(net.addr()), net.prefix_len(), index),
    )
    .with(address::IFA_LOCAL, &local)
    .with(address::IFA_ADDRESS, &local)
}

/// A local address.
pub(crate) fn set_address(index: u32, net: IpNet, protocol: u8) -> Request {
    let mut flags = address::IFA_F_NOPREFIXROUTE;
    if let IpAddr::V6(v6) = net.addr() {
        // The same gateway on every host: a duplicate is no mistake.
        flags = address::IFA_F_NODAD;
        // Guests are reached by their own link-local addresses: by the one
        // prefix that brings a route.
        if !v6.is_unicast_link_local() || net.prefix_len() == 128 {
            flags |= address::IFA_F_NOPREFIXROUTE;
        }
    }
    address(
        kind::RTM_NEWADDR,
        flag::NLM_F_CREATE | flag::NLM_F_REPLACE,
        index,
        net,
    )
    .with(address::IFA_FLAGS, &flags.to_ne_bytes())
    .with(address::IFA_PROTO, &[protocol])
}

pub(crate) fn delete_address(index: u32, net: IpNet) -> Request {
    address(kind::RTM_DELADDR, 0, index, net)
}

/// `struct ndmsg`
fn ndmsg(family: u8, index: u32, state: u16) -> [u8; 12] {
    let [a, b, c, d] = index.to_ne_bytes();
    let [e, f] = state.to_ne_bytes();
    [family, 0, 0, 0, a, b, c, d, e, f, 0, 0]
}

/// All neighbour entries of a family.
pub(crate) fn get_neighbours(family: u8) -> Request {
    Request::new(kind::RTM_GETNEIGH, 0, &ndmsg(family, 0, 0))
}

/// One neighbour entry.
pub(crate) fn get_neighbour(index: u32, ip: IpAddr) -> Request {
    Request::new(kind::RTM_GETNEIGH, 0, &ndmsg(family(ip), index, 0))
        .with(neighbour::NDA_DST, &octets(ip))
}

/// A permanent neighbour entry.
pub(crate) fn set_neighbour(index: u32, ip: IpAddr, mac: Mac, protocol: u8) -> Request {
    let fixed = ndmsg(family(ip), index, neighbour::NUD_PERMANENT);
    Request::new(
        kind::RTM_NEWNEIGH,
        flag::NLM_F_CREATE | flag::NLM_F_REPLACE,
        &fixed,
    )
    .with(neighbour::NDA_DST, &octets(ip))
    .with(neighbour::NDA_LLADDR, &mac.bytes())
    .with(neighbour::NDA_PROTOCOL, &[protocol])
}

pub(crate) fn delete_neighbour(index: u32, ip: IpAddr) -> Request {
    Request::new(kind::RTM_DELNEIGH, 0, &ndmsg(family(ip), index, 0))
        .with(neighbour::NDA_DST, &octets(ip))
}

/// The parameters of a family's neighbour tables.
pub(crate) fn get_neighbour_tables(family: u8) -> Request {
    Request::new(kind::RTM_GETNEIGHTBL, 0, &[family, 0, 0, 0])
}

/// `struct rtmsg`
fn rtmsg(family: u8, length: u8, table: u8, protocol: u8, scope: u8, leads: u8) -> [u8; 12] {
    [
        family, length, 0, 0, table, protocol, scope, leads, 0, 0, 0, 0,
    ]
}

/// All routes of a family in a table that were made by `protocol`; the kernel
/// itself leaves out the others.
pub(crate) fn get_routes(family: u8, table: u8, protocol: u8) -> Request {
    let fixed = rtmsg(
        family,
        0,
        table,
        protocol,
        route::RT_SCOPE_UNIVERSE,
        route::RTN_UNSPEC,
    );
    Request::new(kind::RTM_GETROUTE, 0, &fixed)
}

/// A route and who makes it. `index`: the target's device.
pub(crate) fn set_route(slot: Slot, target: Target, index: Option<u32>, protocol: u8) -> Request {
    let (scope, leads) = match target {
        Target::Device(_) | Target::Tunnel { .. } => (route::RT_SCOPE_LINK, route::RTN_UNICAST),
        Target::Unreachable => (route::RT_SCOPE_UNIVERSE, route::RTN_UNREACHABLE),
    };
    let flags = flag::NLM_F_CREATE | flag::NLM_F_REPLACE;
    let request = route(kind::RTM_NEWROUTE, flags, slot, protocol, scope, leads);
    let request = match index {
        Some(index) => request.with(route::RTA_OIF, &index.to_ne_bytes()),
        None => request,
    };
    match target {
        Target::Tunnel { from, to } => through_tunnel(request, from, to),
        Target::Device(_) | Target::Unreachable => request,
    }
}

/// What a route says of the packet around a packet.
fn through_tunnel(request: Request, from: IpAddr, to: IpAddr) -> Request {
    let encap = if to.is_ipv4() {
        lwtunnel::LWTUNNEL_ENCAP_IP
    } else {
        lwtunnel::LWTUNNEL_ENCAP_IP6
    };
    let (from, to) = (octets(from), octets(to));
    let attributes: [(u16, &[u8]); 3] = [
        (lwtunnel::LWTUNNEL_IP_DST, &to),
        (lwtunnel::LWTUNNEL_IP_SRC, &from),
        (
            lwtunnel::LWTUNNEL_IP_FLAGS,
            &lwtunnel::TUNNEL_CSUM.to_be_bytes(),
        ),
    ];
    request
        .with(route::RTA_ENCAP_TYPE, &encap.to_ne_bytes())
        .with_nested(route::RTA_ENCAP, &attributes)
}

/// `struct fib_rule_hdr`
fn rule_header(family: u8, table: u8, action: u8) -> [u8; 12] {
    [family, 0, 0, 0, table, 0, 0, action, 0, 0, 0, 0]
}

/// All rules of a family.
pub(crate) fn get_rules(family: u8) -> Request {
    Request::new(kind::RTM_GETRULE, 0, &rule_header(family, 0, 0))
}

/// The rule for what comes out of the tunnel, to be made or to be deleted.
pub(crate) fn tunnel_rule(new: bool, family: Family, protocol: u8) -> Request {
    let family = match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    };
    let (kind, flags) = if new {
        (kind::RTM_NEWRULE, flag::NLM_F_CREATE | flag::NLM_F_EXCL)
    } else {
        (kind::RTM_DELRULE, 0)
    };
    let header = rule_header(family, DELIVERIES, rule::FR_ACT_TO_TBL);
    Request::new(kind, flags, &header)
        .with(rule::FRA_IIFNAME, &terminated(IfName::TUNNEL))
        .with(rule::FRA_PRIORITY, &u32::from(DELIVERIES).to_ne_bytes())
        .with(rule::FRA_TABLE, &u32::from(DELIVERIES).to_ne_bytes())
        .with(rule::FRA_PROTOCOL, &[protocol])
}

/// Deletes a route wherever it leads, provided `protocol` made it.
pub(crate) fn delete_route(slot: Slot, protocol: u8) -> Request {
    // Nowhere and unspecified match any scope and type.
    let (scope, leads) = (route::RT_SCOPE_NOWHERE, route::RTN_UNSPEC);
    route(kind::RTM_DELROUTE, 0, slot, protocol, scope, leads)
}

fn route(kind: u16, flags: u16, slot: Slot, protocol: u8, scope: u8, leads: u8) -> Request {
    let address = slot.prefix.addr();
    let length = slot.prefix.prefix_len();
    let fixed = rtmsg(family(address), length, slot.table, protocol, scope, leads);
    Request::new(kind, flags, &fixed)
        .with(route::RTA_DST, &octets(address))
        .with(route::RTA_PRIORITY, &slot.metric.to_ne_bytes())
}

//! Neighbour discovery (RFC 4861): router advertisements, and neighbour
//! advertisements in everybody's name, as proxy ARP gives answers for IPv4.

use std::net::Ipv6Addr;

use l2isolate_model::guest::ipv6::{Answers, Router};

use super::{
    Local,
    frame::{Address, Packet, array, icmpv6},
};

pub(super) const ROUTER_SOLICITATION: u8 = 133;
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;

/// All nodes of a link, and their Ethernet address (RFC 2464, section 7).
const EVERYBODY: Address = Address {
    mac: [0x33, 0x33, 0, 0, 0, 1],
    ip: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
};

/// Whether the message is one that RFC 4861 (6.1.1, 7.1.1) lets through.
fn valid(packet: &Packet<'_>, least: usize) -> bool {
    let options = packet.payload.get(least..);
    packet.hop_limit == 255
        && packet.payload.get(1) == Some(&0)
        && options.is_some_and(options_valid)
        && packet.intact()
}

/// Options have a length that isn't zero and fits.
fn options_valid(mut options: &[u8]) -> bool {
    while !options.is_empty() {
        let length = 8 * options.get(1).map_or(0, |length| usize::from(*length));
        match options.get(length..) {
            Some(rest) if length > 0 => options = rest,
            _ => return false,
        }
    }
    true
}

/// The answer to a router solicitation.
pub(super) fn to_router_solicitation(
    local: &Local,
    answers: &Answers,
    packet: &Packet<'_>,
) -> Option<Vec<u8>> {
    let router = answers.router.as_ref()?;
    if !valid(packet, 8) {
        return None;
    }
    let to = if packet.source.is_unspecified() {
        EVERYBODY
    } else {
        Address {
            mac: packet.mac.bytes(),
            ip: packet.source,
        }
    };
    Some(advertisement(local, router, to))
}

/// A router advertisement that nobody asked for.
pub(super) fn unsolicited(local: &Local, router: &Router) -> Vec<u8> {
    advertisement(local, router, EVERYBODY)
}

fn advertisement(local: &Local, router: &Router, to: Address) -> Vec<u8> {
    let flags = u8::from(router.managed) << 7 | u8::from(router.other) << 6;
    // Type, code, checksum, hop limit for guests, flags, lifetime; no word on
    // reachable time and retransmissions.
    let mut message = vec![134, 0, 0, 0, 64, flags];
    message.extend(router.lifetime.to_be_bytes());
    message.extend([0; 8]);
    // Source link-layer address.
    message.extend([1, 1]);
    message.extend(local.mac.bytes());
    message.extend([5, 1, 0, 0]);
    message.extend(router.mtu.to_be_bytes());
    let valid = router.valid.to_be_bytes();
    for (prefix, makes_address) in &router.prefixes {
        // Never on-link (L).
        let flags = u8::from(*makes_address) << 6;
        message.extend([3, 4, prefix.prefix_len(), flags]);
        message.extend(valid);
        message.extend(valid);
        message.extend([0; 4]);
        message.extend(prefix.network().octets());
    }
    // RFC 8106: name servers (5.1), search list (5.2).
    if let Some(units) = u8::try_from(1 + 2 * router.dns.len())
        .ok()
        .filter(|units| *units > 1)
    {
        message.extend([25, units, 0, 0]);
        message.extend(valid);
        message.extend(router.dns.iter().flat_map(Ipv6Addr::octets));
    }
    if let Some(domain) = &router.domain {
        let mut name = domain.to_vec();
        name.resize(name.len().next_multiple_of(8), 0);
        message.extend([31, u8::try_from(1 + name.len() / 8).unwrap_or(1), 0, 0]);
        message.extend(valid);
        message.extend(name);
    }
    icmpv6(local.address(), to, message)
}

/// The answer to a neighbour solicitation: here, whoever it is.
///
/// None for the guest's own addresses, and none to whoever tests an address
/// for duplicates (source ::): proxy ARP is silent there as well. The kernel
/// answers for the gateways.
pub(super) fn to_neighbour_solicitation(
    local: &Local,
    answers: &Answers,
    packet: &Packet<'_>,
) -> Option<Vec<u8>> {
    if !valid(packet, 24) || packet.source.is_unspecified() || packet.source.is_multicast() {
        return None;
    }
    let target = Ipv6Addr::from(array::<16>(packet.payload, 8)?);
    // On the link itself there is nobody but the two.
    let elsewhere = !target.is_unspecified()
        && !target.is_multicast()
        && !target.is_loopback()
        && !target.is_unicast_link_local();
    if !elsewhere || answers.silent.contains(&target) || target == packet.source {
        return None;
    }
    // Type, code, checksum; a router's, solicited, doesn't override (7.2.8).
    let mut message = vec![136, 0, 0, 0, 0xc0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(local.mac.bytes());
    let to = Address {
        mac: packet.mac.bytes(),
        ip: packet.source,
    };
    Some(icmpv6(local.address(), to, message))
}

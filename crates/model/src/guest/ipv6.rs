//! What the agent answers on a tap by itself: router and neighbour
//! solicitations (RFC 4861) and DHCPv6 (RFC 8415).

use std::{collections::BTreeSet, net::Ipv6Addr, sync::Arc};

use ipnet::Ipv6Net;

use crate::Mac;

/// All that is needed to answer one tap's guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// Who may ask: the guest's hardware addresses. Empty: anybody on the tap.
    pub macs: BTreeSet<Mac>,
    /// The port's own hardware address: only it is told of addresses.
    pub mac: Mac,
    /// Addresses for which nobody answers: the guest's own, and the gateways,
    /// for which the kernel answers.
    pub silent: BTreeSet<Ipv6Addr>,
    /// Absent: router solicitations aren't answered.
    pub router: Option<Router>,
    /// Absent: DHCPv6 isn't answered.
    pub dhcp: Option<Dhcp>,
}

/// A router advertisement's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    /// Addresses by DHCPv6 (M).
    pub managed: bool,
    /// Other things by DHCPv6 (O).
    pub other: bool,
    /// For how long to be the default router, in seconds; 0: not at all.
    pub lifetime: u16,
    /// Prefixes, never on-link; whether the guest makes itself an address in
    /// it (A).
    pub prefixes: Vec<(Ipv6Net, bool)>,
    /// For how long these and the name servers hold, in seconds.
    pub valid: u32,
    /// MTU of the link in bytes.
    pub mtu: u32,
    /// Name servers in order (RFC 8106).
    pub dns: Vec<Ipv6Addr>,
    /// Where the guest looks for short names (RFC 8106), in labels as on the
    /// wire.
    pub domain: Option<Arc<[u8]>>,
}

/// What a DHCPv6 client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcp {
    /// Its addresses; empty: only other things.
    pub addresses: Vec<Ipv6Addr>,
    /// For how long, in seconds.
    pub lifetime: u32,
    /// Option codes with their content, as on the wire.
    pub options: Vec<(u16, Arc<[u8]>)>,
    /// Host name, with domain if there is one, for clients that ask for it
    /// (RFC 4704); in labels as on the wire.
    pub name: Option<Arc<[u8]>>,
}

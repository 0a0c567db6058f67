//! What a rule can say.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Name;
use crate::{IfName, Mac};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// ICMP's protocol number in this family.
    #[must_use]
    pub const fn icmp(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }
}

/// Where a packet came in, or goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// The device it came in by.
    In,
    /// The device it goes out by.
    Out,
}

/// One of a packet's two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Where it is from.
    Source,
    /// Where it is to.
    Destination,
}

/// A token bucket of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limit {
    /// Packets per second.
    pub rate: u32,
    /// Packets at once.
    pub burst: u32,
}

/// One step of a rule: it matches, or the rule ends here; or it does something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// The device's name begins so.
    DevicePrefix(Way, IfName),
    /// Do what the map says of the device; if it isn't in it, go on.
    Dispatch(Way, Name),
    /// The device is in a set, and what the set does for each has matched.
    DeviceIn(Way, Name),
    /// The device the packet came in by, with its destination, is in a set. A
    /// [`Term::Family`] must stand before it.
    DestinationIn(Family, Name),
    /// The device the packet came in by, the Ethernet frame's sender and the
    /// packet's source are in a set. A [`Term::Family`] must stand before it.
    SourceIn(Family, Name),
    /// The device, the Ethernet frame's sender and the address that an ARP
    /// packet claims for its sender are in a set.
    ArpSourceIn(Name),
    /// The device, and both addresses that an ARP packet claims for its sender
    /// are in a set.
    ArpSenderIn(Name),
    /// The packet is of this family.
    Family(Family),
    /// The transport protocol, behind all extension headers.
    Protocol(u8),
    /// The Ethernet frame's sender.
    EtherSource(Mac),
    /// An address is in a prefix. A [`Term::Family`] must stand before it; a
    /// prefix of no bits isn't written, since that says as much.
    Address(Side, IpNet),
    /// An address is in a set. A [`Term::Family`] must stand before it.
    AddressIn(Side, Family, Name),
    /// Source and destination port, in this order.
    Ports(u16, u16),
    /// The destination port lies between these two.
    Port(u16, u16),
    /// The destination port is in a set.
    PortIn(Name),
    /// A DHCP message that says to come through a relay agent: `giaddr` isn't zero
    /// (RFC 2131, section 2).
    Relayed,
    /// ICMP's type.
    IcmpType(Family, u8),
    /// ICMP's type lies between these two.
    IcmpTypes(Family, u8, u8),
    /// ICMP's type and code.
    IcmpCode(Family, u8, u8),
    /// Connection tracking knows the flow: established or related.
    Known,
    /// Connection tracking doesn't know the flow: neither established nor related.
    Unknown,
    /// The first packet of a flow, also of one that nobody answers.
    New,
    /// The hardware address that an ARP packet claims for its sender.
    ArpMac(Mac),
    /// The address that an ARP packet claims for its sender is in a prefix.
    ArpAddress(IpNet),
    /// Count it.
    Count(Name),
    /// Show it to whoever listens on this NFLOG group, with a prefix.
    Log(u16, Name),
    /// Go on to the next hook.
    Accept,
    /// Nothing passes.
    Drop,
    /// Ask another chain; if it has no answer, go on.
    Jump(Name),
}

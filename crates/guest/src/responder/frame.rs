//! IPv6 in Ethernet: what is received is taken apart, what is sent put
//! together. Nothing here trusts a length that it was told.

use std::net::Ipv6Addr;

use l2isolate_model::Mac;

pub(super) const ICMPV6: u8 = 58;
pub(super) const UDP: u8 = 17;
/// DHCPv6's ports (RFC 8415, 7.2).
pub(super) const CLIENT: u16 = 546;
pub(super) const SERVER: u16 = 547;
const IPV6: [u8; 2] = [0x86, 0xdd];

/// A packet of a guest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) mac: Mac,
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    pub(super) hop_limit: u8,
    pub(super) protocol: u8,
    pub(super) payload: &'a [u8],
}

/// The bytes from `at` on, as many as the array has.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl<'a> Packet<'a> {
    /// Takes a frame apart; `None`: it isn't IPv6, or not whole.
    pub(super) fn read(frame: &'a [u8]) -> Option<Self> {
        let mac = Mac::new(array(frame, 6)?).ok()?;
        let header: [u8; 40] = array(frame, 14)?;
        if array(frame, 12)? != IPV6 || header.first()? >> 4 != 6 {
            return None;
        }
        let length = usize::from(u16::from_be_bytes(array(&header, 4)?));
        Some(Self {
            mac,
            source: Ipv6Addr::from(array::<16>(&header, 8)?),
            destination: Ipv6Addr::from(array::<16>(&header, 24)?),
            hop_limit: *header.get(7)?,
            protocol: *header.get(6)?,
            payload: frame.get(54..54 + length)?,
        })
    }

    /// Whether the checksum in it is right.
    pub(super) fn intact(&self) -> bool {
        checksum(self.source, self.destination, self.protocol, self.payload) == 0
    }
}

/// Where a packet goes, and from whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) mac: [u8; 6],
    pub(super) ip: Ipv6Addr,
}

/// A frame with an ICMPv6 message, whose checksum (its third and fourth byte)
/// is filled in.
pub(super) fn icmpv6(from: Address, to: Address, message: Vec<u8>) -> Vec<u8> {
    frame(from, to, ICMPV6, 2, message)
}

/// A frame with a DHCPv6 message for a client.
pub(super) fn dhcpv6(from: Address, to: Address, message: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(8 + message.len());
    datagram.extend(SERVER.to_be_bytes());
    datagram.extend(CLIENT.to_be_bytes());
    datagram.extend(u16::try_from(8 + message.len()).unwrap_or(0).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(message);
    frame(from, to, UDP, 6, datagram)
}

fn frame(from: Address, to: Address, protocol: u8, sum_at: usize, mut payload: Vec<u8>) -> Vec<u8> {
    let sum = match checksum(from.ip, to.ip, protocol, &payload) {
        // UDP: zero means that there is none (RFC 8200, 8.1).
        0 => u16::MAX,
        sum => sum,
    };
    if let Some(place) = payload.get_mut(sum_at..sum_at + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    let mut frame = Vec::with_capacity(54 + payload.len());
    frame.extend(to.mac);
    frame.extend(from.mac);
    frame.extend(IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(payload.len()).unwrap_or(0).to_be_bytes());
    frame.extend([protocol, 255]);
    frame.extend(from.ip.octets());
    frame.extend(to.ip.octets());
    frame.extend(payload);
    frame
}

/// The Internet checksum over payload and pseudo-header (RFC 8200, 8.1); zero
/// over what has the right one in it.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> u16 {
    let add = |sum: u64, bytes: &[u8]| {
        bytes.chunks(2).fold(sum, |sum, pair| {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            sum + u64::from(u16::from_be_bytes([high, low]))
        })
    };
    let mut sum = payload.len() as u64 + u64::from(protocol);
    sum = add(sum, &source.octets());
    sum = add(sum, &destination.octets());
    sum = add(sum, payload);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

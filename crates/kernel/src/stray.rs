//! Whether an address that is announced from here is announced from elsewhere too,
//! which no BGP session of a host tells: switches send it default routes alone.
//!
//! A packet with that source and a hop limit that ends on the way makes a switch
//! say so to the source (RFC 792, RFC 4443). A switch for which both announcements
//! are as good sends some of what it says to the one host and some to the other:
//! which then hears of a packet that it hasn't sent, with the sender's address in
//! what the switch quotes.
//!
//! What switches say is for the guest, so it is on its way through the firewall, which
//! shows it ([`GROUP`]): of no flow that is known, so no other packet is looked at for
//! it. Packet sockets on the interfaces to switches would look at each that comes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, sendto, setsockopt, socket,
    sockopt,
};

use crate::{Error, nflog::Log};

/// Where the packets are sent to: addresses that are nobody's (RFC 5737, RFC 3849),
/// for which every switch has its default route.
const NOBODY: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(192, 0, 2, 76),
    Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 76),
);
/// Their UDP port.
const PORT: u16 = 32844;
const MAGIC: &[u8; 4] = b"L2I1";
/// As much as is read of what a switch says.
const READ: u32 = 256;

/// The NFLOG group to which the firewall shows ICMP errors from the fabric that are of
/// no known flow.
pub const GROUP: u16 = 32844;

/// What a switch has said of somebody's packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stray {
    /// The switch.
    pub switch: IpAddr,
    /// The packet's source: what is announced.
    pub address: IpAddr,
    /// The host that has sent it.
    pub host: IpAddr,
}

/// Listens for what switches say.
#[derive(Debug)]
pub struct Strays(Log);

impl Strays {
    /// Listens to [`GROUP`].
    ///
    /// # Errors
    /// Somebody else does, or we aren't allowed to.
    pub fn listen() -> Result<Self, Error> {
        Log::open(GROUP, READ).map(Self)
    }

    /// What was heard since; `None`: nothing was shown. Some of it at most, if there is
    /// much.
    pub fn heard(&mut self) -> Option<Vec<Stray>> {
        let mut heard = None;
        self.0
            .packets(|packet| heard.get_or_insert_with(Vec::new).extend(read(packet)));
        heard
    }
}

impl AsFd for Strays {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Has a switch so many hops away speak to `address`, on behalf of `host`. Each
/// packet has another source port, and so may take another of equal ways.
///
/// # Errors
/// There is no way out, or we aren't allowed to.
pub fn provoke(address: IpAddr, host: IpAddr, hops: u8) -> io::Result<()> {
    let (family, to) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, IpAddr::from(NOBODY.0)),
        IpAddr::V6(_) => (AddressFamily::Inet6, IpAddr::from(NOBODY.1)),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Datagram, flags, None)?;
    // The address is a guest's, not this host's.
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    match address {
        IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4Ttl, &hops.into())?,
        IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6Ttl, &hops.into())?,
    }
    bind(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(address, 0)),
    )?;
    let host = match host {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let message = [&MAGIC[..], &host.octets()].concat();
    let to = SockaddrStorage::from(SocketAddr::new(to, PORT));
    sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())?;
    Ok(())
}

/// What an ICMP error says, if it is of such a packet.
fn read(packet: &[u8]) -> Option<Stray> {
    let outer = Header::read(packet)?;
    // ICMP's own header has eight bytes, in both families.
    let inner = Header::read(outer.rest.get(8..)?)?;
    if inner.protocol != 17 || inner.source != outer.destination {
        return None;
    }
    let (udp, message) = inner.rest.split_at_checked(8)?;
    if udp.get(2..4)? != PORT.to_be_bytes() || message.get(..4)? != MAGIC {
        return None;
    }
    let host = Ipv6Addr::from(<[u8; 16]>::try_from(message.get(4..20)?).ok()?);
    Some(Stray {
        switch: outer.source,
        address: inner.source,
        host: host.to_canonical(),
    })
}

struct Header<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    rest: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(packet: &'a [u8]) -> Option<Self> {
        let first = *packet.first()?;
        match first >> 4 {
            4 => {
                let four =
                    |at: usize| -> Option<[u8; 4]> { packet.get(at..at + 4)?.try_into().ok() };
                Some(Self {
                    source: Ipv4Addr::from(four(12)?).into(),
                    destination: Ipv4Addr::from(four(16)?).into(),
                    protocol: *packet.get(9)?,
                    rest: packet.get(usize::from(first & 15) * 4..)?,
                })
            }
            6 => {
                let sixteen =
                    |at: usize| -> Option<[u8; 16]> { packet.get(at..at + 16)?.try_into().ok() };
                Some(Self {
                    source: Ipv6Addr::from(sixteen(8)?).into(),
                    destination: Ipv6Addr::from(sixteen(24)?).into(),
                    protocol: *packet.get(6)?,
                    rest: packet.get(40..)?,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Whatever is quoted, cut off anywhere or of something else, says nothing; and
    // nothing but the whole of it does.
    #[test]
    fn only_the_whole_of_it_says_something() {
        let (switch, guest, host) = ([10, 255, 0, 1], [10, 252, 0, 5], [10, 255, 16, 2]);
        let header = |protocol: u8, from: [u8; 4], to: [u8; 4]| {
            let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            bytes.extend([from, to].concat());
            bytes
        };
        let mut packet = header(1, switch, guest);
        packet.extend([11, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(header(17, guest, NOBODY.0.octets()));
        packet.extend([0x80, 0, 0x80, 0x4c, 0, 28, 0, 0]);
        packet.extend(MAGIC);
        packet.extend(Ipv4Addr::from(host).to_ipv6_mapped().octets());
        let whole = Stray {
            switch: switch.into(),
            address: guest.into(),
            host: host.into(),
        };
        assert_eq!(read(&packet), Some(whole));
        for length in 0..packet.len() {
            assert_eq!(read(&packet[..length]), None, "{length}");
        }
        // Somebody else's packet, another port, another protocol, another version.
        for at in [43, 51, 37, 28, 0] {
            let mut other = packet.clone();
            other[at] ^= 0x10;
            assert_eq!(read(&other), None, "{at}");
        }
    }
}

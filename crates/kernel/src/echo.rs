//! Whether a host answers: an echo request by ICMP (RFC 792) or ICMPv6 (RFC 4443).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv,
        send, socket,
    },
};

/// Somebody who is asked. A raw socket, which hears no other host than that one.
#[derive(Debug)]
pub struct Echo {
    socket: OwnedFd,
    peer: IpAddr,
}

impl Echo {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// There is no way to that address, or we aren't allowed to.
    pub fn open(peer: IpAddr) -> io::Result<Self> {
        let (family, protocol) = match peer {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Raw, flags, protocol)?;
        let to = SockaddrStorage::from(SocketAddr::new(peer, 0));
        connect(socket.as_raw_fd(), &to)?;
        Ok(Self { socket, peer })
    }

    /// Asks once.
    ///
    /// # Errors
    /// It can't be sent.
    pub fn ask(&self) -> io::Result<()> {
        // Type, code, checksum, identifier, sequence number. Of ICMPv6 the kernel
        // makes the checksum; of ICMP the one's complement of the type is all.
        let request: [u8; 8] = match self.peer {
            IpAddr::V4(_) => [8, 0, !8, !0, 0, 0, 0, 0],
            IpAddr::V6(_) => [128, 0, 0, 0, 0, 0, 0, 0],
        };
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        Ok(())
    }

    /// Whether an answer has come since this was asked last.
    #[must_use]
    pub fn answered(&self) -> bool {
        let mut answered = false;
        let mut packet = [0; 128];
        loop {
            match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Ok(length) => {
                    let packet = packet.get(..length).unwrap_or_default();
                    answered |= match self.peer {
                        // Behind the IP header, whose length is in its first byte.
                        IpAddr::V4(_) => packet.first().is_some_and(|first| {
                            packet.get(usize::from(first & 15) * 4) == Some(&0)
                        }),
                        IpAddr::V6(_) => packet.first() == Some(&129),
                    };
                }
                Err(Errno::EAGAIN) => return answered,
                // A router's word that it can't be reached, or a signal.
                Err(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EINTR) => {}
                Err(_) => return answered,
            }
        }
    }
}

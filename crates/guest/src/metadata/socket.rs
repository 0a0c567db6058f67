//! The sockets of a tap: one of each address family, bound to the device.
//!
//! What comes by another device finds no socket, and what the host says to
//! itself is turned away: the proxy is reachable from taps alone, whatever the
//! firewall is. And each tap
//! has a queue of its own in the kernel. docs/adr/0005 has what speaks for it
//! and what it costs.

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener},
    os::fd::{AsRawFd as _, OwnedFd},
};

use l2isolate_model::{IfName, filter::Family};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{
        self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, getsockopt,
        setsockopt, sockopt,
    },
};

/// Connections of a tap that wait in the kernel for a place.
const BACKLOG: i32 = 64;

/// Why a tap's socket can't be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The device isn't there, or it is another one of that name.
    #[error("the device is not there any more, or not yet")]
    NoDevice,
    /// Somebody else has the port.
    #[error(
        "another program of this host listens on port {port} of all addresses; let it listen on its own addresses only"
    )]
    Taken {
        /// The TCP port.
        port: u16,
    },
    /// Ports below 1024 are for those who may.
    #[error("port {port} is not for this user; it needs CAP_NET_BIND_SERVICE")]
    Forbidden {
        /// The TCP port.
        port: u16,
    },
    /// Anything else.
    #[error("{0}")]
    Other(#[from] io::Error),
}

/// Listens for a tap's guest at `address`.
///
/// # Errors
/// See [`Error`]; all but the first need somebody's attention.
pub(super) fn open(
    tap: IfName,
    index: u32,
    address: IpAddr,
    port: u16,
) -> Result<TcpListener, Error> {
    let listener = bound(tap, index, address, port).map_err(|errno| match errno {
        Errno::ENODEV | Errno::ENXIO => Error::NoDevice,
        Errno::EADDRINUSE => Error::Taken { port },
        Errno::EACCES => Error::Forbidden { port },
        errno => Error::Other(errno.into()),
    })?;
    // The name was the same; was the device?
    if is_for(&listener, tap, index) {
        Ok(listener)
    } else {
        Err(Error::NoDevice)
    }
}

fn bound(tap: IfName, index: u32, address: IpAddr, port: u16) -> nix::Result<TcpListener> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket::socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // The agent may still be about to put the address on the tap.
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    // Needs no privilege since Linux 5.7, for a socket that isn't bound yet.
    setsockopt(
        &socket,
        sockopt::BindToDevice,
        &OsString::from(tap.as_str()),
    )?;
    let raw = socket.as_raw_fd();
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            socket::bind(raw, &SockaddrIn::new(a, b, c, d, port))?;
        }
        IpAddr::V6(v6) => {
            let address = SocketAddrV6::new(v6, port, 0, index);
            socket::bind(raw, &SockaddrIn6::from(address))?;
        }
    }
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

/// Whether a socket is bound to this very device.
pub(super) fn is_for(listener: &TcpListener, tap: IfName, index: u32) -> bool {
    let device = getsockopt(listener, sockopt::BindToDevice);
    // The kernel gives today's name of the device that it was bound to.
    device.is_ok_and(|device| device.to_str() == Some(tap.as_str()))
        && if_nametoindex(tap.as_str()) == Ok(index)
}

/// Whether an address is this host's own. What the host says to itself counts
/// as come in by the tap (the kernel's routes of local addresses name one), and
/// a link-local address would then be taken for the guest's.
pub(super) fn is_local(peer: SocketAddr) -> bool {
    let family = match peer {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let attempt = || -> nix::Result<()> {
        let socket = socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let mut address = peer;
        address.set_port(0);
        // What isn't local can't be bound to.
        match address {
            SocketAddr::V4(v4) => socket::bind(socket.as_raw_fd(), &SockaddrIn::from(v4)),
            SocketAddr::V6(v6) => socket::bind(socket.as_raw_fd(), &SockaddrIn6::from(v6)),
        }
    };
    // Whoever can't be told from the host is taken for it.
    attempt() != Err(Errno::EADDRNOTAVAIL)
}

/// What a tap's socket is called in the service manager's keeping.
pub(super) fn name(tap: IfName, address: IpAddr) -> String {
    match Family::of(address) {
        Family::V4 => format!("{tap}.4"),
        Family::V6 => format!("{tap}.6"),
    }
}

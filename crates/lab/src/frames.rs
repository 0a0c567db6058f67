//! Packet sockets on a device (packet(7)): frames as they are.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, socket},
};

/// What a socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receives {
    /// Nothing: it sends.
    Nothing,
    /// Frames both ways.
    All,
}

/// A socket on a device of this thread's namespace.
///
/// # Errors
/// There is no such device, or the caller isn't root.
pub(crate) fn open(device: &str, receives: Receives) -> io::Result<OwnedFd> {
    let link = getifaddrs()?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied());
    let link = link.ok_or(Errno::ENODEV)?;
    let protocol = match receives {
        Receives::Nothing => None,
        Receives::All => Some(SockProtocol::EthAll),
    };
    let (family, flags) = (AddressFamily::Packet, SockFlag::SOCK_CLOEXEC);
    let socket = socket(family, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &link)?;
    Ok(socket)
}

//! Sockets whose kernel says when a packet came, and for how many it had no room.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            ControlMessageOwned, MsgFlags, recvmsg, setsockopt,
            sockopt::{RcvBufForce, ReceiveTimestampns, RxqOvfl},
        },
        time::TimeSpec,
    },
};

/// Bytes of receive buffer: seconds of what flows here.
const BUFFER: usize = 4 << 20;

/// What was received of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Bytes that were read.
    pub(crate) length: usize,
    /// When it came, by the kernel's clock; not known of what came before [`prepare`].
    pub(crate) time: Option<Duration>,
}

/// Makes such a socket.
///
/// # Errors
/// The caller isn't root.
pub(crate) fn prepare<S: AsFd>(socket: S) -> io::Result<S> {
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    setsockopt(&socket, RxqOvfl, &1)?;
    Ok(socket)
}

/// Takes a packet off it, if there is one; `dropped` is how many there was no room for
/// until then.
///
/// # Errors
/// The kernel's.
pub(crate) fn receive(
    socket: &impl AsFd,
    data: &mut [u8],
    dropped: &mut u32,
) -> io::Result<Option<Received>> {
    let mut parts = [io::IoSliceMut::new(data)];
    let mut control = nix::cmsg_space!(TimeSpec, u32);
    let (socket, flags) = (socket.as_fd().as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let message = match recvmsg::<()>(socket, &mut parts, Some(&mut control), flags) {
        Ok(message) => message,
        // A device that went has said all it had to.
        Err(Errno::EAGAIN | Errno::ENETDOWN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut time = None;
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::ScmTimestampns(at) => time = Some(Duration::from(at)),
            ControlMessageOwned::RxqOvfl(count) => *dropped = count,
            _ => {}
        }
    }
    let length = message.bytes;
    Ok(Some(Received { length, time }))
}

//! What guests ask their host on the link itself, as frames: router and
//! neighbour solicitations, and DHCPv6.
//!
//! One packet socket for all taps: it is told by which device a frame came. A
//! filter in the kernel lets nothing else through, and what it drops costs no
//! copy; so it is with what the host routes. Who asks too much is named in the
//! filter too. Neither nftables nor the kernel's own handling sees a
//! difference. docs/adr/0008 has why, and what it costs.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use l2isolate_model::Mac;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, recvfrom, sendto, setsockopt,
        socket, sockopt,
    },
};

use crate::raw::{DEVICE, Instruction, JEQ, LD_BYTE, LD_HALF, LD_WORD, RET, attach, device};

/// The longest frame of interest: all of it is sent within IPv6's least MTU.
pub const FRAME: usize = 2048;

/// Devices that can be muted at once: the kernel limits what filters may take
/// (net.core.optmem_max, 20 KiB for the old and the new one together).
pub const MUTED: usize = 256;

/// Receive queue, in bytes: some thousands of solicitations.
const QUEUE: usize = 4 << 20;

/// Which frames pass: to a multicast address or to `mac`, IPv6 with an ICMPv6
/// type 133 or 135 that no router has passed on, or to UDP port 547 of a
/// multicast address of the link; and not from a muted device. No extension
/// headers: RFC 6980 and common sense want none here.
fn filter(mac: Mac, muted: impl Iterator<Item = u32>) -> Vec<Instruction> {
    let [a, b, c, d, e, f] = mac.bytes();
    let mut program = vec![
        [LD_HALF, 0, 0, 0],
        [JEQ, 4, 0, 0x3333],
        [LD_WORD, 0, 0, 0],
        [JEQ, 0, 16, u32::from_be_bytes([a, b, c, d])],
        [LD_HALF, 0, 0, 4],
        [JEQ, 0, 14, u32::from_be_bytes([0, 0, e, f])],
        [LD_HALF, 0, 0, 12],
        [JEQ, 0, 12, 0x86dd],
        [LD_BYTE, 0, 0, 20],
        [JEQ, 0, 5, 58],
        // Whoever has a hop limit of 255 is on the link (RFC 4861, 3.1).
        [LD_BYTE, 0, 0, 21],
        [JEQ, 0, 8, 255],
        [LD_BYTE, 0, 0, 54],
        [JEQ, 7, 0, 133],
        [JEQ, 6, 5, 135],
        [JEQ, 0, 4, 17],
        [LD_HALF, 0, 0, 38],
        [JEQ, 0, 2, 0xff02],
        [LD_HALF, 0, 0, 56],
        [JEQ, 1, 0, 547],
        [RET, 0, 0, 0],
        [LD_WORD, 0, 0, DEVICE],
    ];
    for index in muted.take(MUTED) {
        program.push([JEQ, 0, 1, index]);
        program.push([RET, 0, 0, 0]);
    }
    program.push([RET, 0, 0, FRAME as u32]);
    program
}

/// The solicitations on all devices of a network namespace.
#[derive(Debug)]
pub struct Solicitations {
    socket: OwnedFd,
    mac: Mac,
}

impl Solicitations {
    /// Listens in the calling thread's network namespace, with nobody muted.
    /// `mac` is the hardware address of the host's end of every tap.
    ///
    /// # Errors
    /// We aren't allowed to.
    pub fn open(mac: Mac) -> io::Result<Self> {
        // With no protocol it receives nothing yet.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)?;
        let solicitations = Self { socket, mac };
        solicitations.mute(std::iter::empty())?;
        bind(
            solicitations.socket.as_raw_fd(),
            &device(0, libc::ETH_P_IPV6)?,
        )?;
        Ok(solicitations)
    }

    /// From now on nothing is heard from these devices, [`MUTED`] at most, and
    /// from all others. What is in the queue stays there.
    ///
    /// # Errors
    /// The kernel has no memory for it; it stays as it was.
    pub fn mute(&self, devices: impl Iterator<Item = u32>) -> io::Result<()> {
        attach(&self.socket, &filter(self.mac, devices))
    }

    /// The next frame, if there is one, with the number of its device.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next<'a>(&self, buffer: &'a mut [u8; FRAME]) -> io::Result<Option<(u32, &'a [u8])>> {
        loop {
            match recvfrom(self.socket.as_raw_fd(), buffer) {
                Ok((length, from)) => {
                    let index = from.map_or(0, |from: LinkAddr| from.ifindex());
                    let index = u32::try_from(index).unwrap_or_default();
                    return Ok(buffer.get(..length).map(|frame| (index, frame)));
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a frame to the guest behind the device with that number.
    ///
    /// # Errors
    /// The device is down or gone, or its queue full.
    pub fn send(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT;
        sendto(
            self.socket.as_raw_fd(),
            frame,
            &device(index, libc::ETH_P_IPV6)?,
            flags,
        )?;
        Ok(())
    }
}

impl AsFd for Solicitations {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

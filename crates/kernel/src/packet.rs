//! What a guest asks its host on the link itself, as frames: router and
//! neighbour solicitations, and DHCPv6.
//!
//! A packet socket for each tap: its queue is the tap's own, so a guest that
//! floods fills only that, and what isn't read is dropped by the kernel. A
//! filter in the kernel lets nothing else through. Neither nftables nor the
//! kernel's own handling sees a difference.

use std::{
    io,
    mem::size_of_val,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt,
    },
};

/// The longest frame of interest: all of it is sent within IPv6's least MTU.
pub const FRAME: usize = 2048;

/// Receive queue of a tap, in bytes: some dozens of solicitations.
const QUEUE: usize = 32 * 1024;

/// Which frames pass, in the kernel's classic BPF (linux/filter.h): IPv6 with
/// an ICMPv6 type 133 or 135, or to UDP port 547. No extension headers: RFC
/// 6980 and common sense want none here.
const FILTER: &[[u32; 4]] = &[
    // code, jump if true, jump if false, operand
    [LD_HALF, 0, 0, 12],
    [JEQ, 0, 9, 0x86dd],
    [LD_BYTE, 0, 0, 20],
    [JEQ, 0, 3, 58],
    [LD_BYTE, 0, 0, 54],
    [JEQ, 4, 0, 133],
    [JEQ, 3, 4, 135],
    [JEQ, 0, 3, 17],
    [LD_HALF, 0, 0, 56],
    [JEQ, 0, 1, 547],
    [RET, 0, 0, FRAME as u32],
    [RET, 0, 0, 0],
];
const LD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const JEQ: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RET: u32 = libc::BPF_RET | libc::BPF_K;

/// The solicitations on one device.
#[derive(Debug)]
pub struct Solicitations {
    socket: OwnedFd,
}

impl Solicitations {
    /// Listens on the device with that index.
    ///
    /// # Errors
    /// There is no such device, or we aren't allowed to.
    pub fn open(index: u32) -> io::Result<Self> {
        // With no protocol it receives nothing yet.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        setsockopt(&socket, sockopt::RcvBuf, &QUEUE)?;
        attach(&socket)?;
        ignore_own(&socket)?;
        bind(&socket, index)?;
        Ok(Self { socket })
    }

    /// The next frame, if there is one.
    ///
    /// # Errors
    /// The device is down or gone.
    pub fn next<'a>(&self, buffer: &'a mut [u8; FRAME]) -> io::Result<Option<&'a [u8]>> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => return Ok(buffer.get(..length)),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a frame to the guest.
    ///
    /// # Errors
    /// The device is down or gone, or its queue full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

impl AsFd for Solicitations {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn attach(socket: &OwnedFd) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = Vec::with_capacity(FILTER.len());
    for [code, jt, jf, k] in FILTER {
        let narrow = |n: &u32| u8::try_from(*n).unwrap_or_default();
        filter.push(libc::sock_filter {
            code: u16::try_from(*code).unwrap_or_default(),
            jt: narrow(jt),
            jf: narrow(jf),
            k: *k,
        });
    }
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or_default(),
        filter: filter.as_mut_ptr(),
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// What we send ourselves is not what we want to hear.
fn ignore_own(socket: &OwnedFd) -> io::Result<()> {
    set(
        socket,
        libc::SOL_PACKET,
        libc::PACKET_IGNORE_OUTGOING,
        &1_i32,
    )
}

#[allow(unsafe_code, reason = "no safe wrapper has these options")]
fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = u32::try_from(size_of_val(value)).unwrap_or_default();
    // SAFETY: `value` is borrowed for the call and `length` is its size. For
    // SO_ATTACH_FILTER it holds a pointer to a vector that its caller keeps,
    // with the vector's length; the kernel copies it within the call.
    let result = unsafe {
        let value = std::ptr::from_ref(value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, option, value, length)
    };
    Errno::result(result)?;
    Ok(())
}

#[allow(unsafe_code, reason = "no safe wrapper makes a sockaddr_ll")]
fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: u16::try_from(libc::ETH_P_IPV6).unwrap_or_default().to_be(),
        sll_ifindex: i32::try_from(index).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: `address` lives through the call, and `length` is its size.
    let result = unsafe {
        let address = std::ptr::from_ref(&address).cast();
        libc::bind(socket.as_raw_fd(), address, length)
    };
    Errno::result(result)?;
    Ok(())
}

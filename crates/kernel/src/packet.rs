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
    mem::size_of_val,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use l2isolate_model::Mac;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, recvfrom,
        sendto, setsockopt, socket, sockopt,
    },
};

/// The longest frame of interest: all of it is sent within IPv6's least MTU.
pub const FRAME: usize = 2048;

/// Devices that can be muted at once: the kernel limits what filters may take
/// (net.core.optmem_max, 20 KiB for the old and the new one together).
pub const MUTED: usize = 256;

/// Receive queue, in bytes: some thousands of solicitations.
const QUEUE: usize = 4 << 20;

/// The Ethernet type of IPv6, as the kernel has it in addresses.
const PROTOCOL: u16 = (libc::ETH_P_IPV6 as u16).to_be();

/// An instruction of the kernel's classic BPF (linux/filter.h): code, jump if
/// true, jump if false, operand.
type Instruction = [u32; 4];

const LD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const JEQ: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RET: u32 = libc::BPF_RET | libc::BPF_K;
/// Where a load finds the number of the device.
const DEVICE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX) as u32;

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
        bind(solicitations.socket.as_raw_fd(), &device(0)?)?;
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
        sendto(self.socket.as_raw_fd(), frame, &device(index)?, flags)?;
        Ok(())
    }
}

impl AsFd for Solicitations {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[allow(unsafe_code, reason = "no safe wrapper takes a program")]
fn attach(socket: &OwnedFd, program: &[Instruction]) -> io::Result<()> {
    let narrow = |n: u32| u8::try_from(n).unwrap_or_default();
    let mut program: Vec<libc::sock_filter> = program
        .iter()
        .map(|[code, jt, jf, k]| libc::sock_filter {
            code: u16::try_from(*code).unwrap_or_default(),
            jt: narrow(*jt),
            jf: narrow(*jf),
            k: *k,
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        filter: program.as_mut_ptr(),
    };
    let length = u32::try_from(size_of_val(&program)).unwrap_or_default();
    // SAFETY: `program` lives through the call and `length` is its size; its
    // pointer is to a vector that lives as long, with the vector's length. The
    // kernel copies it within the call.
    let result = unsafe {
        let program = std::ptr::from_ref(&program).cast();
        let option = libc::SO_ATTACH_FILTER;
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            program,
            length,
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// The address of a device; zero: of all.
#[allow(unsafe_code, reason = "a LinkAddr can be made no other way")]
fn device(index: u32) -> io::Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: PROTOCOL,
        sll_ifindex: i32::try_from(index).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of_val(&address)).ok();
    // SAFETY: `address` is a whole sockaddr_ll and lives through the call, in
    // which it is copied.
    let made = unsafe { LinkAddr::from_raw(std::ptr::from_ref(&address).cast(), length) };
    made.ok_or_else(|| Errno::EINVAL.into())
}

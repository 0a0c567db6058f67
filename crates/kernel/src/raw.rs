//! What packet sockets have in common: devices' addresses, and filters in the
//! kernel's classic BPF (linux/filter.h). What a filter doesn't let through is
//! never copied, and wakes nobody.

use std::{
    io,
    mem::size_of_val,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{LinkAddr, SockaddrLike as _},
};

/// An instruction: code, jump if true, jump if false, operand.
pub(crate) type Instruction = [u32; 4];

pub(crate) const LD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
pub(crate) const LD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
pub(crate) const LD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
pub(crate) const JEQ: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
pub(crate) const RET: u32 = libc::BPF_RET | libc::BPF_K;
/// Where a load finds the number of the device.
pub(crate) const DEVICE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX) as u32;
/// Where a load finds whose packet it is (`PACKET_OUTGOING` and the like).
pub(crate) const KIND: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;

/// Puts a filter on a socket, in place of the one that it has.
///
/// # Errors
/// The kernel has no memory for it; the socket stays as it was.
#[allow(unsafe_code, reason = "no safe wrapper takes a program")]
pub(crate) fn attach(socket: &OwnedFd, program: &[Instruction]) -> io::Result<()> {
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

/// The address of a device for frames of one Ethernet type (`ETH_P_…`); zero: of
/// all devices.
///
/// # Errors
/// None that is known.
#[allow(unsafe_code, reason = "a LinkAddr can be made no other way")]
pub(crate) fn device(index: u32, protocol: i32) -> io::Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: u16::try_from(protocol).unwrap_or_default().to_be(),
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

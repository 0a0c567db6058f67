//! A guest's end of a tap (linux/if_tun.h), as QEMU has it open: for whoever plays a
//! guest. The agent never opens one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use l2isolate_model::IfName;
use nix::{errno::Errno, libc};

/// A tap that is open: it has its carrier until this goes.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Opens a tap of this thread's network namespace; one that isn't there is made, and
    /// goes when it is closed. Reading and writing never wait.
    ///
    /// # Errors
    /// It is open already, isn't a tap, or the caller isn't allowed to.
    #[allow(unsafe_code, reason = "no safe wrapper asks for TUNSETIFF")]
    pub fn open(name: IfName) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true);
        let file = options
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        // `struct ifreq`: the name, zero-terminated, and flags.
        let mut request = [0_u8; size_of::<libc::ifreq>()];
        let name = name.as_str().as_bytes();
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        let flags = u16::try_from(flags).unwrap_or_default().to_ne_bytes();
        for (to, from) in request.iter_mut().zip(name) {
            *to = *from;
        }
        for (to, from) in request.iter_mut().skip(libc::IFNAMSIZ).zip(flags) {
            *to = from;
        }
        // SAFETY: the request is as long as the kernel's, is read and written within the
        // call, and an `IfName` is shorter than IFNAMSIZ, so its end is a zero.
        let result =
            unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
        Errno::result(result)?;
        Ok(Self(file))
    }

    /// Takes a frame that the host has sent there: its length.
    ///
    /// # Errors
    /// There is none (`WouldBlock`), or the tap was deleted.
    pub fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(frame)
    }

    /// Puts a frame there, as if the guest had sent it.
    ///
    /// # Errors
    /// There is no room, the tap is down, or was deleted.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.0).write(frame).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

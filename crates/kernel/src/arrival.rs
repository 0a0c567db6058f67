//! The first sign of a guest that is expected on a tap: a frame from its hardware
//! address. QEMU sends one for each interface (RARP) when a guest goes on after
//! live migration, and any other says the same.
//!
//! A packet socket for each tap on which a guest is expected, which are few and
//! not for long; what the guest sends later costs nothing. Frames are heard
//! before nftables sees them.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use l2isolate_model::Mac;
use nix::{
    errno::Errno,
    libc,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{
            AddressFamily, LinkAddr, SockFlag, SockType, bind, recvfrom, setsockopt, socket,
            sockopt,
        },
    },
};

use crate::raw::{Instruction, JEQ, KIND, LD_BYTE, LD_HALF, LD_WORD, RET, attach, device};

/// As much of a frame as is read: Ethernet's header.
const HEADER: usize = 14;
/// Receive queue in bytes: one frame is enough.
const QUEUE: usize = 4096;
/// Events that are taken at once; the rest is there the next time.
const EVENTS: usize = 64;

/// Who has sent a frame on a tap where a guest is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The guest: it is here.
    Guest,
    /// Somebody with another hardware address, all zero if it can't be one of an
    /// interface. Told once for each tap.
    Stranger([u8; 6]),
}

/// The guests that are expected.
#[derive(Debug)]
pub struct Arrivals {
    epoll: Epoll,
    expected: BTreeMap<u32, Expected>,
}

#[derive(Debug)]
struct Expected {
    socket: OwnedFd,
    mac: Mac,
}

impl Arrivals {
    /// Expects nobody.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            expected: BTreeMap::new(),
        })
    }

    /// Expects a guest with this hardware address behind the device with that
    /// number, from now on until it was heard or is forgotten. What was sent
    /// before isn't heard. Saying the same again changes nothing.
    ///
    /// # Errors
    /// The device is gone, or we aren't allowed to.
    pub fn expect(&mut self, index: u32, mac: Mac) -> io::Result<()> {
        if self.expected.get(&index).is_some_and(|e| e.mac == mac) {
            return Ok(());
        }
        self.forget(index);
        // With no protocol it receives nothing yet.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        setsockopt(&socket, sockopt::RcvBuf, &QUEUE)?;
        attach(&socket, &received(None))?;
        bind(socket.as_raw_fd(), &device(index, libc::ETH_P_ALL)?)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index.into());
        self.epoll.add(&socket, event)?;
        self.expected.insert(index, Expected { socket, mac });
        Ok(())
    }

    /// Expects nobody there any more.
    pub fn forget(&mut self, index: u32) {
        // A closed socket leaves the epoll instance by itself.
        self.expected.remove(&index);
    }

    /// The devices on which somebody is expected.
    pub fn devices(&self) -> impl Iterator<Item = u32> {
        self.expected.keys().copied()
    }

    /// Who was heard since, with the number of the device. A guest that was heard
    /// is expected no more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn heard(&mut self) -> io::Result<Vec<(u32, Sender)>> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut heard = Vec::new();
        for event in events.iter().take(count) {
            let index = u32::try_from(event.data()).unwrap_or_default();
            let Some(expected) = self.expected.get(&index) else {
                continue;
            };
            let sender = match expected.sender() {
                Ok(sender) => sender,
                Err(error) if heard.is_empty() => return Err(error),
                // Whoever was heard is told; this is there the next time.
                Err(_) => break,
            };
            match sender {
                Some(Sender::Guest) => {
                    self.expected.remove(&index);
                    heard.push((index, Sender::Guest));
                }
                Some(stranger) => heard.push((index, stranger)),
                None => {}
            }
        }
        Ok(heard)
    }
}

impl AsFd for Arrivals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Expected {
    /// Who sent what is in the queue. After a stranger only the guest is heard:
    /// whoever floods its own tap wakes us once.
    fn sender(&self) -> io::Result<Option<Sender>> {
        let mut stranger = None;
        let mut header = [0; HEADER];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut header) {
                Ok((length, _)) => {
                    let source = header.get(6..12).filter(|_| length >= HEADER);
                    let source = source.and_then(|s| <[u8; 6]>::try_from(s).ok());
                    if source == Some(self.mac.bytes()) {
                        return Ok(Some(Sender::Guest));
                    }
                    if stranger.is_none() {
                        // Without memory for it a stranger wakes us more often.
                        let _ = attach(&self.socket, &received(Some(self.mac)));
                        stranger = Some(Sender::Stranger(source.unwrap_or_default()));
                    }
                }
                Err(Errno::EAGAIN) => return Ok(stranger),
                // The device was switched off, or is gone: its own event tells.
                Err(Errno::ENETDOWN | Errno::ENXIO | Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Lets through what is received, not what the host sends; from one hardware
/// address, or from any.
fn received(from: Option<Mac>) -> Vec<Instruction> {
    let outgoing = u32::from(libc::PACKET_OUTGOING);
    let take = [RET, 0, 0, HEADER as u32];
    let leave = [RET, 0, 0, 0];
    let Some(mac) = from else {
        return vec![[LD_BYTE, 0, 0, KIND], [JEQ, 0, 1, outgoing], leave, take];
    };
    let [a, b, c, d, e, f] = mac.bytes();
    vec![
        [LD_BYTE, 0, 0, KIND],
        [JEQ, 4, 0, outgoing],
        [LD_WORD, 0, 0, 6],
        [JEQ, 0, 2, u32::from_be_bytes([a, b, c, d])],
        [LD_HALF, 0, 0, 10],
        [JEQ, 1, 0, u32::from_be_bytes([0, 0, e, f])],
        leave,
        take,
    ]
}

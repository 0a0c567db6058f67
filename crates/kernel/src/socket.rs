//! The two sockets: one asks and tells, the other listens.
//!
//! rtnetlink works inside send(2) and recv(2): when sending returns, all
//! acknowledgements and the first part of a dump are in the receive queue, and
//! each receive makes the next part. So nothing here ever waits, and an empty
//! queue where an answer is due means that it was dropped.
//!
//! What can break it: a receive queue that is too small for the answers
//! (`ENOBUFS`). It is large, and batches are small.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{setsockopt, sockopt},
};

use crate::{
    error::{Error, Refusal},
    uapi::{NLMSGERR_ATTR_MSG, flag, group, kind},
    wire::{Attributes, Message, Messages, Request, read_i32},
};

/// The largest datagram: dumps come in parts of at most 32 KiB, and single
/// messages are smaller.
const DATAGRAM: usize = 64 * 1024;
/// Requests in one datagram. Their acknowledgements, some 1.3 KiB of queue
/// each, must fit into the smallest receive queue that we may get.
const BATCH: usize = 64;
/// Receive queue for answers.
const ANSWERS: usize = 1024 * 1024;
/// How often a dump is tried that others' changes interrupt.
const DUMPS: usize = 20;
/// Datagrams at most that are cleared away before a request.
const STALE: usize = 100_000;

/// How a message of the kernel ends or answers a request.
pub(crate) fn refusal(message: &Message<'_>) -> Option<Refusal> {
    // `struct nlmsgerr`, or the same number at the end of a dump. The request's
    // header follows in the first case, its body unless capped, and then
    // attributes.
    let number = read_i32(message.body, 0).unwrap_or(0);
    if number == 0 {
        return None;
    }
    let start = match message.kind {
        kind::NLMSG_DONE => 4,
        _ if message.flags & flag::NLM_F_CAPPED != 0 => 20,
        _ => {
            4 + read_i32(message.body, 4)
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(16)
        }
    };
    let attributes = Attributes(message.body.get(start..).unwrap_or_default());
    let text = attributes.value(NLMSGERR_ATTR_MSG).unwrap_or_default();
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(Refusal {
        errno: Errno::from_raw(number.saturating_neg()),
        detail: String::from_utf8_lossy(text).into_owned(),
    })
}

fn open(groups: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

/// Makes the receive queue larger: beyond the host's limit where we may.
pub(crate) fn receive_queue(socket: &Socket, bytes: usize) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &bytes)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &bytes))
        .map_err(io::Error::from)
}

/// Receives a datagram, if there is one.
pub(crate) fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        buffer.clear();
        match socket.recv(buffer, libc::MSG_DONTWAIT) {
            Ok(_) => {
                #[cfg(feature = "testing")]
                crate::testing::decoders::record(buffer);
                return Ok(true);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// What came of one request of a batch.
pub(crate) type Answer = Result<Result<(), Refusal>, io::Error>;

/// The socket that asks and tells.
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    pub(crate) fn open() -> Result<Self, Error> {
        let make = || {
            let socket = open(0)?;
            receive_queue(&socket, ANSWERS)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            socket.set_netlink_get_strict_chk(true)?;
            Ok(socket)
        };
        let socket = make().map_err(|e| Error::Socket("opening the request socket", e))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// All messages of a dump, one behind the other; `what` names it in errors.
    pub(crate) fn dump(&mut self, what: &'static str, request: &Request) -> Result<Vec<u8>, Error> {
        for _ in 0..DUMPS {
            if let Some(messages) = self.dump_once(what, request)? {
                return Ok(messages);
            }
        }
        Err(Error::Unstable(what))
    }

    fn dump_once(
        &mut self,
        what: &'static str,
        request: &Request,
    ) -> Result<Option<Vec<u8>>, Error> {
        let failed = |error| Error::Socket(what, error);
        self.send(std::slice::from_ref(request), flag::NLM_F_DUMP)
            .map_err(failed)?;
        let mut all = Vec::new();
        let mut whole = true;
        loop {
            self.answer().map_err(failed)?;
            let mut done = false;
            for message in Messages(&self.buffer).filter(|m| m.sequence == self.sequence) {
                whole &= message.flags & flag::NLM_F_DUMP_INTR == 0;
                if matches!(message.kind, kind::NLMSG_ERROR | kind::NLMSG_DONE) {
                    done = true;
                    if let Some(refusal) = refusal(&message) {
                        return Err(Error::Refused(what, refusal));
                    }
                }
            }
            all.extend_from_slice(&self.buffer);
            if done {
                return Ok(whole.then_some(all));
            }
        }
    }

    /// The kernel's answer to a question about one object, as a datagram.
    pub(crate) fn get(&mut self, what: &'static str, request: &Request) -> Result<&[u8], Error> {
        let failed = |error| Error::Socket(what, error);
        self.send(std::slice::from_ref(request), 0)
            .map_err(failed)?;
        self.answer().map_err(failed)?;
        let refused = Messages(&self.buffer)
            .filter(|m| m.sequence == self.sequence && m.kind == kind::NLMSG_ERROR)
            .find_map(|m| refusal(&m));
        match refused {
            Some(refusal) => Err(Error::Refused(what, refusal)),
            None => Ok(&self.buffer),
        }
    }

    /// Has the kernel carry out requests in order; one that fails doesn't stop
    /// those behind it. One answer for each.
    pub(crate) fn tell(&mut self, requests: &[Request]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(requests.len());
        for batch in requests.chunks(BATCH) {
            answers.extend(self.tell_batch(batch));
        }
        answers
    }

    fn tell_batch(&mut self, batch: &[Request]) -> Vec<Answer> {
        let lost = || io::Error::other("the kernel's answer was lost");
        let mut answers: Vec<Answer> = batch.iter().map(|_| Err(lost())).collect();
        let first = self.sequence.wrapping_add(1);
        if let Err(error) = self.send(batch, flag::NLM_F_ACK) {
            let again = || io::Error::new(error.kind(), error.to_string());
            return batch.iter().map(|_| Err(again())).collect();
        }
        let mut missing = batch.len();
        // After an overrun what is still queued is read all the same.
        while missing > 0 && self.answer().is_ok() {
            for message in Messages(&self.buffer).filter(|m| m.kind == kind::NLMSG_ERROR) {
                let index = usize::try_from(message.sequence.wrapping_sub(first));
                if let Some(slot) = index.ok().and_then(|index| answers.get_mut(index)) {
                    *slot = Ok(refusal(&message).map_or(Ok(()), Err));
                    missing = missing.saturating_sub(1);
                }
            }
        }
        answers
    }

    /// Sends requests as one datagram, numbered one by one.
    fn send(&mut self, requests: &[Request], flags: u16) -> io::Result<()> {
        // What an earlier failure left behind, such as half a dump, answers
        // nothing of this.
        (0..STALE).any(|_| matches!(receive(&self.socket, &mut self.buffer), Ok(false)));
        let mut datagram = Vec::with_capacity(requests.len() * 128);
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.append_to(&mut datagram, flags | flag::NLM_F_REQUEST, self.sequence);
        }
        self.socket.send(&datagram, 0).map(drop)
    }

    fn answer(&mut self) -> io::Result<()> {
        match receive(&self.socket, &mut self.buffer) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::other("the kernel's answer was lost")),
            Err(error) => Err(error),
        }
    }
}

/// The socket that listens.
pub(crate) struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Subscribes to everything that may concern us; `queue` in bytes.
    pub(crate) fn open(queue: usize) -> Result<Self, Error> {
        let groups = [
            group::RTNLGRP_LINK,
            group::RTNLGRP_NEIGH,
            group::RTNLGRP_IPV4_IFADDR,
            group::RTNLGRP_IPV4_ROUTE,
            group::RTNLGRP_IPV6_IFADDR,
            group::RTNLGRP_IPV6_ROUTE,
            group::RTNLGRP_IPV4_RULE,
            group::RTNLGRP_IPV6_RULE,
            group::RTNLGRP_IPV4_NETCONF,
            group::RTNLGRP_IPV6_NETCONF,
        ];
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        let make = || {
            // Bound last: nothing arrives before the queue has its size.
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            receive_queue(&socket, queue)?;
            socket.bind(&SocketAddr::new(0, mask))?;
            Ok(socket)
        };
        let socket = make().map_err(|e| Error::Socket("opening the monitor socket", e))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// The next datagram. The error is the kernel's: `ENOBUFS` if some were lost.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        Ok(receive(&self.socket, &mut self.buffer)?.then_some(self.buffer.as_slice()))
    }

    /// Forgets what is queued. False if more came than any queue holds.
    pub(crate) fn discard(&mut self) -> bool {
        // The smallest datagram takes some hundred bytes of the queue.
        (0..1_000_000).any(|_| matches!(receive(&self.socket, &mut self.buffer), Ok(false)))
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

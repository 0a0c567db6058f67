//! The socket that asks nftables and tells it.
//!
//! As with rtnetlink everything happens inside send(2) and recv(2). A batch is
//! one datagram, so the send queue must take all of it. Only its last message
//! asks for an acknowledgement: one for each would overrun the receive queue,
//! and then nobody could tell what came of the batch.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};

use super::{batch::Message as Change, uapi::*};
use crate::{
    error::{Error, Refusal},
    socket::{receive, receive_queue, refusal},
    uapi::{flag, kind},
    wire::{Messages, Request},
};

/// Receive queue, for dumps and for the errors of a large batch.
const ANSWERS: usize = 8 * 1024 * 1024;
/// The smallest send queue; batches need some three times their size.
const SEND: usize = 4 * 1024 * 1024;
const DATAGRAM: usize = 64 * 1024;
/// How often a dump is tried that others' changes interrupt.
const DUMPS: usize = 20;

/// The socket. It owns tables that are made with the owner flag.
pub(crate) struct Channel {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    send: usize,
}

/// Why a batch didn't take effect.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The kernel refuses messages, by index; none: the batch as a whole.
    Refused(Vec<(Option<usize>, Refusal)>),
    /// Whether it took effect isn't known.
    Unknown(io::Error),
}

/// `struct nfgenmsg`.
fn nfgenmsg(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn message(number: u16, flags: u16, family: u8) -> Request {
    Request::new(
        NFNL_SUBSYS_NFTABLES << 8 | number,
        flags,
        &nfgenmsg(family, 0),
    )
}

impl Channel {
    pub(crate) fn open() -> Result<Self, Error> {
        let make = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            receive_queue(&socket, ANSWERS)?;
            setsockopt(&socket, sockopt::SndBufForce, &SEND).map_err(io::Error::from)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            let address = socket.bind_auto()?;
            Ok((socket, address.port_number()))
        };
        let (socket, port) = make().map_err(|e| Error::Socket("opening the nftables socket", e))?;
        Ok(Self {
            socket,
            port,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM),
            send: SEND,
        })
    }

    /// The socket's address, which events of its changes carry.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// All messages of a dump, one behind the other. What isn't there is none.
    pub(crate) fn dump(
        &mut self,
        what: &'static str,
        number: u16,
        family: u8,
        attributes: &[(u16, &str)],
    ) -> Result<Vec<u8>, Error> {
        let mut request = message(number, 0, family);
        for (kind, value) in attributes {
            request = request.with(*kind, &[value.as_bytes(), &[0]].concat());
        }
        for _ in 0..DUMPS {
            if let Some(messages) = self.dump_once(what, &request)? {
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
        self.clear();
        self.sequence = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        request.append_to(
            &mut datagram,
            flag::NLM_F_DUMP | flag::NLM_F_REQUEST,
            self.sequence,
        );
        self.socket.send(&datagram, 0).map_err(failed)?;
        let mut all = Vec::new();
        let mut whole = true;
        loop {
            if !receive(&self.socket, &mut self.buffer).map_err(failed)? {
                return Err(failed(io::Error::other("the kernel's answer was lost")));
            }
            let mut done = false;
            for message in Messages(&self.buffer).filter(|m| m.sequence == self.sequence) {
                whole &= message.flags & flag::NLM_F_DUMP_INTR == 0;
                if matches!(message.kind, kind::NLMSG_ERROR | kind::NLMSG_DONE) {
                    done = true;
                    match refusal(&message) {
                        Some(no) if no.errno == nix::errno::Errno::ENOENT => {}
                        Some(no) if no.errno == nix::errno::Errno::EINTR => whole = false,
                        Some(no) => return Err(Error::Refused(what, no)),
                        None => {}
                    }
                }
            }
            all.extend_from_slice(&self.buffer);
            if done {
                return Ok(whole.then_some(all));
            }
        }
    }

    /// Carries out a batch: all of it or nothing.
    pub(crate) fn transact(&mut self, messages: &[Change]) -> Result<(), Failed> {
        self.clear();
        let begin = self.sequence.wrapping_add(1);
        let mut datagram =
            Vec::with_capacity(messages.iter().map(|m| m.body.len() + 20).sum::<usize>() + 64);
        let bracket = |kind| Request::new(kind, 0, &nfgenmsg(0, NFNL_SUBSYS_NFTABLES));
        bracket(NFNL_MSG_BATCH_BEGIN).append_to(&mut datagram, flag::NLM_F_REQUEST, begin);
        let mut sequence = begin;
        for (index, one) in messages.iter().enumerate() {
            sequence = sequence.wrapping_add(1);
            let acknowledge = if index + 1 == messages.len() {
                flag::NLM_F_ACK
            } else {
                0
            };
            message(one.kind, one.flags, one.family)
                .with_raw(&one.body)
                .append_to(&mut datagram, flag::NLM_F_REQUEST | acknowledge, sequence);
        }
        let last = sequence;
        sequence = sequence.wrapping_add(1);
        bracket(NFNL_MSG_BATCH_END).append_to(&mut datagram, flag::NLM_F_REQUEST, sequence);
        self.sequence = sequence;
        self.room(datagram.len()).map_err(Failed::Unknown)?;
        self.socket.send(&datagram, 0).map_err(Failed::Unknown)?;

        let mut refused = Vec::new();
        let mut acknowledged = false;
        while receive(&self.socket, &mut self.buffer).map_err(Failed::Unknown)? {
            for message in Messages(&self.buffer).filter(|m| m.kind == kind::NLMSG_ERROR) {
                let index = usize::try_from(message.sequence.wrapping_sub(begin)).ok();
                let index = index
                    .and_then(|n| n.checked_sub(1))
                    .filter(|n| *n < messages.len());
                match refusal(&message) {
                    Some(refusal) => refused.push((index, refusal)),
                    None => acknowledged |= message.sequence == last,
                }
            }
        }
        if !refused.is_empty() {
            return Err(Failed::Refused(refused));
        }
        if acknowledged {
            Ok(())
        } else {
            Err(Failed::Unknown(io::Error::other(
                "the kernel's answer was lost",
            )))
        }
    }

    /// Makes sure that a datagram fits into the send queue.
    fn room(&mut self, length: usize) -> io::Result<()> {
        if length + 4096 > self.send {
            setsockopt(&self.socket, sockopt::SndBufForce, &(length + 4096))
                .map_err(io::Error::from)?;
            self.send = length + 4096;
        }
        Ok(())
    }

    /// Forgets answers to what is over.
    fn clear(&mut self) {
        while matches!(receive(&self.socket, &mut self.buffer), Ok(true)) {}
    }
}

/// The socket that hears of others' changes.
pub(crate) struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Monitor {
    pub(crate) fn open() -> Result<Self, Error> {
        let make = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            receive_queue(&socket, ANSWERS)?;
            socket.bind(&SocketAddr::new(0, 1 << (NFNLGRP_NFTABLES - 1)))?;
            Ok(socket)
        };
        let socket = make().map_err(|e| Error::Socket("opening the nftables monitor", e))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// The next datagram. The error is the kernel's: `ENOBUFS` if some were lost.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        Ok(receive(&self.socket, &mut self.buffer)?.then_some(self.buffer.as_slice()))
    }
}

impl std::os::fd::AsFd for Monitor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether `error` says that messages were lost.
pub(crate) fn overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

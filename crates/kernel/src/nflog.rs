//! Packets that the firewall shows (linux/netfilter/nfnetlink_log.h), read from an
//! NFLOG group of this network namespace.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::{
    error::Error,
    socket::{receive, receive_queue, refusal},
    uapi::{AF_UNSPEC, flag, kind},
    wire::{Messages, Request},
};

/// `NFNL_SUBSYS_ULOG << 8`, with NFULNL_MSG_PACKET and _CONFIG.
const PACKET: u16 = 0x400;
const CONFIG: u16 = 0x401;
/// NFULA_CFG_CMD with NFULNL_CFG_CMD_BIND, NFULA_CFG_MODE with NFULNL_COPY_PACKET,
/// NFULA_CFG_QTHRESH.
const CFG_CMD: u16 = 1;
const CMD_BIND: u8 = 1;
const CFG_MODE: u16 = 2;
const COPY_PACKET: u8 = 2;
const CFG_QTHRESH: u16 = 5;
const PAYLOAD: u16 = 9;
/// `struct nfgenmsg`.
const HEADER: usize = 4;
/// Receive queue in bytes: what doesn't fit isn't seen.
const QUEUE: usize = 64 * 1024;
/// Datagrams that are taken at once; the rest is there the next time.
const DATAGRAMS: usize = 64;

/// The only listener to a group.
pub(crate) struct Log {
    socket: Socket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Log {
    /// Listens to a group, to so many bytes of each packet.
    ///
    /// # Errors
    /// Somebody else does, the kernel has no such thing, or we aren't allowed to.
    pub(crate) fn open(group: u16, length: u32) -> Result<Self, Error> {
        let what = "listening to an NFLOG group";
        let failed = |error| Error::Socket(what, error);
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
        receive_queue(&socket, QUEUE).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        let [high, low] = group.to_be_bytes();
        // `struct nfulnl_msg_config_mode`, packed.
        let mode = [&length.to_be_bytes()[..], &[COPY_PACKET, 0]].concat();
        let request = Request::new(CONFIG, 0, &[AF_UNSPEC, 0, high, low])
            .with(CFG_CMD, &[CMD_BIND])
            .with(CFG_MODE, &mode)
            // Each packet by itself: nobody waits for a second one.
            .with(CFG_QTHRESH, &1_u32.to_be_bytes());
        let mut datagram = Vec::new();
        request.append_to(&mut datagram, flag::NLM_F_REQUEST | flag::NLM_F_ACK, 1);
        socket.send(&datagram, 0).map_err(failed)?;
        let mut log = Self {
            socket,
            buffer: Vec::with_capacity(64 * 1024),
        };
        // Answered while it was sent, behind what was shown since.
        while receive(&log.socket, &mut log.buffer).map_err(failed)? {
            let mut messages = Messages(&log.buffer);
            if let Some(answer) = messages.find(|message| message.kind == kind::NLMSG_ERROR) {
                return match refusal(&answer) {
                    None => Ok(log),
                    Some(refusal) => Err(Error::Refused(what, refusal)),
                };
            }
        }
        Err(failed(io::Error::other("the kernel doesn't answer")))
    }

    /// Packets that were shown since, each from its network header on.
    pub(crate) fn packets(&mut self, mut each: impl FnMut(&[u8])) {
        for _ in 0..DATAGRAMS {
            match receive(&self.socket, &mut self.buffer) {
                Ok(true) => {}
                Ok(false) => return,
                // Some were lost: there is room again.
                Err(_) => continue,
            }
            let packets = Messages(&self.buffer).filter(|message| message.kind == PACKET);
            let packets = packets.filter_map(|packet| packet.attributes(HEADER).value(PAYLOAD));
            packets.for_each(&mut each);
        }
    }
}

impl AsFd for Log {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

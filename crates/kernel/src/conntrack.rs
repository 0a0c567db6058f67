//! The flows that connection tracking knows, in this network namespace: to be
//! looked at, and ended.
//!
//! A flow is told by its first packet, in the direction in which that went.
//! Ending one that has gone by itself is no failure. Flows of other zones than
//! the default one are somebody else's, and left out.

use std::{io, net::IpAddr};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use crate::{
    error::Error,
    socket::{receive, receive_queue, refusal},
    uapi::{AF_INET, AF_INET6, AF_UNSPEC, flag, kind},
    wire::{Attributes, Messages, Request, read_u8, read_u16},
};

/// NFNL_SUBSYS_CTNETLINK, with IPCTNL_MSG_CT_NEW, _GET and _DELETE.
const NEW: u16 = 0x100;
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// Receive queue for answers.
const ANSWERS: usize = 4 * 1024 * 1024;
/// How often a dump is tried that others' changes interrupt.
const DUMPS: usize = 20;
/// Deletions in one datagram.
const BATCH: usize = 64;

/// A flow, by its first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Who began it.
    pub source: IpAddr,
    /// With whom.
    pub destination: IpAddr,
    /// Transport protocol.
    pub protocol: u8,
    /// Source and destination port, where the protocol has ports.
    pub ports: Option<(u16, u16)>,
    /// Type and code, if it is ICMP.
    pub icmp: Option<(u8, u8)>,
    /// The kernel's own description of it, to name it by.
    tuple: Vec<u8>,
    id: Vec<u8>,
}

/// The connection to connection tracking.
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conntrack").finish_non_exhaustive()
    }
}

/// `struct nfgenmsg`.
fn request(kind: u16, family: u8) -> Request {
    Request::new(kind, 0, &[family, 0, 0, 0])
}

impl Conntrack {
    /// Opens a socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// We aren't allowed to, or the kernel has no connection tracking.
    pub fn open() -> Result<Self, Error> {
        let make = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            receive_queue(&socket, ANSWERS)?;
            socket.set_cap_ack(true)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket =
            make().map_err(|e| Error::Socket("opening the connection tracking socket", e))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(64 * 1024),
        })
    }

    /// The flows for which `wanted` says so; asked for one by one as they are
    /// read, since there may be millions.
    ///
    /// # Errors
    /// The kernel doesn't answer.
    pub fn flows(&mut self, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
        for _ in 0..DUMPS {
            let mut flows = Vec::new();
            if self.dump(&wanted, &mut flows)? {
                return Ok(flows);
            }
        }
        Err(Error::Unstable("listing flows"))
    }

    fn dump(
        &mut self,
        wanted: &impl Fn(&Flow) -> bool,
        flows: &mut Vec<Flow>,
    ) -> Result<bool, Error> {
        let what = "listing flows";
        let failed = |error| Error::Socket(what, error);
        self.sequence = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        let flags = flag::NLM_F_REQUEST | flag::NLM_F_DUMP;
        // Both families in one: most of the cost is the walk over the table.
        request(GET, AF_UNSPEC).append_to(&mut datagram, flags, self.sequence);
        self.socket.send(&datagram, 0).map_err(failed)?;
        let mut whole = true;
        loop {
            if !receive(&self.socket, &mut self.buffer).map_err(failed)? {
                return Err(failed(io::Error::other("the kernel's answer was lost")));
            }
            for message in Messages(&self.buffer).filter(|m| m.sequence == self.sequence) {
                whole &= message.flags & flag::NLM_F_DUMP_INTR == 0;
                match message.kind {
                    kind::NLMSG_ERROR | kind::NLMSG_DONE => {
                        return match refusal(&message) {
                            Some(refusal) => Err(Error::Refused(what, refusal)),
                            None => Ok(whole),
                        };
                    }
                    NEW => flows.extend(flow(&message.attributes(4)).filter(wanted)),
                    _ => {}
                }
            }
        }
    }

    /// Ends flows; says how many of them were still there.
    ///
    /// # Errors
    /// The kernel refuses, or doesn't answer.
    pub fn end(&mut self, flows: &[Flow]) -> Result<usize, Error> {
        let what = "ending flows";
        let failed = |error| Error::Socket(what, error);
        let mut ended = 0;
        for batch in flows.chunks(BATCH) {
            let mut datagram = Vec::new();
            for flow in batch {
                self.sequence = self.sequence.wrapping_add(1);
                let family = if flow.source.is_ipv4() {
                    AF_INET
                } else {
                    AF_INET6
                };
                request(DELETE, family)
                    .with(CTA_TUPLE_ORIG | NESTED, &flow.tuple)
                    .with(CTA_ID, &flow.id)
                    .append_to(
                        &mut datagram,
                        flag::NLM_F_REQUEST | flag::NLM_F_ACK,
                        self.sequence,
                    );
            }
            self.socket.send(&datagram, 0).map_err(failed)?;
            let mut missing = batch.len();
            while missing > 0 {
                if !receive(&self.socket, &mut self.buffer).map_err(failed)? {
                    return Err(failed(io::Error::other("the kernel's answer was lost")));
                }
                for message in Messages(&self.buffer).filter(|m| m.kind == kind::NLMSG_ERROR) {
                    missing = missing.saturating_sub(1);
                    match refusal(&message) {
                        None => ended += 1,
                        Some(refusal) if refusal.errno == Errno::ENOENT => {}
                        Some(refusal) => return Err(Error::Refused(what, refusal)),
                    }
                }
            }
        }
        Ok(ended)
    }
}

/// How many flows a dump tells of, whatever it holds.
#[cfg(feature = "testing")]
pub(crate) fn read_anything(dump: &[u8]) -> usize {
    Messages(dump)
        .filter_map(|message| flow(&message.attributes(4)))
        .count()
}

/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;

fn flow(attributes: &Attributes<'_>) -> Option<Flow> {
    if attributes.value(CTA_ZONE).is_some() {
        return None;
    }
    let tuple = attributes.value(CTA_TUPLE_ORIG)?;
    let parts = Attributes(tuple);
    let addresses = Attributes(parts.value(CTA_TUPLE_IP)?);
    // CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST.
    let v4 = |kind| {
        Some(IpAddr::from(
            <[u8; 4]>::try_from(addresses.value(kind)?).ok()?,
        ))
    };
    let v6 = |kind| {
        Some(IpAddr::from(
            <[u8; 16]>::try_from(addresses.value(kind)?).ok()?,
        ))
    };
    let protocol = Attributes(parts.value(CTA_TUPLE_PROTO)?);
    let byte = |kind| read_u8(protocol.value(kind)?, 0);
    let port = |kind| read_u16(protocol.value(kind)?, 0).map(u16::from_be);
    // CTA_PROTO_ICMP_TYPE and _CODE; CTA_PROTO_ICMPV6_TYPE and _CODE.
    let icmp = byte(5).zip(byte(6)).or_else(|| byte(8).zip(byte(9)));
    Some(Flow {
        source: v4(1).or_else(|| v6(3))?,
        destination: v4(2).or_else(|| v6(4))?,
        protocol: byte(CTA_PROTO_NUM)?,
        ports: port(CTA_PROTO_SRC_PORT).zip(port(CTA_PROTO_DST_PORT)),
        icmp,
        tuple: tuple.to_vec(),
        id: attributes.value(CTA_ID)?.to_vec(),
    })
}

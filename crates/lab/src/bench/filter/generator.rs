//! The smallest packets of flows that go both ways, as fast as one processor
//! sends and forwards them.
//!
//! Frames are made here and sent past the guest's own stack, many with each
//! call; between veth ends, a frame is received, forwarded and received again
//! on the processor that sends it, before the call returns. The receiving end
//! has another hardware address than its frames are for, so that its stack
//! drops them first thing: what is left is the hypervisor's work.

use std::{
    io::IoSlice,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::socket::{LinkAddr, MsgFlags, MultiHeaders, sendmmsg},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    Error, Result,
    frames::{self, Receives},
    netns,
};

/// Flows between the two ends, and frames sent with one call.
pub(super) const FLOWS: u16 = 64;
/// Ethernet's smallest frame without its checksum.
const FRAME: usize = 60;

pub(super) type Mac = [u8; 6];

/// What stands in the frames of one direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) from: (Mac, Ipv4Addr),
    pub(super) to: (Mac, Ipv4Addr),
    /// UDP ports of the first flow; the others' follow.
    pub(super) ports: (u16, u16),
}

/// One end of the path, which sends.
pub(super) struct Generator {
    socket: OwnedFd,
    frames: Vec<[u8; FRAME]>,
}

impl Generator {
    /// Sends out of a device, once it is told to.
    ///
    /// # Errors
    /// There is no such device, or the caller isn't root.
    pub(super) fn open(namespace: &str, device: &str, way: Way) -> Result<Self> {
        let socket = netns::inside(namespace, || frames::open(device, Receives::Nothing))?;
        let what = format!("packet socket on {device} in {namespace}");
        let socket = socket.map_err(Error::io(what))?;
        let frames = (0..FLOWS).map(|flow| frame(way, flow)).collect();
        Ok(Self { socket, frames })
    }

    /// Sends each flow's packet once.
    ///
    /// # Errors
    /// The device takes none.
    pub(super) fn once(&self) -> Result<()> {
        self.send(&mut self.headers()).map(|_| ())
    }

    /// Sends for so long, on the calling thread; how many, and how long each
    /// call took, which is how long its packets were on their way.
    ///
    /// # Errors
    /// The device takes none.
    pub(super) fn run(&self, duration: Duration) -> Result<(usize, Vec<Duration>)> {
        let mut headers = self.headers();
        let (mut sent, mut calls) = (0, Vec::new());
        let started = Instant::now();
        let mut last = started;
        while last.duration_since(started) < duration {
            sent += self.send(&mut headers)?;
            let now = Instant::now();
            calls.push(now.duration_since(last));
            last = now;
        }
        Ok((sent, calls))
    }

    fn headers(&self) -> MultiHeaders<LinkAddr> {
        MultiHeaders::preallocate(self.frames.len(), None)
    }

    fn send(&self, headers: &mut MultiHeaders<LinkAddr>) -> Result<usize> {
        let slices: Vec<[IoSlice<'_>; 1]> = (self.frames.iter())
            .map(|frame| [IoSlice::new(frame)])
            .collect();
        let nowhere = vec![None; self.frames.len()];
        let fd = self.socket.as_raw_fd();
        let sent = sendmmsg(fd, headers, &slices, nowhere, [], MsgFlags::empty());
        Ok(sent.map_err(Error::errno("sending frames"))?.count())
    }
}

/// Keeps the calling thread on the last of its processors.
///
/// # Errors
/// The kernel refuses.
pub(super) fn pin() -> Result<()> {
    let own = Pid::from_raw(0);
    let stay = || {
        let allowed = sched_getaffinity(own)?;
        let last = (0..CpuSet::count())
            .rev()
            .find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let mut one = CpuSet::new();
        one.set(last.unwrap_or(0))?;
        sched_setaffinity(own, &one)
    };
    stay().map_err(Error::errno("keeping a thread on one processor"))
}

/// How many packets a device has received since it is there.
///
/// # Errors
/// There is no such device.
pub(super) fn received(namespace: &str, device: &str) -> Result<u64> {
    let listing = netns::ip(
        namespace,
        &["-json", "-stats", "link", "show", "dev", device],
    )?;
    let listing: Value = serde_json::from_str(&listing).unwrap_or_default();
    let count = listing.pointer("/0/stats64/rx/packets");
    count
        .and_then(Value::as_u64)
        .ok_or_else(|| Error::Program(format!("ip shows no packets of {device} in {namespace}")))
}

/// Ethernet, IPv4 (RFC 791), UDP without checksum (RFC 768), and zeros.
fn frame(way: Way, flow: u16) -> [u8; FRAME] {
    const IP: u16 = 46;
    let (from, to) = (way.from.1.octets(), way.to.1.octets());
    let mut header = Vec::from([0x45, 0]);
    header.extend(IP.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend(from);
    header.extend(to);
    let sum: u32 = header
        .chunks_exact(2)
        .map(|pair| {
            pair.iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte))
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default();
    let head = [&way.to.0[..], &way.from.0, &[0x08, 0x00]].concat();
    let tail = [
        way.ports.0.wrapping_add(flow),
        way.ports.1.wrapping_add(flow),
        IP - 20,
        0,
    ];
    let tail = tail.iter().flat_map(|number| number.to_be_bytes());
    let bytes = head
        .into_iter()
        .chain(header.into_iter().enumerate().map(|(at, byte)| match at {
            10 => checksum.to_be_bytes()[0],
            11 => checksum.to_be_bytes()[1],
            _ => byte,
        }))
        .chain(tail);
    let mut frame = [0; FRAME];
    for (place, byte) in frame.iter_mut().zip(bytes) {
        *place = byte;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    // A wrong length or checksum would be dropped everywhere, at any speed.
    #[test]
    fn frames_are_as_the_standards_say() {
        let way = Way {
            from: ([2; 6], Ipv4Addr::new(10, 252, 1, 1)),
            to: ([4; 6], Ipv4Addr::new(192, 0, 2, 2)),
            ports: (10_000, 20_000),
        };
        let frame = frame(way, 3);
        assert_eq!(frame[..14], [4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 8, 0]);
        // RFC 1071: a header with its checksum sums up to all ones.
        let sum: u32 = frame[14..34]
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(frame[16..18], 46_u16.to_be_bytes());
        assert_eq!(frame[34..36], 10_003_u16.to_be_bytes());
        assert_eq!(frame[36..38], 20_003_u16.to_be_bytes());
        assert_eq!(frame[38..40], 26_u16.to_be_bytes());
    }
}

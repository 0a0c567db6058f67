//! One-way UDP flows with numbered packets: what was lost, came twice, came
//! out of order, and the longest silence.
//!
//! ping doesn't do for this: it slows down while replies are missing. Here a
//! thread sends on all flows at a fixed rate whatever happens, and another
//! receives; all sockets are this process's, made inside the VMs' namespaces.
//! Arrival times are the kernel's.
//!
//! What can break it: a machine so busy that the receive buffers overflow, in
//! which case the loss is the probe's own ([`FlowReport::dropped`]).

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
            sockopt::{RcvBufForce, ReceiveTimestampns, RxqOvfl},
        },
        time::TimeSpec,
    },
};
use serde::Serialize;

use crate::{
    Error, Result,
    fabric::{Family, Vm},
    lab::Lab,
    netns,
};

/// Bytes of receive buffer for each flow.
const BUFFER: usize = 4 << 20;
/// How long after the last packet was sent the receiver still waits.
const DRAIN: Duration = Duration::from_millis(700);
/// Payload: the packet's number.
const NUMBER: usize = size_of::<u64>();
/// Packet numbers from here on can't be ours: at 1,000 a second, 48 days.
const NUMBER_MAX: u64 = 1 << 32;

/// What shall flow.
#[derive(Debug, Clone)]
pub struct FlowSpec<'a> {
    /// Sender.
    pub from: &'a Vm,
    /// Receiver.
    pub to: &'a Vm,
    /// Family.
    pub family: Family,
}

/// How a flow fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowReport {
    /// Sender.
    pub from: String,
    /// Receiver.
    pub to: String,
    /// Family.
    pub family: Family,
    /// Packets sent.
    pub sent: u64,
    /// Different packets received.
    pub received: u64,
    /// Packets sent and never received.
    pub lost: u64,
    /// Packets received once more than sent.
    pub duplicates: u64,
    /// Packets received after one with a higher number.
    pub reordered: u64,
    /// Longest time between two packets received, in milliseconds.
    pub longest_gap_ms: f64,
    /// Packets lost by the probe itself, its receive buffer being full.
    pub dropped: u32,
}

/// How all flows fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Packets lost.
    pub lost: u64,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Packets out of order.
    pub reordered: u64,
    /// Longest silence of any flow, in milliseconds.
    pub longest_gap_ms: f64,
    /// Each flow.
    pub flows: Vec<FlowReport>,
}

/// Flows that are running.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Vec<u64>>,
    receiver: JoinHandle<io::Result<Vec<Tally>>>,
    names: Vec<(String, String, Family)>,
}

impl Probe {
    /// Starts all flows, each with `rate` packets per second.
    ///
    /// # Errors
    /// A namespace can't be entered or a socket can't be made.
    pub fn start(lab: &Lab, flows: &[FlowSpec<'_>], rate: u32) -> Result<Self> {
        let mut outputs = Vec::new();
        let mut inputs = Vec::new();
        for flow in flows {
            let input = bind(lab, flow.to, flow.family)?;
            let target = input
                .local_addr()
                .map_err(Error::io("reading a socket's address"))?;
            outputs.push((bind(lab, flow.from, flow.family)?, target));
            inputs.push(input);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicBool::new(false));
        let interval = Duration::from_secs(1) / rate.max(1);
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        let receiver = thread("probe receiver")
            .spawn({
                let done = Arc::clone(&done);
                move || receive(&inputs, &done)
            })
            .map_err(Error::io("starting a thread"))?;
        let sender = thread("probe sender")
            .spawn({
                let stop = Arc::clone(&stop);
                move || {
                    let sent = send(&outputs, interval, &stop);
                    thread::sleep(DRAIN);
                    done.store(true, Ordering::Release);
                    sent
                }
            })
            .map_err(Error::io("starting a thread"))?;
        Ok(Self {
            stop,
            sender,
            receiver,
            names: flows
                .iter()
                .map(|f| (f.from.name.clone(), f.to.name.clone(), f.family))
                .collect(),
        })
    }

    /// Ends the flows, waits for what is still on its way, and counts.
    ///
    /// # Errors
    /// Receiving failed.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Release);
        let panicked = |_| Error::Program("a thread of the probe panicked".to_owned());
        let sent = self.sender.join().map_err(panicked)?;
        let tallies = self
            .receiver
            .join()
            .map_err(panicked)?
            .map_err(Error::io("receiving the probe's packets"))?;
        let flows: Vec<FlowReport> = self
            .names
            .into_iter()
            .zip(sent.into_iter().zip(tallies))
            .map(|((from, to, family), (sent, tally))| FlowReport {
                from,
                to,
                family,
                sent,
                received: tally.received,
                lost: sent.saturating_sub(tally.received),
                duplicates: tally.duplicates,
                reordered: tally.reordered,
                longest_gap_ms: tally.gap.as_secs_f64() * 1e3,
                dropped: tally.dropped,
            })
            .collect();
        let sum = |field: fn(&FlowReport) -> u64| flows.iter().map(field).sum();
        Ok(Report {
            sent: sum(|f| f.sent),
            lost: sum(|f| f.lost),
            duplicates: sum(|f| f.duplicates),
            reordered: sum(|f| f.reordered),
            longest_gap_ms: flows.iter().map(|f| f.longest_gap_ms).fold(0.0, f64::max),
            flows,
        })
    }
}

fn bind(lab: &Lab, vm: &Vm, family: Family) -> Result<UdpSocket> {
    let address = SocketAddr::new(vm.address(family), 0);
    netns::inside(&lab.namespace(&vm.name), || {
        let socket = UdpSocket::bind(address)?;
        setsockopt(&socket, RcvBufForce, &BUFFER)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        setsockopt(&socket, RxqOvfl, &1)?;
        Ok(socket)
    })?
    .map_err(Error::io(format!("UDP socket {address} in {}", vm.name)))
}

/// Sends until told to stop; returns how many packets each flow sent. A sender
/// that was held up catches up, so that the rate holds on average.
fn send(flows: &[(UdpSocket, SocketAddr)], interval: Duration, stop: &AtomicBool) -> Vec<u64> {
    let mut number: u64 = 0;
    let mut next = Instant::now();
    while !stop.load(Ordering::Acquire) {
        for (socket, target) in flows {
            // What the sender's own kernel refuses is lost like any other.
            let _ = socket.send_to(&number.to_be_bytes(), target);
        }
        number += 1;
        next += interval;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    vec![number; flows.len()]
}

/// Receives on all sockets until `done`.
fn receive(sockets: &[UdpSocket], done: &AtomicBool) -> io::Result<Vec<Tally>> {
    let mut tallies = vec![Tally::default(); sockets.len()];
    while !done.load(Ordering::Acquire) {
        let mut fds: Vec<PollFd<'_>> = sockets
            .iter()
            .map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, PollTimeout::from(100u8)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (socket, tally) in sockets.iter().zip(&mut tallies) {
            while take(socket, tally)? {}
        }
    }
    Ok(tallies)
}

/// Takes one packet off a socket, if there is one.
fn take(socket: &UdpSocket, tally: &mut Tally) -> io::Result<bool> {
    let mut data = [0; NUMBER];
    let mut parts = [io::IoSliceMut::new(&mut data)];
    let mut control = nix::cmsg_space!(TimeSpec, u32);
    let (length, time) = {
        let flags = MsgFlags::MSG_DONTWAIT;
        let result =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
        let message = match result {
            Ok(message) => message,
            Err(nix::Error::EAGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut time = None;
        for part in message.cmsgs()? {
            match part {
                ControlMessageOwned::ScmTimestampns(at) => time = Some(Duration::from(at)),
                ControlMessageOwned::RxqOvfl(dropped) => tally.dropped = dropped,
                _ => {}
            }
        }
        (message.bytes, time)
    };
    if let (NUMBER, Some(time)) = (length, time) {
        tally.count(u64::from_be_bytes(data), time);
    }
    Ok(true)
}

/// What a receiver knows of one flow.
#[derive(Debug, Clone, Default)]
struct Tally {
    received: u64,
    duplicates: u64,
    reordered: u64,
    dropped: u32,
    gap: Duration,
    /// One bit for each packet number.
    seen: Vec<u64>,
    highest: Option<u64>,
    last: Option<Duration>,
}

impl Tally {
    fn count(&mut self, number: u64, time: Duration) {
        let word = match usize::try_from(number / 64) {
            Ok(word) if number < NUMBER_MAX => word,
            _ => return,
        };
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let bit = 1u64 << (number % 64);
        let Some(bits) = self.seen.get_mut(word) else {
            return;
        };
        if *bits & bit != 0 {
            self.duplicates += 1;
            return;
        }
        *bits |= bit;
        self.received += 1;
        if self.highest.is_some_and(|highest| number < highest) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(number));
        if let Some(last) = self.last {
            self.gap = self.gap.max(time.saturating_sub(last));
        }
        self.last = Some(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every figure of issue 3 rests on these four counts.
    #[test]
    fn counts_loss_duplicates_and_order() {
        let mut tally = Tally::default();
        for (number, ms) in [(0, 0), (2, 2), (1, 3), (1, 4), (70, 72)] {
            tally.count(number, Duration::from_millis(ms));
        }
        assert_eq!(tally.received, 4);
        assert_eq!(tally.duplicates, 1);
        assert_eq!(tally.reordered, 1);
        assert_eq!(tally.gap, Duration::from_millis(69));
    }
}

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
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};
use serde::Serialize;

use crate::{
    Error, Result,
    fabric::{Family, Vm},
    lab::{Lab, progress},
    netns, process,
    timed::{self, Received},
};

/// How long after the last packet was sent the receiver still waits.
const DRAIN: Duration = Duration::from_millis(700);
/// A machine that stood still for longer is mentioned beside a figure: some quarter
/// of what BFD waits.
pub const HELD_UP_MS: f64 = 200.0;
/// Payload: the packet's number.
const NUMBER: usize = size_of::<u64>();
/// Echo requests (RFC 792, RFC 4443), and the length of their header.
const ECHO4: u8 = 8;
const ECHO6: u8 = 128;
const ECHO_HEAD: usize = 8;
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
    /// Longest time, in milliseconds, by which the sender itself was late: so long
    /// this machine stood still, for daemons and their BFD as well.
    pub held_up_ms: f64,
    /// Each flow.
    pub flows: Vec<FlowReport>,
}

/// Flows that are running.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Sent>,
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
            let socket = bind(lab, flow.from, flow.family)?;
            outputs.push(Output {
                socket,
                target,
                head: Vec::new(),
            });
            inputs.push(Input {
                socket: input,
                head: 0,
            });
        }
        Self::run(outputs, inputs, flows, rate)
    }

    /// The same with echoes, for a receiver that has a kernel of its own and nothing
    /// else: what counts is what comes back.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn echo(lab: &Lab, flows: &[FlowSpec<'_>], rate: u32) -> Result<Self> {
        let mut outputs = Vec::new();
        let mut inputs = Vec::new();
        for flow in flows {
            let namespace = lab.namespace(&flow.from.name);
            // Root's group may ask for echoes without a raw socket.
            netns::sysctl(&namespace, &[("ipv4.ping_group_range", "0 0")])?;
            let what = || Error::io(format!("echo socket in {}", flow.from.name));
            let socket = netns::inside(&namespace, || echo_socket(flow.family))?.map_err(what())?;
            let twin = socket.try_clone().map_err(what())?;
            let kind = match flow.family {
                Family::V4 => ECHO4,
                Family::V6 => ECHO6,
            };
            outputs.push(Output {
                socket,
                target: SocketAddr::new(flow.to.address(flow.family), 0),
                head: vec![kind, 0, 0, 0, 0, 0, 0, 1],
            });
            inputs.push(Input {
                socket: twin,
                head: ECHO_HEAD,
            });
        }
        Self::run(outputs, inputs, flows, rate)
    }

    fn run(
        outputs: Vec<Output>,
        inputs: Vec<Input>,
        flows: &[FlowSpec<'_>],
        rate: u32,
    ) -> Result<Self> {
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

    /// Has `what` done while the flows run, with a pause before and after, and ends
    /// them: what they say of it, which is shown under this name, and what it gave.
    ///
    /// # Errors
    /// It fails; or the probe lost packets itself, so that no figure would be right.
    pub fn around<T>(
        self,
        name: &str,
        pause: Duration,
        what: impl FnOnce() -> Result<T>,
    ) -> Result<(Report, T)> {
        let done = process::sleep(pause).and_then(|()| what());
        let done = done.and_then(|done| process::sleep(pause).map(|()| done));
        let report = self.stop()?;
        let done = done?;
        let dropped: u32 = report.flows.iter().map(|flow| flow.dropped).sum();
        if dropped > 0 {
            return Err(Error::Program(format!(
                "{name}: the probe itself lost {dropped} packets; the machine is too busy"
            )));
        }
        progress(&format!(
            "  {name:<28} {} of {} lost, longest silence {:.1} ms",
            report.lost, report.sent, report.longest_gap_ms
        ));
        if report.held_up_ms > HELD_UP_MS {
            progress(&format!(
                "  {:<28} but this machine stood still for {:.0} ms meanwhile",
                "", report.held_up_ms
            ));
        }
        Ok((report, done))
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
            .zip(tallies)
            .map(|((from, to, family), tally)| FlowReport {
                from,
                to,
                family,
                sent: sent.packets,
                received: tally.received,
                lost: sent.packets.saturating_sub(tally.received),
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
            held_up_ms: sent.late.as_secs_f64() * 1e3,
            flows,
        })
    }
}

/// Where a flow starts, with what stands before the packet's number.
struct Output {
    socket: UdpSocket,
    target: SocketAddr,
    head: Vec<u8>,
}

/// Where it is counted, with as many bytes before the number.
struct Input {
    socket: UdpSocket,
    head: usize,
}

/// A socket for echoes (icmp(7)): the kernel fills in identifier and checksum.
fn echo_socket(family: Family) -> io::Result<UdpSocket> {
    let (family, protocol) = match family {
        Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
        Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    timed::prepare(socket(family, SockType::Datagram, flags, protocol)?.into())
}

fn bind(lab: &Lab, vm: &Vm, family: Family) -> Result<UdpSocket> {
    let address = SocketAddr::new(vm.address(family), 0);
    netns::inside(&lab.namespace(&vm.name), || {
        UdpSocket::bind(address).and_then(timed::prepare)
    })?
    .map_err(Error::io(format!("UDP socket {address} in {}", vm.name)))
}

/// What the sender did.
struct Sent {
    /// Packets of each flow.
    packets: u64,
    /// By how much it was late at most.
    late: Duration,
}

/// Sends until told to stop. A sender that was held up catches up, so that the rate
/// holds on average.
fn send(flows: &[Output], interval: Duration, stop: &AtomicBool) -> Sent {
    let mut number: u64 = 0;
    let mut late = Duration::ZERO;
    let mut next = Instant::now();
    while !stop.load(Ordering::Acquire) {
        for flow in flows {
            let packet = [flow.head.as_slice(), &number.to_be_bytes()].concat();
            // What the sender's own kernel refuses is lost like any other.
            let _ = flow.socket.send_to(&packet, flow.target);
        }
        number += 1;
        next += interval;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        late = late.max(next.elapsed());
    }
    Sent {
        packets: number,
        late,
    }
}

/// Receives on all sockets until `done`.
fn receive(flows: &[Input], done: &AtomicBool) -> io::Result<Vec<Tally>> {
    let mut tallies = vec![Tally::default(); flows.len()];
    while !done.load(Ordering::Acquire) {
        let mut fds: Vec<PollFd<'_>> = flows
            .iter()
            .map(|flow| PollFd::new(flow.socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, PollTimeout::from(100u8)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (flow, tally) in flows.iter().zip(&mut tallies) {
            while take(flow, tally)? {}
        }
    }
    Ok(tallies)
}

/// Takes one packet off a socket, if there is one.
fn take(flow: &Input, tally: &mut Tally) -> io::Result<bool> {
    let mut data = [0; ECHO_HEAD + NUMBER];
    let received = timed::receive(&flow.socket, &mut data, &mut tally.dropped)?;
    let Some(Received { length, time }) = received else {
        return Ok(false);
    };
    let number = data.get(flow.head..length);
    let number = number.and_then(|bytes| <[u8; NUMBER]>::try_from(bytes).ok());
    if let (Some(number), Some(time)) = (number, time) {
        tally.count(u64::from_be_bytes(number), time);
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

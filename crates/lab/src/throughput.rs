//! What a path between two VMs carries: TCP by iperf3, and the smallest UDP
//! packets as fast as one sender makes them.
//!
//! Links of the lab have no capacity of their own, so both figures are about
//! the processors that sender, receiver and everything between them share.
//!
//! What can break it: iperf3's JSON.

use std::{
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    Error, Result,
    fabric::{Family, Vm},
    lab::Lab,
    netns,
};

/// Payload of the smallest Ethernet frame, 60 bytes without checksum, over
/// IPv4 and UDP.
const SMALL: [u8; 18] = [0; 18];
/// How long the server may take to listen.
const START: Duration = Duration::from_secs(5);

/// What one path carries, one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Throughput {
    /// Sender.
    pub from: String,
    /// Receiver.
    pub to: String,
    /// Family.
    pub family: Family,
    /// One TCP stream, as its receiver saw it.
    pub tcp_gbit_per_s: f64,
    /// Segments sent again.
    pub tcp_retransmits: u64,
    /// Small UDP packets sent.
    pub udp_sent_per_s: f64,
    /// Small UDP packets received.
    pub udp_received_per_s: f64,
}

/// Measures TCP, then UDP, each for `duration`.
///
/// # Errors
/// iperf3 isn't installed or can't connect; a socket can't be made.
pub fn measure(
    lab: &Lab,
    from: &Vm,
    to: &Vm,
    family: Family,
    duration: Duration,
) -> Result<Throughput> {
    let (tcp_gbit_per_s, tcp_retransmits) = tcp(lab, from, to, family, duration)?;
    let (udp_sent_per_s, udp_received_per_s) = udp(lab, from, to, family, duration)?;
    Ok(Throughput {
        from: from.name.clone(),
        to: to.name.clone(),
        family,
        tcp_gbit_per_s,
        tcp_retransmits,
        udp_sent_per_s,
        udp_received_per_s,
    })
}

/// A server that ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, after its one client.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tcp(lab: &Lab, from: &Vm, to: &Vm, family: Family, duration: Duration) -> Result<(f64, u64)> {
    let address = to.address(family).to_string();
    let iperf3 = |vm: &Vm| -> Command {
        let mut command = netns::command(&lab.namespace(&vm.name), "iperf3");
        command.stdin(Stdio::null());
        command
    };
    let server = iperf3(to)
        .args(["--server", "--one-off", "--bind", &address])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::io("starting iperf3"))?;
    let _server = Server(server);
    let seconds = duration.as_secs().max(1).to_string();
    let end = Instant::now() + START;
    loop {
        let output = iperf3(from)
            .args(["--client", &address, "--time", &seconds, "--json"])
            .output()
            .map_err(Error::io("starting iperf3"))?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let number = |path: &str| answer.pointer(path).and_then(Value::as_f64);
        if let Some(bits) = number("/end/sum_received/bits_per_second") {
            let again = answer.pointer("/end/sum_sent/retransmits");
            return Ok((bits / 1e9, again.and_then(Value::as_u64).unwrap_or(0)));
        }
        // Until the server listens, clients are refused.
        if Instant::now() > end {
            let said = answer.get("error").and_then(Value::as_str);
            return Err(Error::Command {
                command: format!("iperf3 from {} to {}", from.name, to.name),
                reason: said.unwrap_or("no answer; is iperf3 installed?").to_owned(),
            });
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn udp(lab: &Lab, from: &Vm, to: &Vm, family: Family, duration: Duration) -> Result<(f64, f64)> {
    let input = socket(lab, to, family)?;
    let target = input
        .local_addr()
        .map_err(Error::io("reading a socket's address"))?;
    let output = socket(lab, from, family)?;
    let io = Error::io(format!("UDP from {} to {}", from.name, to.name));
    output
        .connect(target)
        .and_then(|()| input.set_read_timeout(Some(Duration::from_millis(200))))
        .map_err(io)?;
    let done = AtomicBool::new(false);
    let (sent, received) = thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut received: u64 = 0;
            let mut buffer = [0; SMALL.len()];
            // A time-out after the sender's end: nothing is on its way.
            loop {
                match input.recv(&mut buffer) {
                    Ok(_) => received += 1,
                    Err(_) if done.load(Ordering::Acquire) => return received,
                    Err(_) => {}
                }
            }
        });
        let end = Instant::now() + duration;
        let mut sent: u64 = 0;
        while Instant::now() < end {
            // The clock is dearer than a packet.
            for _ in 0..64 {
                sent += u64::from(output.send(&SMALL).is_ok());
            }
        }
        done.store(true, Ordering::Release);
        (sent, receiver.join())
    });
    let panicked = |_| Error::Program("the receiving thread panicked".to_owned());
    let per_second = |packets: u64| packets as f64 / duration.as_secs_f64();
    Ok((per_second(sent), per_second(received.map_err(panicked)?)))
}

fn socket(lab: &Lab, vm: &Vm, family: Family) -> Result<UdpSocket> {
    let address = SocketAddr::new(vm.address(family), 0);
    netns::inside(&lab.namespace(&vm.name), || UdpSocket::bind(address))?
        .map_err(Error::io(format!("UDP socket {address} in {}", vm.name)))
}

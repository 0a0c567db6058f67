//! DHCP, from guests' side: every lease is looked at, and a wrong one is no
//! figure but a failure.

use std::{
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::{
    Error, Result, agent,
    bench::{
        site::{Ip, Site, end},
        stats,
    },
    dhcp::{ACK, Answer, Client, DISCOVER, OFFER},
    fabric::{GATEWAY4, Vm},
    lab::progress,
    netns, process,
};

/// New ports, one after the other.
pub(super) const NEW: usize = 50;
/// Before a client asks again, when all boot at once: sooner than any real one.
const RETRY: Duration = Duration::from_secs(1);
/// The same for a new port: as often as its limit allows for a while.
const RETRY_NEW: Duration = Duration::from_millis(5);
/// Longest wait for leases.
const LIMIT: Duration = Duration::from_secs(60);
/// For the agent to take the intent of all ports in.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two new ports.
const PAUSE: Duration = Duration::from_millis(50);

/// DHCP's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// From when all guests start, on taps that are there, to the last lease.
    pub dhcp_all_s: f64,
    /// From when a new port's intent is there to the first offer.
    pub dhcp_new_ms: Median,
}

/// A median in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Median {
    /// Median.
    pub p50: Option<f64>,
}

/// Measures: `ports` at once, then [`NEW`] more one by one.
pub(super) fn measure(site: &Site, ports: usize) -> Result<Report> {
    let (first, new) = site.vms.split_at(ports.min(site.vms.len()));
    let files = site.lab.agent_files(&site.host);
    let first: Vec<&Vm> = first.iter().collect();
    agent::write_intent(&files, "ports", &agent::ports(&first))?;
    process::sleep(SETTLE)?;
    // As from Nova, taps come before their guests.
    plug(site, &first)?;
    process::sleep(SETTLE)?;
    let all = all_at_once(site, &first)?;
    progress(&format!(
        "  {} leases in {} s",
        first.len(),
        all.as_secs_f64()
    ));
    let mut samples = Vec::new();
    for vm in new {
        plug(site, &[vm])?;
        start(site, &[vm])?;
        process::sleep(PAUSE)?;
        let mut client = client(site, vm)?;
        let started = Instant::now();
        let document = agent::ports(&[vm]);
        agent::write_intent(&files, &format!("new-{}", vm.name), &document)?;
        let offer = first_offer(&mut client, vm)?;
        samples.push(started.elapsed());
        check(vm, &offer)?;
    }
    let p50 = stats::percentile(&samples, 50).map(stats::ms);
    let p100 = stats::percentile(&samples, 100).map(stats::ms);
    progress(&format!("  new ports: p50 {p50:?} ms, slowest {p100:?} ms"));
    Ok(Report {
        dhcp_all_s: (all.as_secs_f64() * 1000.0).round() / 1000.0,
        dhcp_new_ms: Median { p50 },
    })
}

/// Has taps appear.
fn plug(site: &Site, vms: &[&Vm]) -> Result<()> {
    say(site, vms, |vm| site.tap_line(vm))
}

/// Starts guests, as when QEMU opens their taps: carrier.
fn start(site: &Site, vms: &[&Vm]) -> Result<()> {
    say(site, vms, |vm| Site::start_lines(vm, false))
}

fn say(site: &Site, vms: &[&Vm], line: impl Fn(&Vm) -> String) -> Result<()> {
    let Some(namespace) = vms.first().map(|vm| site.guest_namespace(vm, false)) else {
        return Ok(());
    };
    let mut ip = Ip::open(&namespace)?;
    ip.say(&vms.iter().map(|vm| line(vm)).collect::<String>())?;
    ip.finish()
}

fn client(site: &Site, vm: &Vm) -> Result<Client> {
    Client::open(&site.guest_namespace(vm, false), &end(vm, false), mac(vm)?)
}

fn mac(vm: &Vm) -> Result<[u8; 6]> {
    let mac = vm.mac.to_string();
    let bytes: Vec<u8> = mac
        .split(':')
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes
        .try_into()
        .map_err(|_| Error::Program(format!("{mac} is no hardware address")))
}

fn check(vm: &Vm, answer: &Answer) -> Result<()> {
    let right = answer.address == vm.address4
        && answer.addresses(3) == [GATEWAY4]
        && answer.text(12) == vm.name;
    if right {
        return Ok(());
    }
    Err(Error::Program(format!(
        "{} was offered what isn't its: {answer:?}",
        vm.name
    )))
}

/// The first offer for a new port.
fn first_offer(client: &mut Client, vm: &Vm) -> Result<Answer> {
    let end = Instant::now() + LIMIT;
    let _ = client.send(DISCOVER, &[]);
    while Instant::now() < end {
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        // What can't be sent yet is sent again.
        let _ = client.again();
        if let Some(offer) = client.answer(RETRY_NEW) {
            return Ok(offer);
        }
    }
    Err(missing(vec![vm.name.clone()]))
}

fn missing(names: Vec<String>) -> Error {
    Error::Timeout {
        what: "leases",
        seconds: LIMIT.as_secs(),
        missing: names.join(", "),
    }
}

/// A guest that boots.
struct Guest<'a> {
    vm: &'a Vm,
    client: Client,
    asked: Option<Instant>,
    offer: Option<Answer>,
    done: bool,
}

impl<'a> Guest<'a> {
    /// One on its device, in the namespace of the calling thread.
    fn open(vm: &'a Vm) -> Result<Self> {
        let client = Client::open_here(&end(vm, false), mac(vm)?);
        Ok(Self {
            vm,
            client: client.map_err(Error::io("opening a DHCP client"))?,
            asked: None,
            offer: None,
            done: false,
        })
    }

    /// Asks, or asks again.
    fn ask(&mut self, now: Instant) {
        if self.done
            || self
                .asked
                .is_some_and(|asked| now.duration_since(asked) < RETRY)
        {
            return;
        }
        // What can't be sent yet is sent again.
        let _ = match self.asked {
            None => self.client.send(DISCOVER, &[]),
            Some(_) => self.client.again(),
        };
        self.asked = Some(now);
    }

    /// Takes answers in.
    fn hear(&mut self) -> Result<()> {
        while let Some(answer) = self.client.received() {
            match answer.kind {
                OFFER if self.offer.is_none() => {
                    check(self.vm, &answer)?;
                    let _ = self.client.request(&answer);
                    self.asked = Some(Instant::now());
                    self.offer = Some(answer);
                }
                ACK => {
                    check(self.vm, &answer)?;
                    self.done = true;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Boots all of them; how long until the last one has its lease.
fn all_at_once(site: &Site, vms: &[&Vm]) -> Result<Duration> {
    let namespace = site.guest_namespace(vms.first().ok_or_else(|| missing(Vec::new()))?, false);
    let open = || {
        vms.iter()
            .map(|vm| Guest::open(vm))
            .collect::<Result<Vec<_>>>()
    };
    let mut guests = netns::inside(&namespace, open)??;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| start(site, vms));
        let finished = boot(&mut guests, started);
        match running.join() {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        finished
    })
}

fn boot(guests: &mut [Guest<'_>], started: Instant) -> Result<Duration> {
    while started.elapsed() < LIMIT {
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        let now = Instant::now();
        for guest in guests.iter_mut() {
            guest.ask(now);
        }
        let mut fds: Vec<PollFd<'_>> = guests
            .iter()
            .map(|guest| PollFd::new(guest.client.as_fd(), PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut fds, PollTimeout::from(5_u8));
        drop(fds);
        for guest in guests.iter_mut().filter(|guest| !guest.done) {
            guest.hear()?;
        }
        if guests.iter().all(|guest| guest.done) {
            return Ok(started.elapsed());
        }
    }
    let late = guests.iter().filter(|guest| !guest.done);
    Err(missing(late.map(|guest| guest.vm.name.clone()).collect()))
}

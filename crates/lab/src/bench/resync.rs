//! `bench resync`: the agent started with nothing of any port in place, then
//! killed and started again with everything in place and under traffic.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    message::{self, News},
    monitor::Monitor,
    site::Site,
    stats, sync,
    usage::Usage,
    wiring::{self, Wiring},
    writes::Watch,
};
use crate::{
    Error, Result, agent,
    fabric::{Family, Vm},
    lab::progress,
    netns,
    probe::{FlowReport, FlowSpec, Probe},
    process,
    topology::Mix,
};

/// Ports that traffic goes through, the first ones.
const PROBED: usize = 2;
/// Packets per second of each flow.
const RATE: u32 = 1000;
/// Longest wait for everything to be in place.
const LIMIT: Duration = Duration::from_secs(60);
/// Traffic before the agent is killed, while it is dead, and after it is back;
/// in the last it may still write.
const PHASE: Duration = Duration::from_secs(2);

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// From the start of the program to the last object of all ports.
    pub cold_s: f64,
    /// From the start of the program to its word that it is in sync.
    pub warm_s: f64,
    /// Changes that the kernel announced meanwhile, and settings written.
    pub warm_writes: usize,
    /// The largest resident size of both agents until they were in sync.
    pub rss_mib: f64,
    /// Packets lost by ports in place while the agent was killed and started.
    pub lost: u64,
}

/// Measures.
///
/// # Errors
/// The lab can't be built, or something isn't in place in time.
pub fn run(agent: &Path, ports: usize, fabric: Mix, firewall: bool) -> Result<Report> {
    let site = Site::up(fabric, agent.to_owned(), ports, |place| place < PROBED)?;
    site.lab.kill(&site.host, agent::PROGRAM)?;
    if !firewall {
        remove_firewall(&site)?;
    }
    let monitor = Monitor::open(&site.host_namespace, message::FEED)?;
    let mut wiring = Wiring::of(&site.vms);
    make_taps(&site, &monitor, &mut wiring)?;
    site.write_intent()?;

    let started = start(&site, agent)?;
    let last = wired(&monitor, &mut wiring)?;
    let cold = last.saturating_duration_since(started);
    wiring::check_settings(&site.host_namespace, &site.vms)?;
    in_sync(&site)?;
    let first = Usage::of_agent(&site.lab, &site.host)?;
    progress(&format!(
        "  cold: {:.3} s, {}",
        cold.as_secs_f64(),
        first.text()
    ));

    let probe = traffic(&site)?;
    let result = warm(&site, agent, &monitor);
    let traffic = probe.stop()?;
    let (warm, writes, second) = result?;
    progress(&format!(
        "  warm: {:.3} s, {}; {} of {} packets lost ({} by the probe itself), longest gap {:.1} ms",
        warm.as_secs_f64(),
        second.text(),
        traffic.lost,
        traffic.sent,
        traffic.flows.iter().map(|flow| flow.dropped).sum::<u32>(),
        traffic.longest_gap_ms,
    ));
    site.lab.down()?;
    Ok(Report {
        cold_s: stats::rounded(cold.as_secs_f64()),
        warm_s: stats::rounded(warm.as_secs_f64()),
        warm_writes: writes,
        rss_mib: stats::rounded(first.rss_mib.max(second.rss_mib)),
        lost: traffic.lost,
    })
}

/// Lets all taps appear, and their guests start.
fn make_taps(site: &Site, monitor: &Monitor<News>, wiring: &mut Wiring<'_>) -> Result<()> {
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    for (place, vm) in site.vms.iter().enumerate() {
        let namespace = site.guest_namespace(vm, place < PROBED);
        let lines = lines.entry(namespace).or_default();
        lines.push_str(&site.tap_line(vm));
        lines.push_str(&Site::start_lines(vm, place < PROBED));
    }
    for (namespace, lines) in &lines {
        netns::batch(Some(namespace), lines)?;
    }
    // What the kernel does by itself with a new link comes to an end.
    let quiet = Duration::from_secs(3);
    while let Some(event) = monitor.next(quiet)? {
        wiring.hear(&event);
    }
    if wiring.all_taps() {
        return Ok(());
    }
    Err(Error::Program(format!(
        "taps aren't up: {}",
        wiring.missing()
    )))
}

/// Has the next agent do without a firewall, and removes what the killed one
/// left: it would drop what it doesn't know.
fn remove_firewall(site: &Site) -> Result<()> {
    let config = site.lab.agent_files(&site.host).config();
    let text = std::fs::read_to_string(&config).map_err(Error::file(&config))?;
    std::fs::write(&config, text + "firewall = false\n").map_err(Error::file(&config))?;
    for family in ["inet", "arp"] {
        let status = netns::command(&site.host_namespace, "nft")
            .args(["delete", "table", family, "l2isolate"])
            .status()
            .map_err(Error::io("starting nft"))?;
        if !status.success() {
            return Err(Error::Program(format!(
                "nft can't delete {family} l2isolate"
            )));
        }
    }
    Ok(())
}

fn start(site: &Site, binary: &Path) -> Result<Instant> {
    let started = Instant::now();
    let files = site.lab.agent_files(&site.host);
    agent::start(binary, &site.host_namespace, &files, &[])?;
    Ok(started)
}

/// Listens until all is there; when the last came.
fn wired(monitor: &Monitor<News>, wiring: &mut Wiring<'_>) -> Result<Instant> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(times) = wiring.complete() {
            return Ok(times.last);
        }
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        if let Some(event) = monitor.next(Duration::from_millis(100))? {
            wiring.hear(&event);
        } else if Instant::now() > end {
            return Err(timeout("wiring of all ports", wiring.missing()));
        }
    }
}

fn timeout(what: &'static str, missing: String) -> Error {
    Error::Timeout {
        what,
        seconds: LIMIT.as_secs(),
        missing,
    }
}

/// Flows between the probed ports, and between them and the other rack.
fn traffic(site: &Site) -> Result<Probe> {
    let here: Vec<&Vm> = site.vms.iter().take(PROBED).collect();
    let mut flows = Vec::new();
    for (place, vm) in here.iter().enumerate() {
        let others = here.iter().skip(place + 1).copied().chain([&site.far]);
        for other in others {
            for (from, to) in [(*vm, other), (other, *vm)] {
                flows.extend(Family::ALL.map(|family| FlowSpec { from, to, family }));
            }
        }
    }
    // The fabric learns the routes of the cold start first.
    let end = Instant::now() + LIMIT;
    loop {
        let trial = Probe::start(&site.lab, &flows, RATE / 10)?;
        process::sleep(PHASE)?;
        let trial = trial.stop()?;
        let silent = |flow: &&FlowReport| flow.received < flow.sent;
        let Some(flow) = trial.flows.iter().find(silent) else {
            break;
        };
        if Instant::now() > end {
            let missing = format!("{} to {}, {}", flow.from, flow.to, flow.family);
            return Err(timeout("arrival of all flows", missing));
        }
    }
    Probe::start(&site.lab, &flows, RATE)
}

fn warm(site: &Site, binary: &Path, monitor: &Monitor<News>) -> Result<(Duration, usize, Usage)> {
    process::sleep(PHASE)?;
    site.lab.kill(&site.host, agent::PROGRAM)?;
    process::sleep(PHASE)?;
    let watch = Watch::open(&site.host_namespace, &site.vms)?;
    watch.count()?;
    while monitor.next(Duration::ZERO)?.is_some() {}
    let started = start(site, binary)?;
    let done = in_sync(site)?;
    let usage = Usage::of_agent(&site.lab, &site.host)?;
    process::sleep(PHASE)?;
    let mut announced = 0;
    while let Some(event) = monitor.next(Duration::ZERO)? {
        announced += usize::from(concerns_ports(&event.news, &site.vms));
    }
    let written = watch.count()?;
    progress(&format!(
        "  warm: {announced} changes announced, {written} settings written"
    ));
    let warm = done.saturating_duration_since(started);
    Ok((warm, announced + written, usage))
}

/// Whether it is a change of what the agent is in charge of.
fn concerns_ports(news: &News, vms: &[Vm]) -> bool {
    match news {
        News::Link { name, .. } => vms.iter().any(|vm| vm.tap == *name),
        News::Object { .. } | News::Setting { .. } => true,
    }
}

fn in_sync(site: &Site) -> Result<Instant> {
    let socket = site.lab.agent_files(&site.host).socket();
    sync::wait(&socket, site.vms.len())
}

//! `bench attach`: how long from a tap that is up to a port that is wired, and
//! to the first answer from the other rack.
//!
//! The intent of all ports is known beforehand, as with Neutron, which binds a
//! port before Nova starts the VM. Taps appear one after the other; the next
//! one when the one before is done.

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    message::{self, News},
    monitor::Monitor,
    reach::{self, Echo},
    site::{Ip, Site},
    stats,
    usage::Usage,
    wiring::{self, Times, Wiring},
};
use crate::{Error, Result, lab::progress, process, topology::Mix};

/// At most so many ports of a fabric are probed from the other rack, evenly
/// spread.
const PROBED: usize = 200;
/// Longest wait for one port.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two ports.
const PAUSE: Duration = Duration::from_millis(20);
/// An answer that takes longer is worth a line.
const SLOW: Duration = Duration::from_millis(900);
/// For the agent to take the intent of all ports in.
const SETTLE: Duration = Duration::from_secs(3);

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// From the tap being up to the last object of the port, of all fabrics.
    pub attach_ms: Percentiles,
    /// From the tap being up to the first answer from the other rack.
    pub fabric_ms: BTreeMap<String, Median>,
    /// Median of the last 50 ports over that of ports 11 to 60; the largest of
    /// all fabrics. None with fewer than 110 ports.
    pub growth: Option<f64>,
}

/// Median and the slowest but one in a hundred, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

/// A median in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Median {
    /// Median.
    pub p50: Option<f64>,
}

/// Measures on each fabric, one after the other.
///
/// # Errors
/// A lab can't be built, or a port isn't wired in time.
pub fn run(agent: &Path, ports: usize, fabrics: &[Mix]) -> Result<Report> {
    let mut all = Vec::new();
    let mut fabric_ms = BTreeMap::new();
    let mut growth: Option<f64> = None;
    for fabric in fabrics {
        let samples = measure(agent, ports, *fabric)?;
        let name = format!("{fabric:?}").to_lowercase();
        progress(&format!("  {name}: {}", samples.text()));
        let p50 = stats::percentile(&samples.fabric, 50).map(stats::ms);
        fabric_ms.insert(name, Median { p50 });
        let own = stats::growth(&samples.attach);
        growth = growth.into_iter().chain(own).reduce(f64::max);
        all.extend(samples.attach);
    }
    Ok(Report {
        attach_ms: Percentiles {
            p50: stats::percentile(&all, 50).map(stats::ms),
            p99: stats::percentile(&all, 99).map(stats::ms),
        },
        fabric_ms,
        growth,
    })
}

#[derive(Default)]
struct Samples {
    /// From when the tap is named until it is up: the kernel's own work.
    open: Vec<Duration>,
    /// From up until the agent's first object.
    first: Vec<Duration>,
    /// From up until its last one.
    attach: Vec<Duration>,
    /// From up until the first answer.
    fabric: Vec<Duration>,
}

impl Samples {
    fn add(&mut self, times: &Times) {
        let between = |from: Instant, to: Instant| to.saturating_duration_since(from);
        self.open.push(between(times.named, times.up));
        self.first.push(between(times.up, times.first));
        self.attach.push(between(times.up, times.last));
    }

    /// Progress: medians of the last `count` ports, and the agent's processor
    /// time for each of them.
    fn show_last(&self, count: u32, cpu: Duration) {
        let of = |samples: &[Duration]| {
            let start = samples.len().saturating_sub(count as usize);
            stats::percentile(samples.get(start..).unwrap_or_default(), 50).map_or(0.0, stats::ms)
        };
        progress(&format!(
            "  {:>5} ports; p50 of the last {count} in ms: tap up {}, then first object {}, \
             wired {}; agent's processor time {}",
            self.attach.len(),
            of(&self.open),
            of(&self.first),
            of(&self.attach),
            stats::ms(cpu / count),
        ));
    }

    fn text(&self) -> String {
        let of = |samples: &[Duration]| {
            [50, 99, 100].map(|p| stats::percentile(samples, p).map_or(0.0, stats::ms))
        };
        format!(
            "p50, p99, max in ms: first object {:?}, wired {:?}, answer {:?}",
            of(&self.first),
            of(&self.attach),
            of(&self.fabric)
        )
    }
}

fn measure(agent: &Path, ports: usize, fabric: Mix) -> Result<Samples> {
    let every = ports.div_ceil(PROBED).max(1);
    let probed = |place: usize| place.is_multiple_of(every);
    let site = Site::up(fabric, agent.to_owned(), ports, probed)?;
    site.write_intent()?;
    let echo = Echo::start(&site.lab, &site.far)?;
    process::sleep(SETTLE)?;
    let monitor = Monitor::open(&site.host_namespace, message::FEED)?;
    let mut samples = Samples::default();
    let mut cpu = Usage::of_agent(&site.lab, &site.host)?.cpu;
    for (place, vm) in site.vms.iter().enumerate() {
        let mut guest = Ip::open(&site.guest_namespace(vm, probed(place)))?;
        thread::sleep(PAUSE);
        guest.say(&site.tap_line(vm))?;
        let times = wired(&monitor, Wiring::of(std::slice::from_ref(vm)))?;
        guest.say(&Site::start_lines(vm, probed(place)))?;
        guest.finish()?;
        if probed(place) {
            let answered = reach::first_answer(&site.lab, vm, &site.far)?;
            let took = answered.saturating_duration_since(times.up);
            if took > SLOW {
                let ms = stats::ms(took);
                progress(&format!("  {} was answered after {ms} ms", vm.name));
            }
            samples.fabric.push(took);
        }
        samples.add(&times);
        if (place + 1).is_multiple_of(100) {
            let now = Usage::of_agent(&site.lab, &site.host)?;
            samples.show_last(100, now.cpu.saturating_sub(cpu));
            cpu = now.cpu;
        }
    }
    wiring::check_settings(&site.host_namespace, &site.vms)?;
    drop(echo);
    site.lab.down()?;
    Ok(samples)
}

/// Listens until all is there.
fn wired(monitor: &Monitor<News>, mut wiring: Wiring<'_>) -> Result<Times> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(times) = wiring.complete() {
            return Ok(times);
        }
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        if let Some(event) = monitor.next(Duration::from_millis(100))? {
            wiring.hear(&event);
        } else if Instant::now() > end {
            return Err(Error::Timeout {
                what: "wiring of a port",
                seconds: LIMIT.as_secs(),
                missing: wiring.missing(),
            });
        }
    }
}

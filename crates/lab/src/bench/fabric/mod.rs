//! `bench fabric`: what the fabric loses when parts of it are taken out, die or
//! come back, how fast it tells of a new guest, and how fast a difference
//! between the agent's intent and the daemon is seen and mended.
//!
//! Flows between the racks run while it happens; what is lost and how long the
//! longest silence was, they say. BFD is on.

mod announce;
mod faults;
pub mod verify;

use std::{path::Path, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use super::{
    site::{Options as SiteOptions, Site},
    stats,
};
use crate::{
    Error, Result,
    fabric::{Family, Vm},
    probe::{FlowSpec, Probe, Report as Flows},
    topology::{Mix, Options},
};

/// How long the fabric may take to come together again.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// Packets per second of each flow.
const RATE: u32 = 1000;
/// Flows each way, half of them IPv4.
const FLOWS: usize = 8;
/// Before and after each event.
const PAUSE: Duration = Duration::from_secs(1);
/// Ports: guests whose announcement is timed, and the one that the flows are of.
const PORTS: usize = 31;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// How fast a guest is announced: `announce_ms`.
    Announce,
    /// A ToR taken out and put back: `drain`.
    Drain,
    /// The hypervisor's daemon killed and restarted: `daemon_restart`.
    Restart,
    /// What nobody planned: `linkdown_ms`, `bgpd_kill_ms`, `dead_switch_ms`.
    Unplanned,
    /// Comparing and mending, with FRR: `verify_ms`, `heal_s`.
    Verify,
}

/// What to measure, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which routing daemons, one fabric after the other.
    pub fabrics: Vec<Mix>,
    /// Which parts; none: all.
    pub parts: Vec<Part>,
    /// How often the hypervisor's daemon is ended in each way; what is lost is
    /// added up.
    pub restarts: u32,
}

impl Choice {
    fn has(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

/// What is printed; what wasn't asked for is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// FRR everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frr: Option<Flavour>,
    /// BIRD everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bird: Option<Flavour>,
    /// One `l2isolate verify` of 2,002 prefixes against FRR, in milliseconds.
    pub verify_ms: Option<f64>,
    /// How long a prefix stays away that somebody took from FRR by hand, in
    /// seconds.
    pub heal_s: Option<f64>,
    /// What explains the figures above.
    pub besides: Besides,
}

/// A fabric of one flavour.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Flavour {
    /// A ToR taken out of service and put back, by the operators' page.
    pub drain: Lost,
    /// The hypervisor's daemon killed, and restarted its graceful way.
    pub daemon_restart: Lost,
    /// Longest silence of a flow: the hypervisor's link to a ToR goes down.
    pub linkdown_ms: Option<f64>,
    /// The same: a ToR's BGP daemon is killed.
    pub bgpd_kill_ms: Option<f64>,
    /// The same: a ToR is dead, its links are up.
    pub dead_switch_ms: Option<f64>,
    /// From a guest's route in the hypervisor's kernel to the kernel of a ToR in
    /// the other rack.
    pub announce_ms: Median,
}

/// Packets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Lost {
    /// Sent and never received.
    pub lost: Option<u64>,
}

/// A median in milliseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Median {
    /// Median.
    pub p50: Option<f64>,
}

/// More of both fabrics.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Besides {
    /// FRR everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frr: Option<More>,
    /// BIRD everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bird: Option<More>,
    /// What `verify_ms` is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<verify::Parts>,
}

/// More of one fabric.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct More {
    /// Packets sent in the drain cycle.
    pub drain_sent: Option<u64>,
    /// How often the daemon was ended in each of the following ways.
    pub restarts: u32,
    /// The part of `daemon_restart` with SIGKILL.
    pub daemon_killed: Lost,
    /// The part of it in the graceful way.
    pub daemon_graceful: Lost,
    /// Not in it: with SIGTERM.
    pub daemon_terminated: Lost,
    /// Longest silence while nothing happens: the floor of the other figures.
    pub undisturbed_ms: Option<f64>,
}

/// Measures each fabric, one after the other.
///
/// # Errors
/// A lab can't be built, or doesn't come together again.
pub fn run(agent: &Path, choice: &Choice) -> Result<Report> {
    let mut report = Report {
        frr: None,
        bird: None,
        verify_ms: None,
        heal_s: None,
        besides: Besides::default(),
    };
    for fabric in &choice.fabrics {
        let (at, besides) = match fabric {
            Mix::Bird => (&mut report.bird, &mut report.besides.bird),
            Mix::Frr => (&mut report.frr, &mut report.besides.frr),
            Mix::Mixed => {
                let reason = "bench fabric measures one flavour at a time: frr or bird";
                return Err(Error::Program(reason.to_owned()));
            }
        };
        if choice.parts != [Part::Verify] {
            let (flavour, more) = measure(agent, *fabric, choice)?;
            (*at, *besides) = (Some(flavour), Some(more));
        }
        if *fabric == Mix::Frr && choice.has(Part::Verify) {
            let figures = verify::measure(agent)?;
            (report.verify_ms, report.heal_s) = (figures.verify_ms, figures.heal_s);
            report.besides.verify = Some(figures.parts);
        }
    }
    Ok(report)
}

fn measure(agent: &Path, fabric: Mix, choice: &Choice) -> Result<(Flavour, More)> {
    let options = SiteOptions {
        fabric,
        options: Options {
            bfd: true,
            ..Options::default()
        },
        ports: PORTS,
    };
    // The last port has a guest of its own, the flows' end.
    let probed = |place: usize| place + 1 == PORTS;
    let site = Site::with(&options, agent.to_owned(), probed)?;
    site.write_intent()?;
    let mut flavour = Flavour::default();
    if choice.has(Part::Announce) {
        flavour.announce_ms.p50 = announce::measure(&site)?;
    }
    let guest = site
        .vms
        .last()
        .ok_or_else(|| Error::Program("the bench has no guest".to_owned()))?;
    site.start(guest)?;
    let bench = Bench { site: &site, guest };
    bench.reachable()?;
    let more = faults::measure(&bench, choice, &mut flavour)?;
    site.lab.down()?;
    Ok((flavour, more))
}

/// The flows and where they run.
struct Bench<'a> {
    site: &'a Site,
    guest: &'a Vm,
}

impl Bench<'_> {
    /// Waits until the guest is reached from the other rack.
    fn reachable(&self) -> Result<()> {
        let far = &self.site.far;
        let end = self.site.lab.fabric().node(&far.host)?;
        let tor = end
            .interfaces
            .first()
            .map(|interface| interface.peer.clone());
        let tor = tor.ok_or_else(|| Error::Program(format!("{} has no ToR", far.host)))?;
        let namespace = self.site.lab.namespace(&tor);
        self.site
            .lab
            .until("arrival of the guest's routes", CONVERGENCE, || {
                let mut missing = Vec::new();
                for family in Family::ALL {
                    let address = self.guest.address(family).to_string();
                    let text =
                        crate::netns::ip(&namespace, &[family.flag(), "route", "show", &address])?;
                    if text.is_empty() {
                        missing.push(format!("{tor} lacks {address}"));
                    }
                }
                Ok(missing)
            })
    }

    /// What the flows say of the time in which `what` is done. The fabric is
    /// whole before and after.
    fn during(&self, name: &str, what: impl FnOnce() -> Result<()>) -> Result<Flows> {
        self.site.lab.wait(CONVERGENCE)?;
        self.reachable()?;
        let (a, b) = (&self.site.far, self.guest);
        let mut specs = Vec::new();
        for family in Family::ALL {
            for (from, to) in [(a, b), (b, a)] {
                specs.extend((0..FLOWS / 2).map(|_| FlowSpec { from, to, family }));
            }
        }
        let probe = Probe::start(&self.site.lab, &specs, RATE)?;
        let (flows, ()) = probe.around(name, PAUSE, what)?;
        Ok(flows)
    }
}

/// The longest silence, as it is printed.
fn silence(flows: &Flows) -> f64 {
    stats::rounded(flows.longest_gap_ms)
}

//! `bench migrate`: what connections and flows notice of a guest that moves from
//! rack to rack and back.
//!
//! Flows of numbered packets run from a third rack to the guest, from a VM of the
//! host that it leaves to the guest, and from the guest to the third rack, both
//! families. The guest is a namespace ([`crate::migrate`]), so there is no pause
//! of its own to take off: what is measured is the network's.

mod qemu;
mod silence;

use std::{path::Path, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use super::stats;
use crate::{
    Error, Result,
    connections::Connections,
    fabric::{Family, Vm},
    lab::{Guard, Plan, progress, unique_name},
    migrate::{self, Mobile},
    probe::{FlowSpec, Probe, Report as Flows},
    process,
    topology::{Mix, Shape, Topology},
};

/// Packets per second of each flow.
const RATE: u32 = 1000;
/// Connections that stay open beside the stream.
const CONNECTIONS: usize = 100;
/// From the announcement of a migration to the guest's move: QEMU copies memory
/// for longer.
const COPY: Duration = Duration::from_secs(3);
/// Before and after.
const PAUSE: Duration = Duration::from_secs(1);
/// How long agents and fabric may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// BIRD everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bird: Option<Flavour>,
    /// FRR everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frr: Option<Flavour>,
    /// A real guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu: Option<qemu::Real>,
    /// Connections that broke, of all fabrics.
    pub tcp_resets: usize,
    /// What the figures mean.
    pub definitions: Value,
}

/// A fabric of one flavour.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flavour {
    /// With the tunnel: the source is told when the guest stops.
    #[serde(flatten)]
    pub tunnel: Figures,
    /// Without it.
    pub without_tunnel: Figures,
    /// Longest silence while nothing happens: the floor of the others.
    pub undisturbed_ms: f64,
}

/// Figures of a row of migrations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Longest silence of any flow in each migration.
    pub blackout_ms: Median,
    /// Packets.
    pub lost: u64,
    /// Packets.
    pub sent: u64,
    /// Longest silence, by who sends to whom: medians.
    pub from_far_rack_ms: Option<f64>,
    /// See [`Self::from_far_rack_ms`].
    pub from_old_host_ms: Option<f64>,
    /// See [`Self::from_far_rack_ms`].
    pub from_guest_ms: Option<f64>,
}

/// A median in milliseconds, and the worst.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Median {
    /// Median.
    pub p50: Option<f64>,
    /// Maximum.
    pub max: Option<f64>,
}

impl Median {
    fn of(samples: &[f64]) -> Self {
        let max = samples.iter().copied().reduce(f64::max);
        Self {
            p50: stats::median(samples).map(stats::rounded),
            max: max.map(stats::rounded),
        }
    }
}

/// Measures each fabric, one after the other; then, in the first one, a real guest
/// that boots from what is in `image`.
///
/// # Errors
/// A lab can't be built, or a migration doesn't happen.
pub fn run(
    agent: &Path,
    fabrics: &[Mix],
    migrations: usize,
    image: Option<&Path>,
) -> Result<Report> {
    let mut report = Report {
        bird: None,
        frr: None,
        qemu: None,
        tcp_resets: 0,
        definitions: definitions(migrations),
    };
    for fabric in fabrics {
        let (flavour, resets) = measure(agent, *fabric, migrations)?;
        report.tcp_resets += resets;
        match fabric {
            Mix::Bird => report.bird = Some(flavour),
            Mix::Frr => report.frr = Some(flavour),
            Mix::Mixed => {
                let reason = "bench migrate measures one flavour at a time: frr or bird";
                return Err(Error::Program(reason.to_owned()));
            }
        }
    }
    if let Some((image, fabric)) = image.zip(fabrics.first()) {
        report.qemu = Some(qemu::run(agent, *fabric, migrations, image)?);
    }
    Ok(report)
}

fn definitions(migrations: usize) -> Value {
    json!({
        "migrations": migrations,
        "flows": "6: far rack to guest, VM of the old host to guest, guest to far rack; IPv4 and \
                  IPv6; 1,000 packets/s each",
        "guest": "a namespace behind real taps, whose frames this program carries as QEMU does; \
                  taps keep what comes while it is stopped, which is for as long as it takes to \
                  tell the source's agent; its first frame at the destination is a RARP",
        "blackout_ms": "of each migration the longest time between two packets received, of any \
                        flow; 1 ms is the flows' own spacing",
        "qemu": "a guest of 128 MiB, sent over a Unix socket from QEMU to QEMU (TCG), which ends the \
                 first one as soon as it is done; 3 flows of 1,000 echoes/s: far rack by IPv4 and \
                 IPv6, VM of the old host by IPv4; with the tunnel, and no hint",
        "with_hint": "the source's agent is told as soon as QEMU says that the guest has stopped \
                      (QMP's STOP), as libvirt's helper does",
        "without_tunnel": "agents have no tunnel: what arrives at the source is lost once the guest \
                           has stopped; with BIRD and FRR otherwise there is one, and the source's \
                           agent is told when the guest has stopped",
        "pause_ms": "QEMU's own downtime (query-migrate)",
        "beyond_pause_ms": "of each migration the longest time between two echoes received, of any \
                            flow, less QEMU's downtime",
        "silence_ms": "of each migration the longest time between two echoes of the guest, seen \
                       on its taps: QEMU's downtime, and the time that the new QEMU then takes until \
                       the guest answers somebody (TCG: it has yet to translate all code)",
        "beyond_silence_ms": "as beyond_pause_ms, less that silence: about what the network adds (the flows' \
                              silences don't begin and end all at once)",
        "in_place_beyond_pause_ms": "silence beyond its pause of a guest that is stopped for 100 ms \
                                     and goes on in the same QEMU: median of five",
        "lost": "packets of all flows and migrations that were sent and never received",
        "tcp_resets": "of a stream of some 100 Mbit/s and 100 idle connections those that don't \
                       carry bytes both ways after a migration",
    })
}

/// Three racks with a hypervisor each.
fn lab(agent: &Path, fabric: Mix) -> Result<Guard> {
    let shape = Shape {
        spines: 2,
        racks: 3,
        tors: 2,
        hypervisors: 1,
        vms: 2,
    };
    let lab = Guard::up(Plan {
        name: unique_name("migrate"),
        topology: Topology::regular(shape, fabric),
        agent: Some(agent.to_owned()),
        owned: true,
    })?;
    lab.wait(LIMIT)?;
    Ok(lab)
}

/// Where it goes next, and a VM of the host that it leaves.
fn next(at: &str) -> (&'static str, &'static str) {
    match at {
        "hv1-1" => ("hv2-1", "vm1-1-2"),
        _ => ("hv1-1", "vm2-1-2"),
    }
}

fn measure(agent: &Path, fabric: Mix, migrations: usize) -> Result<(Flavour, usize)> {
    let lab = lab(agent, fabric)?;
    let mut guest = Mobile::new(&lab, "vm1-1-1")?;
    let far = lab.fabric().vm("vm3-1-1")?;
    lab.wait(LIMIT)?;
    let moving = guest.vm.clone();
    let mut connections = Connections::open(&lab, far, &moving, CONNECTIONS)?;
    let undisturbed = {
        let probe = Probe::start(
            &lab,
            &flows(&moving, far, lab.fabric().vm("vm1-1-2")?),
            RATE,
        )?;
        process::sleep(2 * PAUSE)?;
        probe.stop()?
    };
    let mut resets = 0;
    let mut row = |tunnel: bool| -> Result<Figures> {
        let mut all = Vec::new();
        for _ in 0..migrations {
            let (to, neighbour) = next(&guest.at);
            let neighbour = lab.fabric().vm(neighbour)?;
            let probe = Probe::start(&lab, &flows(&moving, far, neighbour), RATE)?;
            let name = format!("to {to}");
            let (flows, ()) = probe.around(&name, PAUSE, || {
                let from = guest.begin(to, LIMIT)?;
                process::sleep(COPY)?;
                guest.stop()?;
                if tunnel {
                    guest.tell(&from, "stopped")?;
                }
                guest.resume(to)?;
                guest.end(&from, LIMIT)
            })?;
            all.push(flows);
            resets += connections.broken();
        }
        Ok(figures(&all))
    };
    let without_tunnel = row(false)?;
    progress("  with the tunnel");
    migrate::follow(&lab)?;
    let tunnel = row(true)?;
    let (_, broken) = connections.close()?;
    resets += usize::from(broken);
    lab.down()?;
    let flavour = Flavour {
        tunnel,
        without_tunnel,
        undisturbed_ms: stats::rounded(undisturbed.longest_gap_ms),
    };
    Ok((flavour, resets))
}

fn figures(all: &[Flows]) -> Figures {
    let silence = |of: &dyn Fn(&Flows) -> f64| -> Vec<f64> { all.iter().map(of).collect() };
    let blackouts = silence(&|flows| flows.longest_gap_ms);
    let by = |from: usize| {
        // As in `flows`: three kinds for each family.
        let gaps = silence(&|flows| {
            let kind = flows.flows.iter().skip(from).step_by(3);
            kind.map(|flow| flow.longest_gap_ms).fold(0.0, f64::max)
        });
        stats::median(&gaps).map(stats::rounded)
    };
    Figures {
        blackout_ms: Median::of(&blackouts),
        lost: all.iter().map(|flows| flows.lost).sum(),
        sent: all.iter().map(|flows| flows.sent).sum(),
        from_far_rack_ms: by(0),
        from_old_host_ms: by(1),
        from_guest_ms: by(2),
    }
}

/// Three kinds, both families.
fn flows<'a>(guest: &'a Vm, far: &'a Vm, neighbour: &'a Vm) -> Vec<FlowSpec<'a>> {
    let kinds = [(far, guest), (neighbour, guest), (guest, far)];
    Family::ALL
        .into_iter()
        .flat_map(|family| kinds.map(|(from, to)| FlowSpec { from, to, family }))
        .collect()
}

//! The same with a real guest: two QEMUs, which send it from rack to rack.
//!
//! A real guest has no receiver of ours, so the flows are echoes: what counts is
//! what comes back. QEMU's own pause is its word; for how long the guest says nothing
//! at all is seen on its taps ([`Silence`]). Without KVM that is longer: the new QEMU
//! has yet to translate all code that the guest runs.

use std::{path::Path, time::Duration};

use serde::Serialize;

use super::{COPY, LIMIT, PAUSE, RATE, lab, next, silence::Silence};
use crate::{
    Error, Result,
    bench::stats,
    fabric::{Family, Vm},
    lab::{Lab, progress},
    migrate::{self, Mobile},
    probe::{FlowSpec, Probe, Report},
    process,
    qemu::{Image, Qemu},
    topology::Mix,
};

/// A real guest without KVM boots in two seconds, on a machine that does nothing
/// else.
const BOOT: Duration = Duration::from_secs(90);
/// For how long the guest is stopped where it is, and how often.
const STOP: Duration = Duration::from_millis(100);
const STOPS: usize = 5;

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Real {
    /// Which daemons the fabric ran.
    pub fabric: Mix,
    /// With the tunnel; the agents see for themselves when the guest has left.
    #[serde(flatten)]
    pub tunnel: Figures,
    /// With the tunnel, and told when the guest has stopped.
    pub with_hint: Figures,
    /// Without either.
    pub without_tunnel: Figures,
    /// Longest silence while nothing happens: the floor of the others.
    pub undisturbed_ms: f64,
    /// How long the guest is silent for beyond its pause when it is stopped and goes on
    /// in the same QEMU: median.
    pub in_place_beyond_pause_ms: Option<f64>,
}

/// Figures of a row of migrations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// QEMU's downtime: median.
    pub pause_ms: Option<f64>,
    /// Longest time in which the guest sent nothing: median.
    pub silence_ms: Option<f64>,
    /// Longest silence of any flow in each migration, less its pause.
    pub beyond_pause_ms: super::Median,
    /// The same less the time in which the guest sent nothing: what the network adds.
    pub beyond_silence_ms: super::Median,
    /// Echoes that were asked for and never came.
    pub lost: u64,
    /// Echoes that were asked for.
    pub sent: u64,
}

pub(super) fn run(agent: &Path, fabric: Mix, migrations: usize, image: &Path) -> Result<Real> {
    let lab = lab(agent, fabric)?;
    let mut guest = Mobile::port_of(&lab, "vm1-1-1")?;
    let vm = guest.vm.clone();
    let image = Image::pack(&vm, image, lab.directory("real"))?;
    guest.unplug(&vm.host)?;
    guest.make_tap(&vm.host)?;
    let mut qemu = Qemu::start(&image, &lab.namespace(&vm.host), &vm, 0, false)?;
    guest.until(&vm.host, "active", LIMIT)?;
    let far = lab.fabric().vm("vm3-1-1")?;
    answers(&lab, &flows(&vm, far, lab.fabric().vm("vm1-1-2")?))?;
    let probe = Probe::echo(&lab, &flows(&vm, far, lab.fabric().vm("vm1-1-2")?), RATE)?;
    process::sleep(2 * PAUSE)?;
    let undisturbed = probe.stop()?.longest_gap_ms;
    let in_place = paused_in_place(&lab, &vm, &mut qemu)?;
    let mut row = |first: usize, hint: bool| -> Result<Figures> {
        let mut figures = Row::default();
        for number in first..first + migrations {
            let from = guest.at.clone();
            let (to, neighbour) = next(&from);
            let neighbour = lab.fabric().vm(neighbour)?;
            guest.bind(to, "incoming", Some(&from))?;
            guest.make_tap(to)?;
            let other = Qemu::start(&image, &lab.namespace(to), &vm, number, true)?;
            guest.until(to, "incoming", LIMIT)?;
            guest.bind(&from, "outgoing", Some(to))?;
            guest.until(&from, "outgoing", LIMIT)?;
            process::sleep(COPY)?;
            let silence = Silence::start(&lab, &vm, &[&from, to])?;
            let probe = Probe::echo(&lab, &flows(&vm, far, neighbour), RATE)?;
            let stopped = || match hint {
                true => guest.tell(&from, "stopped").map(drop),
                false => Ok(()),
            };
            let (report, paused) = probe.around(&format!("to {to}"), PAUSE, || {
                qemu_sends(&mut qemu, other, stopped)
            })?;
            let silent = silence.stop()?;
            to.clone_into(&mut guest.at);
            guest.bind(to, "active", None)?;
            guest.until(to, "active", LIMIT)?;
            guest.unplug(&from)?;
            guest.unbind(&from)?;
            figures.take(&report, stats::ms(paused), stats::ms(silent));
        }
        Ok(figures.figures())
    };
    let without_tunnel = row(1, false)?;
    progress("  with the tunnel");
    migrate::follow(&lab)?;
    let tunnel = row(migrations + 1, false)?;
    progress("  told when the guest has stopped");
    let with_hint = row(2 * migrations + 1, true)?;
    qemu.end()?;
    lab.down()?;
    Ok(Real {
        fabric,
        tunnel,
        with_hint,
        without_tunnel,
        undisturbed_ms: stats::rounded(undisturbed),
        in_place_beyond_pause_ms: in_place,
    })
}

/// The guest is stopped and goes on where it is: what of a silence is its own when no
/// other QEMU goes on with it.
fn paused_in_place(lab: &Lab, vm: &Vm, qemu: &mut Qemu) -> Result<Option<f64>> {
    let far = lab.fabric().vm("vm3-1-1")?;
    let flows = flows(vm, far, lab.fabric().vm("vm1-1-2")?);
    let mut beyond = Vec::new();
    for _ in 0..STOPS {
        let silence = Silence::start(lab, vm, &[&vm.host])?;
        let probe = Probe::echo(lab, &flows, RATE)?;
        let (_, paused) = probe.around("stopped in place", PAUSE, || qemu.pause(STOP))?;
        beyond.push(stats::ms(silence.stop()?.saturating_sub(paused)));
    }
    Ok(stats::median(&beyond).map(stats::rounded))
}

/// The guest goes from one QEMU to another, which is then the one.
fn qemu_sends(
    qemu: &mut Qemu,
    other: Qemu,
    stopped: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let paused = std::mem::replace(qemu, other);
    paused.send_to(qemu, stopped)
}

/// Of a row of migrations, while they go on.
#[derive(Default)]
struct Row {
    pauses: Vec<f64>,
    beyond: Vec<f64>,
    silences: Vec<f64>,
    beyond_silence: Vec<f64>,
    lost: u64,
    sent: u64,
}

impl Row {
    fn take(&mut self, report: &Report, paused: f64, silent: f64) {
        progress(&format!(
            "  {:<28} QEMU's pause {paused:.0} ms, the guest silent for {silent:.1} ms",
            ""
        ));
        let gap = report.longest_gap_ms;
        self.silences.push(silent);
        self.beyond_silence.push((gap - silent).max(0.0));
        self.beyond.push((gap - paused).max(0.0));
        self.pauses.push(paused);
        self.lost += report.lost;
        self.sent += report.sent;
    }

    fn figures(self) -> Figures {
        Figures {
            pause_ms: stats::median(&self.pauses).map(stats::rounded),
            silence_ms: stats::median(&self.silences).map(stats::rounded),
            beyond_pause_ms: super::Median::of(&self.beyond),
            beyond_silence_ms: super::Median::of(&self.beyond_silence),
            lost: self.lost,
            sent: self.sent,
        }
    }
}

/// From the far rack by both families, and from a VM of the old host.
fn flows<'a>(guest: &'a Vm, far: &'a Vm, neighbour: &'a Vm) -> Vec<FlowSpec<'a>> {
    let all = [
        (far, Family::V4),
        (far, Family::V6),
        (neighbour, Family::V4),
    ];
    let flow = |(from, family)| FlowSpec {
        from,
        to: guest,
        family,
    };
    all.map(flow).into()
}

/// Waits until the guest has booted and answers all.
fn answers(lab: &Lab, flows: &[FlowSpec<'_>]) -> Result<()> {
    let what = "answers of the real guest";
    lab.until(what, BOOT, || {
        let probe = Probe::echo(lab, flows, 20)?;
        process::sleep(Duration::from_millis(200))?;
        let report = probe.stop()?;
        let silent = report.flows.into_iter().filter(|flow| flow.received == 0);
        Ok(silent
            .map(|flow| format!("{} by {}", flow.from, flow.family))
            .collect())
    })
    .map_err(|error| Error::Program(format!("{error}; see the console of its QEMU")))
}

//! The same with a real guest: two QEMUs, which send it from rack to rack.
//!
//! A real guest has no receiver of ours, so the flows are echoes: what counts is
//! what comes back. QEMU's own pause is its word.

use std::{path::Path, time::Duration};

use serde::Serialize;

use super::{COPY, LIMIT, PAUSE, RATE, lab, next};
use crate::{
    Error, Result,
    bench::stats,
    fabric::{Family, Vm},
    lab::{Lab, progress},
    migrate::{self, Mobile},
    netns,
    probe::{FlowSpec, Probe, Report},
    process,
    qemu::{Image, Qemu},
    topology::Mix,
};

/// A real guest without KVM boots in two seconds, on a machine that does nothing
/// else.
const BOOT: Duration = Duration::from_secs(90);

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
}

/// Figures of a row of migrations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// QEMU's downtime: median.
    pub pause_ms: Option<f64>,
    /// Longest silence of any flow in each migration, less its pause.
    pub beyond_pause_ms: super::Median,
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
    plug(&lab, &vm, &vm.host)?;
    let mut qemu = Qemu::start(&image, &lab.namespace(&vm.host), &vm, 0, false)?;
    guest.until(&vm.host, "active", LIMIT)?;
    let far = lab.fabric().vm("vm3-1-1")?;
    answers(&lab, &flows(&vm, far, lab.fabric().vm("vm1-1-2")?))?;
    let probe = Probe::echo(&lab, &flows(&vm, far, lab.fabric().vm("vm1-1-2")?), RATE)?;
    process::sleep(2 * PAUSE)?;
    let undisturbed = probe.stop()?.longest_gap_ms;
    let mut row = |first: usize, hint: bool| -> Result<Figures> {
        let mut figures = Row::default();
        for number in first..first + migrations {
            let from = guest.at.clone();
            let (to, neighbour) = next(&from);
            let neighbour = lab.fabric().vm(neighbour)?;
            guest.bind(to, "incoming", Some(&from))?;
            plug(&lab, &vm, to)?;
            let other = Qemu::start(&image, &lab.namespace(to), &vm, number, true)?;
            guest.until(to, "incoming", LIMIT)?;
            guest.bind(&from, "outgoing", Some(to))?;
            guest.until(&from, "outgoing", LIMIT)?;
            process::sleep(COPY)?;
            let probe = Probe::echo(&lab, &flows(&vm, far, neighbour), RATE)?;
            let stopped = || match hint {
                true => guest.tell(&from, "stopped").map(drop),
                false => Ok(()),
            };
            let (report, paused) = probe.around(&format!("to {to}"), PAUSE, || {
                qemu_sends(&mut qemu, other, stopped)
            })?;
            to.clone_into(&mut guest.at);
            guest.bind(to, "active", None)?;
            guest.until(to, "active", LIMIT)?;
            netns::batch(
                Some(&lab.namespace(&from)),
                &format!("link del {}\n", vm.tap),
            )?;
            guest.unbind(&from)?;
            figures.take(&report, stats::ms(paused));
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
    })
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
    lost: u64,
    sent: u64,
}

impl Row {
    fn take(&mut self, report: &Report, paused: f64) {
        progress(&format!("  QEMU's pause {paused:.0} ms"));
        self.beyond.push((report.longest_gap_ms - paused).max(0.0));
        self.pauses.push(paused);
        self.lost += report.lost;
        self.sent += report.sent;
    }

    fn figures(self) -> Figures {
        Figures {
            pause_ms: stats::median(&self.pauses).map(stats::rounded),
            beyond_pause_ms: super::Median::of(&self.beyond),
            lost: self.lost,
            sent: self.sent,
        }
    }
}

/// As libvirt makes it: persistent, up, and without carrier until QEMU opens it.
fn plug(lab: &Lab, vm: &Vm, host: &str) -> Result<()> {
    let tap = &vm.tap;
    let lines = format!("tuntap add dev {tap} mode tap\nlink set dev {tap} up\n");
    netns::batch(Some(&lab.namespace(host)), &lines)
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

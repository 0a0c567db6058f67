//! What is done to the fabric while the flows run.

use std::time::Duration;

use super::{Bench, CONVERGENCE, Flavour, Lost, Median, More, silence};
use crate::{
    Error, Result,
    lab::{Ending, Power},
    maintenance, process,
};

/// How long something stays broken: longer than the hold time, so that all that
/// follows from it has followed.
const BROKEN: Duration = Duration::from_secs(10);
/// For what is back, until sessions and routes are as before.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) fn measure(bench: &Bench<'_>, announce: Option<f64>) -> Result<(Flavour, More)> {
    let lab = &bench.site.lab;
    let host = bench.site.host.as_str();
    let node = lab.fabric().node(host)?;
    let tor = node
        .interfaces
        .first()
        .map(|interface| interface.peer.as_str())
        .ok_or_else(|| Error::Program(format!("{host} has no ToR")))?;

    let undisturbed = bench.during("undisturbed", || process::sleep(SETTLE))?;
    let drain = bench.during("ToR drained, off, on", || {
        let cycle = maintenance::cycle(lab, tor, CONVERGENCE)?;
        if cycle.before == 0 || cycle.drained > 0 || cycle.back > 0 || cycle.after == 0 {
            let reason = format!("{tor} wasn't drained, or carried nothing: {cycle:?}");
            return Err(Error::Program(reason));
        }
        Ok(())
    })?;
    let renewed = |name: &str, ending| {
        bench.during(name, || {
            lab.renew(host, ending)?;
            process::sleep(SETTLE)
        })
    };
    let killed = renewed("daemon killed", Ending::Killed)?;
    let graceful = renewed("daemon restarted gracefully", Ending::Graceful)?;
    let terminated = renewed("daemon terminated", Ending::Terminated)?;
    let linkdown = bench.during("link down", || {
        lab.set_link(tor, host, false)?;
        process::sleep(SETTLE)
    })?;
    lab.set_link(tor, host, true)?;
    let tor_killed = bench.during("ToR's daemon killed", || {
        let program =
            crate::daemon::programs(lab.fabric().node(tor)?.flavour, &lab.fabric().options);
        let name = program.last().map(|path| crate::daemon::process_name(path));
        lab.kill(tor, name.unwrap_or_default())?;
        process::sleep(SETTLE)
    })?;
    lab.restart(tor)?;
    let dead = bench.during("ToR dead, links up", || {
        lab.power(tor, Power::Frozen)?;
        process::sleep(BROKEN)
    })?;
    lab.power(tor, Power::On)?;

    let lost = |lost| Lost { lost };
    Ok((
        Flavour {
            drain: lost(drain.lost),
            daemon_restart: lost(killed.lost + graceful.lost),
            linkdown_ms: silence(&linkdown),
            bgpd_kill_ms: silence(&tor_killed),
            dead_switch_ms: silence(&dead),
            announce_ms: Median { p50: announce },
        },
        More {
            drain_sent: drain.sent,
            daemon_killed: lost(killed.lost),
            daemon_graceful: lost(graceful.lost),
            daemon_terminated: lost(terminated.lost),
            undisturbed_ms: silence(&undisturbed),
        },
    ))
}

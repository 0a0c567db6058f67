//! What is done to the fabric while the flows run.

use std::time::Duration;

use super::{Bench, CONVERGENCE, Choice, Flavour, Lost, More, Part, silence};
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

/// Measures what was chosen of it; fills `flavour` in.
pub(super) fn measure(bench: &Bench<'_>, choice: &Choice, flavour: &mut Flavour) -> Result<More> {
    let mut more = More::default();
    if ![Part::Drain, Part::Restart, Part::Unplanned]
        .map(|part| choice.has(part))
        .contains(&true)
    {
        return Ok(more);
    }
    let node = bench.site.lab.fabric().node(&bench.site.host)?;
    let tor = node
        .interfaces
        .first()
        .map(|interface| interface.peer.as_str())
        .ok_or_else(|| Error::Program(format!("{} has no ToR", node.name)))?;
    let undisturbed = bench.during("undisturbed", || process::sleep(SETTLE))?;
    more.undisturbed_ms = Some(silence(&undisturbed));
    if choice.has(Part::Drain) {
        drain(bench, tor, flavour, &mut more)?;
    }
    if choice.has(Part::Restart) {
        restarts(bench, choice.restarts, flavour, &mut more)?;
    }
    if choice.has(Part::Unplanned) {
        unplanned(bench, tor, flavour)?;
    }
    Ok(more)
}

fn lost(lost: u64) -> Lost {
    Lost { lost: Some(lost) }
}

fn drain(bench: &Bench<'_>, tor: &str, flavour: &mut Flavour, more: &mut More) -> Result<()> {
    let flows = bench.during("ToR drained, off, on", || {
        let cycle = maintenance::cycle(&bench.site.lab, tor, CONVERGENCE)?;
        if cycle.before == 0 || cycle.drained > 0 || cycle.back > 0 || cycle.after == 0 {
            let reason = format!("{tor} wasn't drained, or carried nothing: {cycle:?}");
            return Err(Error::Program(reason));
        }
        Ok(())
    })?;
    flavour.drain = lost(flows.lost);
    more.drain_sent = Some(flows.sent);
    Ok(())
}

fn restarts(bench: &Bench<'_>, times: u32, flavour: &mut Flavour, more: &mut More) -> Result<()> {
    let renewed = |name: &str, ending| -> Result<u64> {
        let mut lost = 0;
        for _ in 0..times {
            let flows = bench.during(name, || {
                bench.site.lab.renew(&bench.site.host, ending)?;
                process::sleep(SETTLE)
            })?;
            lost += flows.lost;
        }
        Ok(lost)
    };
    let killed = renewed("daemon killed", Ending::Killed)?;
    let graceful = renewed("daemon restarted gracefully", Ending::Graceful)?;
    let terminated = renewed("daemon terminated", Ending::Terminated)?;
    flavour.daemon_restart = lost(killed + graceful);
    more.restarts = times;
    more.daemon_killed = lost(killed);
    more.daemon_graceful = lost(graceful);
    more.daemon_terminated = lost(terminated);
    Ok(())
}

fn unplanned(bench: &Bench<'_>, tor: &str, flavour: &mut Flavour) -> Result<()> {
    let (lab, host) = (&bench.site.lab, bench.site.host.as_str());
    let linkdown = bench.during("link down", || {
        lab.set_link(tor, host, false)?;
        process::sleep(SETTLE)
    })?;
    flavour.linkdown_ms = Some(silence(&linkdown));
    lab.set_link(tor, host, true)?;
    let tor_killed = bench.during("ToR's daemon killed", || {
        let program =
            crate::daemon::programs(lab.fabric().node(tor)?.flavour, &lab.fabric().options);
        let name = program.last().map(|path| crate::daemon::process_name(path));
        lab.kill(tor, name.unwrap_or_default())?;
        process::sleep(SETTLE)
    })?;
    flavour.bgpd_kill_ms = Some(silence(&tor_killed));
    lab.restart(tor)?;
    let dead = bench.during("ToR dead, links up", || {
        lab.power(tor, Power::Frozen)?;
        process::sleep(BROKEN)
    })?;
    flavour.dead_switch_ms = Some(silence(&dead));
    lab.power(tor, Power::On)
}

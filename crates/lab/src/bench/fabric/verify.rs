//! How long the agent takes to compare what it wants announced with what FRR
//! has and sent, and to mend what somebody took away.
//!
//! Both are taken from outside: the command `l2isolate verify` with all that
//! belongs to a run of it, and bgpd's own word for a prefix that is back.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;

use super::super::{
    site::{Options, Site},
    stats,
};
use crate::{
    Error, Result, agent,
    fabric::{Family, Node},
    lab::progress,
    netns, process,
    state::replace,
    topology::{self, Mix},
};

/// Ports: with both families twice as many prefixes, and the two loopbacks.
const PORTS: usize = 1000;
/// Runs of the verification.
const RUNS: usize = 15;
/// Prefixes that are taken away, one after the other.
const REMOVED: usize = 10;
/// Longest wait for all to be announced, or for one that was taken away.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two questions to bgpd.
const POLL: Duration = Duration::from_millis(20);

/// Medians.
pub(super) struct Figures {
    pub(super) verify_ms: Option<f64>,
    pub(super) heal_s: Option<f64>,
    /// Parts of `verify_ms`, by the agent's word.
    pub(super) parts: Parts,
}

/// What a verification is made of, in milliseconds: the agent's word.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Parts {
    /// Reading the kernel.
    pub kernel_ms: Option<f64>,
    /// Reading the daemon.
    pub daemon_ms: Option<f64>,
}

/// Compares and mends.
///
/// # Errors
/// What was taken away doesn't come back, or things aren't announced at all.
pub(super) fn measure(binary: &std::path::Path) -> Result<Figures> {
    let plan = Options {
        fabric: Mix::Frr,
        options: topology::Options::default(),
        ports: PORTS,
    };
    let site = Site::with(&plan, binary.to_owned(), |_| false)?;
    let node = site.lab.fabric().node(&site.host)?.clone();
    tell(&site, &node)?;
    site.write_intent()?;
    let mut lines = String::new();
    for vm in &site.vms {
        lines += &site.tap_line(vm);
        lines += &Site::start_lines(vm, false);
    }
    if let Some(vm) = site.vms.first() {
        netns::batch(Some(&site.guest_namespace(vm, false)), &lines)?;
    }
    let wanted = 2 * (PORTS + 1);
    let socket = site.lab.agent_files(&site.host).socket();
    let verify = || verify(binary, &socket);
    site.lab.until("announcement of all prefixes", LIMIT, || {
        let report = verify()?;
        let about = |key: &str| report.pointer(&format!("/advertise/{key}")).cloned();
        let whole =
            about("in_rib") == Some(wanted.into()) && about("differences") == Some(Value::from(0));
        let missing = format!(
            "{:?} of {wanted} in bgpd, {:?} differences",
            about("in_rib"),
            about("differences")
        );
        Ok((!whole).then_some(missing).into_iter().collect())
    })?;
    let mut runs = Vec::new();
    let (mut kernel, mut daemon) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let start = Instant::now();
        let report = verify()?;
        runs.push(start.elapsed());
        for (key, parts) in [("kernel_ms", &mut kernel), ("daemon_ms", &mut daemon)] {
            let ms = report.get(key).and_then(Value::as_f64).unwrap_or_default();
            parts.push(Duration::from_secs_f64(ms / 1000.0));
        }
    }
    progress(&format!("  {wanted} prefixes verified: {runs:.1?}"));
    let mut healed = Vec::new();
    for vm in site.vms.iter().take(REMOVED) {
        healed.push(heal(
            &site,
            &node,
            &format!("{}/32", vm.address(Family::V4)),
        )?);
    }
    progress(&format!("  taken away by hand, back after {healed:.2?}"));
    site.lab.down()?;
    let seconds = |d: Duration| stats::rounded(d.as_secs_f64());
    let median = |all: &[Duration]| stats::percentile(all, 50).map(stats::ms);
    Ok(Figures {
        verify_ms: median(&runs),
        heal_s: stats::percentile(&healed, 50).map(seconds),
        parts: Parts {
            kernel_ms: median(&kernel),
            daemon_ms: median(&daemon),
        },
    })
}

/// The agent tells FRR what to announce; FRR no longer picks it up by itself.
fn tell(site: &Site, node: &Node) -> Result<()> {
    let router = format!("router bgp {}", node.asn);
    for family in ["ipv4", "ipv6"] {
        let unicast = format!("address-family {family} unicast");
        for what in ["no redistribute kernel", "no redistribute connected"] {
            vtysh(site, &["configure terminal", &router, &unicast, what])?;
        }
    }
    site.lab.kill(&site.host, agent::PROGRAM)?;
    let config = site.lab.agent_files(&site.host).config();
    let text = std::fs::read_to_string(&config).map_err(Error::file(&config))?;
    let more = format!(
        "advertise = frr\nfrr_sockets = {}\n",
        site.lab.directory(&site.host).display()
    );
    replace(&config, &(text + &more))?;
    site.lab.restart(&site.host)
}

fn vtysh(site: &Site, commands: &[&str]) -> Result<String> {
    let mut command = site.lab.command(&site.host, "vtysh");
    for line in commands {
        command.args(["-c", line]);
    }
    let output = command.output().map_err(Error::io("running vtysh"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Command {
        command: format!("vtysh: {}", commands.join("; ")),
        reason: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    })
}

/// One run of `l2isolate verify`; it exits with 2 where there are differences.
fn verify(binary: &std::path::Path, socket: &std::path::Path) -> Result<Value> {
    let output = Command::new(binary)
        .args(["verify", "--json", "--socket"])
        .arg(socket)
        .output()
        .map_err(Error::io("running l2isolate verify"))?;
    serde_json::from_slice(&output.stdout).map_err(|error| Error::Command {
        command: "l2isolate verify".to_owned(),
        reason: format!(
            "{error}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    })
}

/// Takes one prefix away from bgpd; gives how long it stays away, in what bgpd
/// says itself.
fn heal(site: &Site, node: &Node, prefix: &str) -> Result<Duration> {
    let router = format!("router bgp {}", node.asn);
    let away = format!("no network {prefix}");
    let start = Instant::now();
    vtysh(
        site,
        &[
            "configure terminal",
            &router,
            "address-family ipv4 unicast",
            &away,
        ],
    )?;
    let question = format!("show bgp ipv4 unicast {prefix} json");
    let there = || -> Result<bool> {
        let text = vtysh(site, &[&question])?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let paths = answer.get("paths").and_then(Value::as_array);
        let local = |path: &Value| path.get("local") == Some(&Value::Bool(true));
        Ok(paths.into_iter().flatten().any(local))
    };
    // Its end is seen first, or its return would be taken for it.
    for expected in [false, true] {
        while there()? != expected {
            if start.elapsed() > LIMIT {
                return Err(Error::Timeout {
                    what: "return of a prefix that was taken away",
                    seconds: LIMIT.as_secs(),
                    missing: format!("{prefix} there: {}", !expected),
                });
            }
            process::sleep(POLL)?;
        }
    }
    Ok(start.elapsed())
}

//! The demo: a small fabric with both daemons is built, looked at, hurt, and
//! taken down; every claim is a line with ✓ or ✗, and only if all hold it
//! succeeds.

use std::{
    io::Write,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Error, Result, agent,
    fabric::{Family, Node, Vm},
    lab::{AgentStatus, Guard, Lab, NodeStatus, Plan, progress, unique_name},
    matrix, netns, path,
    probe::{FlowSpec, Probe},
    process, show,
    state::Directory,
    topology::{Mix, Role, Shape, Topology},
    wiring::Names,
};

/// How long the fabric may take to come together.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// Packets per second of each flow, and how long they run before, while and
/// after the agent is dead.
const RATE: u32 = 500;
const PHASE: Duration = Duration::from_secs(1);
/// Any port; the flow whose path is shown.
const SOURCE_PORT: u16 = 40000;

/// Prints claims and remembers whether all held.
struct Report<'a> {
    out: &'a mut dyn Write,
    held: bool,
}

impl Report<'_> {
    fn text(&mut self, text: &str) -> Result<()> {
        self.out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
            .map_err(Error::io("writing to standard output"))
    }

    fn head(&mut self, text: &str) -> Result<()> {
        self.text(&format!("\n── {text}\n"))
    }

    fn claim(&mut self, holds: bool, text: &str) -> Result<()> {
        self.held &= holds;
        self.text(&format!("{} {text}\n", if holds { "✓" } else { "✗" }))
    }
}

/// Runs the demo; true if every claim held.
///
/// # Errors
/// The lab can't be built or taken down, or a signal came.
pub fn run(agent: PathBuf, out: &mut dyn Write) -> Result<bool> {
    let start = Instant::now();
    let name = unique_name("demo");
    let mut report = Report { out, held: true };
    report.head("A data centre without layer 2, from network namespaces on this machine")?;
    let lab = Guard::up(Plan {
        name: name.clone(),
        topology: Topology::regular(Shape::default(), Mix::Mixed),
        agent: Some(agent),
        owned: true,
    })?;
    fabric(&mut report, &lab)?;
    reachability(&mut report, &lab)?;
    flow_path(&mut report, &lab)?;
    let victim = lab.fabric().role(Role::Hypervisor).next().cloned();
    if let Some(victim) = victim {
        hypervisor(&mut report, &lab, &victim)?;
        no_transit(&mut report, &lab, &victim)?;
        agent_killed(&mut report, &lab, &victim)?;
    }
    report.head("Taking all down")?;
    lab.down()?;
    let left = netns::list(Names::of(&name).prefix())?;
    let directory = Directory::of(&name)?;
    report.claim(
        left.is_empty() && !directory.path().exists(),
        "no namespace, process or file of the lab is left",
    )?;
    let verdict = if report.held {
        "All of it held"
    } else {
        "Not all of it held: see ✗ above"
    };
    let seconds = start.elapsed().as_secs_f64();
    report.text(&format!("\n{verdict} ({seconds:.0} s).\n"))?;
    Ok(report.held)
}

fn fabric(report: &mut Report<'_>, lab: &Lab) -> Result<()> {
    let converged = lab.wait(CONVERGENCE);
    if matches!(converged, Err(Error::Interrupted)) {
        return converged;
    }
    report.text(&format!("\n{}\n", show::fabric(lab.fabric())))?;
    let status = lab.status()?;
    report.text(&show::status(&status))?;
    if let Err(error) = converged {
        report.claim(false, &error.to_string())?;
    }
    report.claim(
        status.iter().all(NodeStatus::good),
        "every link carries a BGP session (IPv4 routes over IPv6 link-local next hops), \
         every hypervisor an agent",
    )
}

fn reachability(report: &mut Report<'_>, lab: &Lab) -> Result<()> {
    report.head("Who reaches whom (4: by IPv4, 6: by IPv6)")?;
    let matrix = matrix::measure(lab)?;
    report.text(&matrix.text(lab.fabric()))?;
    report.claim(
        matrix.complete(),
        "every VM reaches every other, in its rack and in the other, by both families",
    )
}

fn flow_path(report: &mut Report<'_>, lab: &Lab) -> Result<()> {
    report.head("The way of one flow, hop by hop")?;
    let fabric = lab.fabric();
    let (Some(from), Some(to)) = (fabric.vms.first(), fabric.vms.last()) else {
        return Ok(());
    };
    let mut good = true;
    for family in Family::ALL {
        let path = path::trace(lab, &from.name, &to.name, family, SOURCE_PORT)?;
        report.text(&path.text())?;
        let names = path.names();
        good &= path.reached && names.iter().any(|name| name.starts_with("spine"));
        good &= path.hops.iter().all(|hop| hop.node.is_some());
    }
    report.claim(
        good,
        &format!(
            "{} reaches {} in the other rack by hypervisor, ToR and spine, and each hop says so",
            from.name, to.name
        ),
    )
}

fn hypervisor(report: &mut Report<'_>, lab: &Lab, node: &Node) -> Result<()> {
    report.head(&format!("Routes of {} and its agent's word", node.name))?;
    let namespace = lab.namespace(&node.name);
    let mut holds = true;
    for family in Family::ALL {
        let text = netns::ip(&namespace, &[family.flag(), "route", "show"])?;
        let shown: Vec<&str> = text
            .lines()
            .filter(|l| !l.starts_with("fe80::/64"))
            .collect();
        report.text(&format!("{}\n", shown.join("\n")))?;
        holds &= lab.fabric().vms_on(&node.name).all(|vm| {
            let address = vm.address(family).to_string();
            shown.iter().any(|line| {
                line.split_ascii_whitespace().next() == Some(&address)
                    && line.contains(&format!("dev {}", vm.tap))
            })
        });
        let best = netns::ip(&namespace, &[family.flag(), "route", "show", "default"])?;
        // Before the floor route with the static protocol.
        let bgp = best.split("proto static").next().unwrap_or_default();
        holds &= node
            .interfaces
            .iter()
            .all(|i| bgp.contains(&format!("dev {}", i.peer)));
    }
    report.claim(
        holds,
        "each VM is one /32 and one /128 on its tap; the way out is BGP's default over both ToRs",
    )?;
    if let Some(binary) = lab.agent_binary() {
        let output = Command::new(binary)
            .args(["status", "--socket"])
            .arg(lab.agent_files(&node.name).socket())
            .output()
            .map_err(Error::io(format!("running {}", binary.display())))?;
        report.text("\n$ l2isolate status\n")?;
        report.text(&String::from_utf8_lossy(&output.stdout))?;
        report.claim(
            output.status.success(),
            "the agent says that what it was asked for is what the kernel has",
        )?;
    }
    Ok(())
}

/// What a hypervisor tells its ToRs is its own, no more.
fn no_transit(report: &mut Report<'_>, lab: &Lab, node: &Node) -> Result<()> {
    let mut holds = true;
    for interface in &node.interfaces {
        for family in Family::ALL {
            let own = lab.own_prefixes(node, family);
            holds &= lab.announced(&node.name, &interface.peer, family)? == own;
            holds &= lab.learned(&interface.peer, &node.name, family)? == own;
        }
    }
    report.claim(
        holds,
        &format!(
            "{} announces its VMs and its loopback and nothing else, which is what its ToRs \
             learned: a hypervisor is no transit",
            node.name
        ),
    )
}

fn agent_killed(report: &mut Report<'_>, lab: &Lab, node: &Node) -> Result<()> {
    report.head(&format!("Killing the agent of {} under traffic", node.name))?;
    let fabric = lab.fabric();
    let here: Vec<&Vm> = fabric.vms_on(&node.name).collect();
    let mut flows = Vec::new();
    for vm in &here {
        for other in fabric.vms.iter().filter(|other| other.host != node.name) {
            for family in Family::ALL {
                for (from, to) in [(*vm, other), (other, *vm)] {
                    flows.push(FlowSpec { from, to, family });
                }
            }
        }
    }
    progress(&format!(
        "  {} flows of {RATE} packets per second; kill -9, then start again",
        flows.len()
    ));
    let probe = Probe::start(lab, &flows, RATE)?;
    let killed = (|| {
        process::sleep(PHASE)?;
        lab.kill(&node.name, agent::PROGRAM)?;
        process::sleep(PHASE)?;
        lab.restart(&node.name)?;
        lab.until("return of the agent", CONVERGENCE, || {
            Ok(match lab.agent(&node.name)? {
                Some(agent) if agent.in_sync() => Vec::new(),
                other => vec![format!("{other:?}")],
            })
        })?;
        process::sleep(PHASE)
    })();
    let result = probe.stop()?;
    killed?;
    report.claim(
        result.lost == 0 && result.duplicates == 0 && result.sent > 0,
        &format!(
            "{} packets in {} flows to and from its VMs: {} lost, {} twice, {} out of order, \
             longest silence {:.0} ms",
            result.sent,
            result.flows.len(),
            result.lost,
            result.duplicates,
            result.reordered,
            result.longest_gap_ms
        ),
    )?;
    let written = match lab.agent(&node.name)? {
        Some(AgentStatus::Answers(answer)) => answer.get("written").and_then(Value::as_u64),
        _ => None,
    };
    report.claim(
        written == Some(0),
        "the agent is back, found everything in place and wrote nothing to the kernel",
    )
}

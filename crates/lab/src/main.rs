//! `l2isolate-lab`: a whole fabric from network namespaces on one machine.
//!
//! The command line only; each verb is a call into the library.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use l2isolate_lab::{
    Error, agent, bench, budget, demo,
    fabric::{Fabric, Family},
    lab,
    lab::{Lab, Plan, Power},
    matrix,
    neutron::{self, Rig},
    path,
    probe::{FlowSpec, Probe, Report},
    process, render, show, throughput,
    topology::{Mix, Shape, Topology},
};

/// How long `up --wait` waits at most for each of its steps.
const CONVERGENCE: Duration = Duration::from_secs(120);

/// The whole fabric on one machine: spines, ToRs, hypervisors and VMs as
/// network namespaces, with real routing daemons and the real agent. Needs
/// root; touches nothing but its own namespaces.
#[derive(Parser)]
#[command(name = "l2isolate-lab", version)]
struct Arguments {
    /// The lab; several can be up side by side.
    #[arg(long, global = true, default_value = "default")]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build a lab and start everything in it.
    Up {
        /// Topology file (TOML); default: 2 spines, 2 racks of 2 ToRs and 2
        /// hypervisors, 2 VMs each.
        #[arg(long)]
        topology: Option<PathBuf>,
        /// Which routing daemons to run.
        #[arg(long, value_enum)]
        fabric: Option<Mix>,
        /// The agent's binary; default: `l2isolate` beside this program.
        #[arg(long)]
        agent: Option<PathBuf>,
        /// Wait until all sessions are up and all routes have arrived.
        #[arg(long)]
        wait: bool,
        /// Start a real Neutron of this release, which drives the agents; there
        /// are no VMs but those that are made through its API.
        #[arg(long, value_enum)]
        neutron: Option<neutron::Release>,
    },
    /// Take a lab down, in whatever state it is.
    Down {
        /// Instead, take down all labs whose demo or test has died.
        #[arg(long)]
        all_dead: bool,
    },
    /// Show routers, BGP sessions and agents.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a command in a router or VM.
    Exec {
        /// Router or VM.
        node: String,
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Take a link down, or up again.
    Link {
        /// One end.
        a: String,
        /// The other end.
        b: String,
        /// What to do.
        state: LinkState,
    },
    /// Kill a daemon of a router (SIGKILL): zebra, bgpd, bird, l2isolate.
    Kill {
        /// The router.
        node: String,
        /// The daemon.
        daemon: String,
    },
    /// Try who reaches whom, every VM to every other, IPv4 and IPv6.
    Matrix {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the way of one flow hop by hop, IPv4 and IPv6.
    Path {
        /// Where from: VM or router.
        a: String,
        /// Where to: VM or router.
        b: String,
        /// Another port is another flow, and may take another path.
        #[arg(long, default_value_t = 40000)]
        source_port: u16,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Send numbered packets from one VM to another and back for a while, and
    /// count: loss, duplicates, reordering, longest gap. Prints JSON.
    Probe {
        /// One VM.
        a: String,
        /// Another VM.
        b: String,
        /// Packets per second of each flow.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// How long.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Flows each way and family.
        #[arg(long, default_value_t = 8)]
        flows: u32,
    },
    /// How much one path carries: a TCP stream by iperf3, then the smallest UDP
    /// packets as fast as one sender makes them. Prints JSON.
    Throughput {
        /// The sending VM.
        a: String,
        /// The receiving VM.
        b: String,
        /// How long each of the two takes.
        #[arg(long, default_value_t = 5)]
        seconds: u16,
    },
    /// Build a small lab, show what it can do, break something, take it down.
    Demo {
        /// The agent's binary; default: `l2isolate` beside this program.
        #[arg(long)]
        agent: Option<PathBuf>,
    },
    /// Measure, in a lab made for it.
    Bench {
        /// What.
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// A real Neutron with database and broker, to drive the lab's agents.
    Neutron {
        /// What to do.
        #[command(subcommand)]
        neutron: neutron::Command,
    },
    /// Switch a router off or on, or freeze it: dead with its links up.
    Power {
        /// What to do.
        state: Power,
        /// The router.
        node: String,
    },
    /// Write the configurations of the whole fabric's daemons, each knob with
    /// its reason beside it: DIRECTORY/NODE/FILE. Builds nothing, needs no root.
    Render {
        /// Topology file (TOML), as with `up`.
        #[arg(long)]
        topology: Option<PathBuf>,
        /// Which routing daemons to run.
        #[arg(long, value_enum)]
        fabric: Option<Mix>,
        /// Where to write.
        directory: PathBuf,
    },
    /// How many routes each rack and ToR has, against the sizes of tables that
    /// the topology names; exit 1 if there is a warning. Builds nothing, needs
    /// no root.
    Budget {
        /// Topology file (TOML), as with `up`.
        #[arg(long)]
        topology: Option<PathBuf>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Start what doesn't run on a router.
    Restart {
        /// The router.
        node: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum LinkState {
    Up,
    Down,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            lab::progress(&format!("l2isolate-lab: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let rootless = matches!(arguments.verb, Verb::Render { .. } | Verb::Budget { .. });
    if !rootless && !nix::unistd::geteuid().is_root() {
        bail!("network namespaces need root: run it with sudo");
    }
    let name = arguments.name.as_str();
    match arguments.verb {
        Verb::Up {
            topology,
            fabric,
            agent,
            wait,
            neutron,
        } => {
            process::watch_signals()?;
            let mut topology = read_topology(topology.as_deref(), fabric)?;
            // Before anything is built: is the release there?
            let neutron = neutron.map(neutron::Options::new).transpose()?;
            if neutron.is_some() {
                topology.nodes.iter_mut().for_each(|node| node.vms = 0);
            }
            let plan = Plan {
                name: name.to_owned(),
                topology,
                agent: Some(find_agent(agent)?),
                owned: false,
            };
            let lab = Lab::up(plan)?;
            if let Some(options) = neutron {
                let rig = Rig::up(&lab, options).and_then(|rig| rig.drive(&lab, ""));
                if let Err(error) = rig {
                    lab::down(name)?;
                    return Err(error.into());
                }
            }
            if wait {
                match lab.wait(CONVERGENCE) {
                    Err(Error::Interrupted) => {
                        lab::down(name)?;
                        bail!("interrupted; lab `{name}` is taken down again");
                    }
                    // Left as it is, to be looked at.
                    result => {
                        result.with_context(|| format!("lab `{name}` is up but not complete"))?;
                    }
                }
            }
        }
        Verb::Down { all_dead: true } => {
            for name in lab::down_dead()? {
                print(&format!("{name}\n"))?;
            }
        }
        Verb::Down { all_dead: false } => lab::down(name)?,
        Verb::Status { json } => {
            let status = Lab::open(name)?.status()?;
            if json {
                print_json(&status)?;
            } else {
                print(&show::status(&status))?;
            }
            if !status.iter().all(lab::NodeStatus::good) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Exec { node, command } => {
            let status = Lab::open(name)?.exec(&node, &command)?;
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(ExitCode::from(code.unwrap_or(1)));
        }
        Verb::Link { a, b, state } => {
            Lab::open(name)?.set_link(&a, &b, matches!(state, LinkState::Up))?;
        }
        Verb::Kill { node, daemon } => Lab::open(name)?.kill(&node, &daemon)?,
        Verb::Matrix { json } => {
            let lab = Lab::open(name)?;
            let matrix = matrix::measure(&lab)?;
            if json {
                print_json(&matrix)?;
            } else {
                print(&matrix.text(lab.fabric()))?;
            }
            if !matrix.complete() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Path {
            a,
            b,
            source_port,
            json,
        } => {
            let lab = Lab::open(name)?;
            let trace = |family| path::trace(&lab, &a, &b, family, source_port);
            let paths = [trace(Family::V4)?, trace(Family::V6)?];
            if json {
                print_json(&paths)?;
            } else {
                print(&paths.each_ref().map(path::Path::text).concat())?;
            }
            if !paths.iter().all(|path| path.reached) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Probe {
            a,
            b,
            rate,
            seconds,
            flows,
        } => {
            process::watch_signals()?;
            let duration = Duration::try_from_secs_f64(seconds).context("--seconds")?;
            let lab = Lab::open(name)?;
            print_json(&probe_pair(&lab, &a, &b, rate, duration, flows)?)?;
        }
        Verb::Throughput { a, b, seconds } => {
            process::watch_signals()?;
            let lab = Lab::open(name)?;
            let (a, b) = (lab.fabric().vm(&a)?, lab.fabric().vm(&b)?);
            let duration = Duration::from_secs(seconds.max(1).into());
            let measure = |family| throughput::measure(&lab, a, b, family, duration);
            let families: Result<Vec<_>, Error> = Family::ALL.into_iter().map(measure).collect();
            print_json(&families?)?;
        }
        Verb::Demo { agent } => {
            process::watch_signals()?;
            if !demo::run(find_agent(agent)?, &mut std::io::stdout())? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Bench { bench } => {
            process::watch_signals()?;
            print(&bench.run()?)?;
        }
        Verb::Neutron { neutron } => return Ok(neutron.run(name)?),
        Verb::Render {
            topology,
            fabric,
            directory,
        } => {
            let topology = read_topology(topology.as_deref(), fabric)?;
            render::write(&Fabric::new(&topology), &directory)?;
        }
        Verb::Budget { topology, json } => {
            let topology = read_topology(topology.as_deref(), None)?;
            let budget = budget::of(&Fabric::new(&topology));
            if json {
                print_json(&budget)?;
            } else {
                print(&budget.text())?;
            }
            if !budget.warnings.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Power { state, node } => Lab::open(name)?.power(&node, state)?,
        Verb::Restart { node } => Lab::open(name)?.restart(&node)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read_topology(file: Option<&Path>, mix: Option<Mix>) -> Result<Topology> {
    Ok(match file {
        Some(file) => Topology::read(file, mix)?,
        None => Topology::regular(Shape::default(), mix.unwrap_or_default()),
    })
}

fn find_agent(given: Option<PathBuf>) -> Result<PathBuf> {
    match given {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("--agent {}", path.display())),
        None => Ok(agent::find()?),
    }
}

fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("writing to standard output")
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn probe_pair(
    lab: &Lab,
    a: &str,
    b: &str,
    rate: u32,
    duration: Duration,
    flows: u32,
) -> Result<Report> {
    let (a, b) = (lab.fabric().vm(a)?, lab.fabric().vm(b)?);
    let mut specs = Vec::new();
    for family in Family::ALL {
        for (from, to) in [(a, b), (b, a)] {
            specs.extend((0..flows).map(|_| FlowSpec { from, to, family }));
        }
    }
    let probe = Probe::start(lab, &specs, rate)?;
    // Interrupted: what was sent so far is counted.
    let _ = process::sleep(duration);
    Ok(probe.stop()?)
}

//! `l2isolate-lab`: a whole fabric from network namespaces on one machine.
//!
//! The command line only; each verb is a call into the library.

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use l2isolate_lab::{
    agent, lab,
    lab::{Lab, Plan},
    process, show,
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
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces need root: run it with sudo");
    }
    let name = arguments.name.as_str();
    match arguments.verb {
        Verb::Up {
            topology,
            fabric,
            agent,
            wait,
        } => {
            process::watch_signals()?;
            let plan = Plan {
                name: name.to_owned(),
                topology: match topology {
                    Some(file) => Topology::read(&file, fabric)?,
                    None => Topology::regular(Shape::default(), fabric.unwrap_or_default()),
                },
                agent: Some(find_agent(agent)?),
                owned: false,
            };
            let lab = Lab::up(plan)?;
            if wait {
                lab.wait(CONVERGENCE)
                    .with_context(|| format!("lab `{name}` is up but not complete"))?;
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
                print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?;
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
        Verb::Restart { node } => Lab::open(name)?.restart(&node)?,
    }
    Ok(ExitCode::SUCCESS)
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

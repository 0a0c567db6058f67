//! Benchmarks that can be believed: each figure is taken from outside the
//! agent, by listeners and probes of this program's own and by /proc.
//!
//! * [`attach`]: from a tap that is up to a wired port, and to the first
//!   answer through the fabric.
//! * [`resync`]: the agent started with nothing in place, and with all.
//! * [`fabric`]: what is lost while the fabric is operated, or breaks.
//! * [`filter`]: what the firewall costs, per change and per packet.
//! * [`guest`]: what guests get from their own hypervisor, and how soon.
//! * [`migrate`]: what flows notice of a guest that moves to another rack.
//! * [`neutron`]: a real Neutron and its agents, one and many.
//!
//! `docs/benchmarks.md` says what each figure means. What can break it: a
//! machine that does something else meanwhile. Nothing here is asserted.

pub mod attach;
pub mod fabric;
pub mod filter;
pub mod guest;
mod message;
pub mod migrate;
mod monitor;
pub mod neutron;
mod reach;
pub mod resync;
mod site;
mod stats;
mod sync;
mod usage;
mod wiring;
mod writes;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{Error, Result, agent, neutron::Release, topology::Mix};

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Taps appear one after the other: how long until each port is wired, and
    /// until a VM in the other rack answers it.
    Attach {
        /// How many.
        #[arg(long, default_value_t = 200)]
        ports: usize,
        /// Which routing daemons to run; default: FRR, then BIRD.
        #[arg(long, value_enum)]
        fabric: Option<Mix>,
        /// As with every bench.
        #[command(flatten)]
        common: Common,
    },
    /// The agent is started with nothing in place, then killed and started
    /// with everything in place, under traffic.
    Resync {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        ports: usize,
        /// Which routing daemons to run.
        #[arg(long, value_enum, default_value_t)]
        fabric: Mix,
        /// The agent under test has no firewall: the wiring by itself.
        #[arg(long)]
        without_firewall: bool,
        /// As with every bench.
        #[command(flatten)]
        common: Common,
    },
    /// A ToR taken out and put back, daemons restarted, links cut, a switch dead:
    /// what flows between the racks lose. How fast a guest is announced.
    Fabric {
        /// Which routing daemons to run; default: FRR, then BIRD.
        #[arg(long, value_enum)]
        fabric: Option<Mix>,
        /// Only these parts, with commas between.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<fabric::Part>,
        /// How often the hypervisor's daemon is ended in each way; what is lost is
        /// added up.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        restarts: u32,
        /// As with every bench.
        #[command(flatten)]
        common: Common,
    },
    /// A guest moves from rack to rack and back, ten times: what flows and
    /// connections notice.
    Migrate {
        /// Which routing daemons to run; default: BIRD, then FRR.
        #[arg(long, value_enum)]
        fabric: Option<Mix>,
        /// How often it moves.
        #[arg(long, default_value_t = 10)]
        migrations: usize,
        /// A real guest as well, in the first of the fabrics.
        #[arg(long)]
        qemu: bool,
        /// What it boots from: scripts/guest-image makes it.
        #[arg(long, default_value = ".tools/guest")]
        image: PathBuf,
        /// As with every bench.
        #[command(flatten)]
        common: Common,
    },
    /// What the firewall costs: how long until the kernel has one port's groups,
    /// one member, all rules of a host; how many packets pass.
    Filter {
        /// Only these parts, with commas between.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<filter::Part>,
        /// As with every bench.
        #[command(flatten)]
        common: Common,
    },
    /// A real Neutron: a hypervisor full of taps at once, rules, a restart; what
    /// many agents hear of one boot; all agents at once.
    Neutron {
        /// Which release.
        #[arg(long, value_enum, default_value = "21")]
        release: Release,
        /// Only these parts, with commas between.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<neutron::Part>,
        /// Ports of the hypervisor.
        #[arg(long, default_value_t = 200)]
        ports: usize,
        /// Neutron's linuxbridge agent (21) as well, with as many ports: ten minutes.
        #[arg(long)]
        baseline: bool,
        /// Agents that listen to a boot.
        #[arg(long, default_value_t = 500)]
        listeners: usize,
        /// Agents that ask at once, with 20 ports each.
        #[arg(long, default_value_t = 2000)]
        agents: usize,
        /// Ports that are made at once for these.
        #[arg(long, default_value_t = 1000)]
        more_ports: usize,
        /// As with every bench.
        #[command(flatten)]
        common: Common,
    },
    /// Guests boot, all at once and one by one: how long until they have their
    /// leases; and all of them ask for metadata.
    Guest {
        /// How many at once.
        #[arg(long, default_value_t = 300)]
        ports: usize,
        /// As with every bench.
        #[command(flatten)]
        common: Common,
    },
}

/// Options of every bench.
#[derive(Debug, Args)]
pub struct Common {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The agent's binary; default: `l2isolate` beside this program.
    #[arg(long)]
    agent: Option<PathBuf>,
}

impl Common {
    fn agent(&self) -> Result<PathBuf> {
        match &self.agent {
            Some(path) => path.canonicalize().map_err(Error::file(path)),
            None => agent::find(),
        }
    }
}

impl Bench {
    /// Measures; gives what is to be printed.
    ///
    /// # Errors
    /// A lab can't be built, or what is measured doesn't happen at all.
    pub fn run(self) -> Result<String> {
        let (report, json) = match self {
            Self::Attach {
                ports,
                fabric,
                common,
            } => {
                let fabrics = fabric.map_or(vec![Mix::Frr, Mix::Bird], |fabric| vec![fabric]);
                let report = attach::run(&common.agent()?, ports, &fabrics)?;
                (serde_json::to_value(report), common.json)
            }
            Self::Resync {
                ports,
                fabric,
                without_firewall,
                common,
            } => {
                let report = resync::run(&common.agent()?, ports, fabric, !without_firewall)?;
                (serde_json::to_value(report), common.json)
            }
            Self::Fabric {
                fabric,
                only,
                restarts,
                common,
            } => {
                let choice = fabric::Choice {
                    fabrics: fabric.map_or(vec![Mix::Frr, Mix::Bird], |fabric| vec![fabric]),
                    parts: only,
                    restarts,
                };
                let report = fabric::run(&common.agent()?, &choice)?;
                (serde_json::to_value(report), common.json)
            }
            Self::Migrate {
                fabric,
                migrations,
                qemu,
                image,
                common,
            } => {
                let fabrics = fabric.map_or(vec![Mix::Bird, Mix::Frr], |fabric| vec![fabric]);
                let image = qemu.then_some(image.as_path());
                let report = migrate::run(&common.agent()?, &fabrics, migrations, image)?;
                (serde_json::to_value(report), common.json)
            }
            Self::Filter { only, common } => {
                let report = filter::run(&common.agent()?, &only)?;
                (serde_json::to_value(report), common.json)
            }
            Self::Neutron {
                release,
                only,
                ports,
                baseline,
                listeners,
                agents,
                more_ports,
                common,
            } => {
                let sizes = neutron::Sizes {
                    parts: only,
                    ports,
                    baseline,
                    listeners,
                    agents,
                    more_ports,
                };
                let report = neutron::run(&common.agent()?, release, &sizes)?;
                (serde_json::to_value(report), common.json)
            }
            Self::Guest { ports, common } => {
                let report = guest::run(&common.agent()?, ports)?;
                (serde_json::to_value(report), common.json)
            }
        };
        let report = report.map_err(|e| Error::Program(e.to_string()))?;
        Ok(if json {
            format!("{report}\n")
        } else {
            text("", &report)
        })
    }
}

/// A line for each figure.
fn text(name: &str, value: &Value) -> String {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(field, value)| {
                let separator = if name.is_empty() { "" } else { "." };
                text(&format!("{name}{separator}{field}"), value)
            })
            .collect(),
        value => format!("{name:<24} {value}\n"),
    }
}

//! `l2isolate`: the agent on each hypervisor, and the commands to ask it.
//!
//! One verb, one file in `commands/`. No networking is decided here: the agent
//! is wiring between source, plan, reconciler and kernel.

mod aftermath;
mod announcer;
mod arrivals;
mod checks;
mod commands;
mod config;
mod control;
mod counts;
mod departures;
mod engine;
mod figures;
mod firewall;
mod flows;
mod guests;
mod logging;
mod peers;
mod report;
mod rivals;
mod run;
mod table;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use control::{Event, Subject};

/// Virtual machines as /32 and /128 routes: no bridge, no VLAN, no overlay.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent in the foreground.
    Agent {
        /// INI file; may be given several times, later files win.
        #[arg(long, value_name = "FILE", required = true)]
        config_file: Vec<PathBuf>,
    },
    /// Answer guests that ask for metadata, in the foreground: a process of its
    /// own, without privileges.
    Metadata {
        /// INI file; may be given several times, later files win.
        #[arg(long, value_name = "FILE", required = true)]
        config_file: Vec<PathBuf>,
    },
    /// Is the agent in sync, and if not, why?
    Status(Ask),
    /// What has become of each port?
    Ports(Ask),
    /// What would be written to the kernel now, and what is held or fails?
    Diff {
        #[command(flatten)]
        ask: Ask,
        /// Don't ask the agent: say what one that is started with these files
        /// now would write.
        #[arg(long, value_name = "FILE", conflicts_with = "socket")]
        config_file: Vec<PathBuf>,
    },
    /// Let go the deletions that are held since too many came at once.
    Release(Ask),
    /// Compare, now, what is to be announced with the kernel, with the routing
    /// daemon and with what each switch was sent.
    Verify(Ask),
    /// Ask the fabric to prefer any other way (RFC 8326), until `undrain`; also
    /// over restarts. Shows how far it has got.
    Drain {
        #[command(flatten)]
        ask: Ask,
        /// How often to prepend the own AS, for switches that don't honour the
        /// community.
        #[arg(long, value_name = "TIMES", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=10))]
        prepend: u8,
        /// Seconds to wait until all is marked.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        wait: u64,
    },
    /// End a drain, also one that is under way.
    Undrain {
        #[command(flatten)]
        ask: Ask,
        /// Seconds to wait until no mark is left.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        wait: u64,
    },
    /// Say that a guest that leaves by live migration has stopped here: what comes
    /// for it goes after it from now on.
    GuestStopped {
        #[command(flatten)]
        ask: Ask,
        #[command(flatten)]
        guest: Guest,
    },
    /// Say that it goes on here after all.
    GuestResumed {
        #[command(flatten)]
        ask: Ask,
        #[command(flatten)]
        guest: Guest,
    },
    /// Print the firewall that the agent wants, as `nft -f` would read it.
    ShowNft {
        #[command(flatten)]
        ask: Ask,
        /// Only what this port has, with its groups.
        #[arg(long, value_name = "ID")]
        port: Option<l2isolate_model::PortId>,
    },
    /// Install the closed firewall before any machine starts: whatever comes
    /// from a tap, or goes to one, is dropped until the agent knows it.
    BaseFilter {
        /// INI file; may be given several times, later files win.
        #[arg(long, value_name = "FILE", required = true)]
        config_file: Vec<PathBuf>,
    },
    /// Print a whole BGP configuration of this host for a routing daemon, with
    /// each knob's reason beside it.
    RenderBgp(commands::render_bgp::Options),
    /// Check configuration files, and the host for services that would fight the agent.
    CheckConfig {
        /// INI file; may be given several times, later files win.
        #[arg(long, value_name = "FILE", required = true)]
        config_file: Vec<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How to ask the running agent.
#[derive(Args)]
struct Ask {
    /// The agent's socket.
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which guest.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Guest {
    /// The one on this tap.
    #[arg(long, value_name = "NAME")]
    tap: Option<l2isolate_model::IfName>,
    /// The one with this port.
    #[arg(long, value_name = "ID")]
    port: Option<l2isolate_model::PortId>,
    /// All ports of this instance: libvirt's UUID of the domain.
    #[arg(long, value_name = "UUID")]
    instance: Option<String>,
}

impl Guest {
    fn subject(self) -> Option<Subject> {
        let (tap, port) = (self.tap.map(Subject::Tap), self.port.map(Subject::Port));
        tap.or(port).or(self.instance.map(Subject::Instance))
    }

    fn tell(self, ask: &Ask, event: Event) -> anyhow::Result<ExitCode> {
        let subject = self.subject().context("no guest is named")?;
        commands::guest::run(&ask.socket, event, subject, ask.json)
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent { config_file } => commands::agent::run(&config_file),
        Command::Metadata { config_file } => commands::metadata::run(&config_file),
        Command::Status(ask) => commands::status::run(&ask.socket, ask.json),
        Command::Ports(ask) => commands::ports::run(&ask.socket, ask.json),
        Command::Diff { ask, config_file } => {
            commands::diff::run(&ask.socket, &config_file, ask.json)
        }
        Command::Release(ask) => commands::release::run(&ask.socket, ask.json),
        Command::Verify(ask) => commands::verify::run(&ask.socket, ask.json),
        Command::Drain { ask, prepend, wait } => {
            commands::drain::run(&ask.socket, Some(prepend), wait, ask.json)
        }
        Command::Undrain { ask, wait } => commands::drain::run(&ask.socket, None, wait, ask.json),
        Command::GuestStopped { ask, guest } => guest.tell(&ask, Event::Stopped),
        Command::GuestResumed { ask, guest } => guest.tell(&ask, Event::Resumed),
        Command::ShowNft { ask, port } => commands::show_nft::run(&ask.socket, port, ask.json),
        Command::BaseFilter { config_file } => commands::base_filter::run(&config_file),
        Command::RenderBgp(options) => commands::render_bgp::run(&options),
        Command::CheckConfig { config_file, json } => {
            commands::check_config::run(&config_file, json)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("l2isolate: {error:#}");
        ExitCode::FAILURE
    })
}

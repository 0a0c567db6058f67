//! Routing daemons: their configuration, start, and state.
//!
//! One module for each flavour. Each renders a node's configuration from the
//! fabric alone, starts its programs with sockets and files in the node's own
//! directory, and asks over those sockets; daemons of the machine itself are
//! neither needed nor seen.

mod bird;
mod bird_config;
mod frr;
mod frr_config;
mod knobs;
mod tools;

use std::{collections::BTreeSet, ffi::OsString, path::Path};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use l2isolate_advertise::Handover;

use crate::{
    Error, Result, agent,
    fabric::{Family, LOOPBACK_PREFIX4, LOOPBACK_PREFIX6, Node, VM_PREFIX4, VM_PREFIX6},
    process::Identity,
    state::replace,
    topology::{Flavour, Options},
};

pub(crate) use knobs::UPLINK_PREFIXES;

/// What the daemon and the agent of a hypervisor of that AS agree on in a lab.
pub(crate) fn handover(asn: u32) -> Handover {
    let v4 = |(address, length)| Ipv4Net::new(address, length).map(IpNet::V4);
    let v6 = |(address, length)| Ipv6Net::new(address, length).map(IpNet::V6);
    let both = |four, six| [v4(four), v6(six)].into_iter().flatten().collect();
    Handover {
        protocol: agent::ROUTE_PROTOCOL,
        metric: agent::ROUTE_METRIC,
        steps: agent::MIGRATION_PREPEND,
        asn,
        guests: both(VM_PREFIX4, VM_PREFIX6),
        loopbacks: both(LOOPBACK_PREFIX4, LOOPBACK_PREFIX6),
    }
}

/// State of one BGP session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The node at the far end.
    pub peer: String,
    /// Whether it is established.
    pub established: bool,
    /// The daemon's own word for the state.
    pub state: String,
}

/// The program files that a flavour needs, in the order of their start.
#[must_use]
pub fn programs(flavour: Flavour, options: &Options) -> &'static [&'static str] {
    match flavour {
        Flavour::Frr if options.bfd => &frr::PROGRAMS_BFD,
        Flavour::Frr => &frr::PROGRAMS,
        Flavour::Bird => &bird::PROGRAMS,
    }
}

/// Checks that the programs of `flavour` are installed.
///
/// # Errors
/// One is missing; says which package has it.
pub fn check_installed(flavour: Flavour, options: &Options) -> Result<()> {
    let package = match flavour {
        Flavour::Frr => "frr",
        Flavour::Bird => "bird2",
    };
    for program in programs(flavour, options) {
        if !Path::new(program).exists() {
            return Err(Error::Program(format!(
                "{program} is missing: install the Debian package {package}, \
                 or choose another --fabric"
            )));
        }
    }
    Ok(())
}

/// The files of a node's daemons for a machine of its own, name and text, each
/// knob with its reason beside it. BIRD's include each other in `directory`.
#[must_use]
pub fn render(options: &Options, node: &Node, directory: &Path) -> Vec<(String, String)> {
    match node.flavour {
        Flavour::Frr => frr::render(options, node),
        Flavour::Bird => bird::render(options, node, directory, "syslog"),
    }
}

/// Writes the node's configuration into `directory`, which exists, and the
/// tools by which its daemons are spoken to.
///
/// # Errors
/// A file can't be written.
pub fn configure(options: &Options, node: &Node, directory: &Path) -> Result<()> {
    let files = match node.flavour {
        Flavour::Frr => {
            frr::prepare(directory)?;
            frr::render(options, node)
        }
        Flavour::Bird => {
            let log = format!("\"{}\"", directory.join("bird.log").display());
            bird::render(options, node, directory, &log)
        }
    };
    for (name, text) in files {
        replace(&directory.join(name), &text)?;
    }
    tools::write(directory)
}

/// Environment in which `vtysh` and `birdc` speak with the daemons of the node
/// whose files are in `directory`.
#[must_use]
pub fn environment(directory: &Path) -> Vec<(&'static str, OsString)> {
    tools::environment(directory)
}

/// Starts the node's daemons, or those of them that don't run.
///
/// `running` are the processes in the node's namespace.
///
/// # Errors
/// One can't be started.
pub fn start(
    options: &Options,
    node: &Node,
    namespace: &str,
    directory: &Path,
    running: &[Identity],
) -> Result<()> {
    match node.flavour {
        Flavour::Frr => frr::start(options, namespace, directory, running),
        Flavour::Bird => bird::start(namespace, directory, running),
    }
}

/// Forgets what daemons that ended gracefully left for the next ones: the next
/// start is one after a power failure.
pub fn forget(directory: &Path) {
    bird::forget(directory);
}

/// The node's sessions as its daemon sees them.
///
/// # Errors
/// The daemon doesn't answer.
pub fn sessions(node: &Node, directory: &Path) -> Result<Vec<Session>> {
    match node.flavour {
        Flavour::Frr => frr::sessions(directory),
        Flavour::Bird => bird::sessions(node, directory),
    }
}

/// The prefixes that a node accepted from one of its neighbours, whether it
/// uses them or not.
///
/// # Errors
/// The daemon doesn't answer.
pub fn learned(
    node: &Node,
    directory: &Path,
    peer: &str,
    family: Family,
) -> Result<BTreeSet<String>> {
    match node.flavour {
        Flavour::Frr => frr::learned(directory, peer, family),
        Flavour::Bird => bird::learned(directory, peer, family),
    }
}

/// The prefixes that a node announces to one of its neighbours.
///
/// # Errors
/// The daemon doesn't answer.
pub fn announced(
    node: &Node,
    directory: &Path,
    peer: &str,
    family: Family,
) -> Result<BTreeSet<String>> {
    match node.flavour {
        Flavour::Frr => frr::announced(directory, peer, family),
        Flavour::Bird => bird::announced(directory, peer, family),
    }
}

/// Removes what a daemon left outside the lab's directory.
pub fn sweep(process: Identity) {
    frr::sweep(process);
}

/// The last component of a program's path: the name of its process.
#[must_use]
pub fn process_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Whether a process of that program is among `running`.
fn runs(program: &str, running: &[Identity]) -> bool {
    let name = process_name(program);
    running.iter().any(|p| p.lives() && p.name() == name)
}

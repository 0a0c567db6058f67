//! The configurations of a whole fabric's daemons, as files to take to real
//! switches and hypervisors; and whether the daemons would take them.
//!
//! They are what the lab itself runs. What can break it: the options by which a
//! daemon only reads its configuration.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use l2isolate_advertise::render::{self as advertise, Host, Uplink, Way};

use crate::{
    Error, Result, daemon,
    fabric::{Fabric, Interface, Node},
    state::replace,
    topology::{Flavour, Role},
};

/// Where BIRD's files are on a machine of its own.
const BIRD_DIRECTORY: &str = "/etc/bird";

/// What FRR's daemons say of a configuration that is good.
const REMARKS: [&str; 2] = [
    "Disabling MPLS support",
    "Graceful restart configuration changed",
];
/// GoBGP of Debian 12.
const GOBGP_VERSION: &str = "3.10.0";
/// For a hypervisor that runs GoBGP in place of what the lab runs.
const GOBGP_FILE: &str = "gobgpd.toml";

/// Writes `output/NODE/FILE` for every router; for hypervisors GoBGP's as well,
/// which the agent tells what to announce. GoBGP has no routes in the kernel, so
/// on switches it has no place.
///
/// # Errors
/// A directory or file can't be written.
pub fn write(fabric: &Fabric, output: &Path) -> Result<()> {
    for node in &fabric.nodes {
        let directory = output.join(&node.name);
        std::fs::create_dir_all(&directory).map_err(Error::file(&directory))?;
        for (name, text) in daemon::render(&fabric.options, node, Path::new(BIRD_DIRECTORY)) {
            replace(&directory.join(name), &text)?;
        }
        if node.role == Role::Hypervisor {
            replace(&directory.join(GOBGP_FILE), &gobgp(fabric, node)?)?;
        }
    }
    Ok(())
}

/// GoBGP's configuration for a hypervisor.
///
/// # Errors
/// A name or the password has a character that it can't take.
pub fn gobgp(fabric: &Fabric, node: &Node) -> Result<String> {
    let uplink = |interface: &Interface| Uplink {
        interface: interface.peer.clone(),
        peer: Some(interface.peer_address),
        peer_asn: fabric.node(&interface.peer).ok().map(|peer| peer.asn),
    };
    let host = Host {
        name: node.name.clone(),
        asn: node.asn,
        router_id: node.loopback4,
        uplinks: node.interfaces.iter().map(uplink).collect(),
        way: Way::Told,
        handover: daemon::handover(node.asn),
        maximum_prefixes: daemon::UPLINK_PREFIXES,
        bfd: false,
        password: fabric.options.tcp_auth.clone(),
        roles: true,
        // Not GoBGP's; but it may not be empty.
        bird_file: PathBuf::from(BIRD_DIRECTORY),
        version: GOBGP_VERSION.to_owned(),
    };
    advertise::render(&host, advertise::Flavour::Gobgp)
        .map_err(|error| Error::Program(format!("{}: GoBGP: {error}", node.name)))
}

/// Has the node's own daemons read what is rendered for it, in `directory`,
/// which exists, without starting them. (GoBGP's reading of its file looks for
/// the interfaces as well: only a hypervisor can do that.)
///
/// # Errors
/// A daemon doesn't take its file; the message is the daemon's.
pub fn check(fabric: &Fabric, node: &Node, directory: &Path) -> Result<()> {
    for (name, text) in daemon::render(&fabric.options, node, directory) {
        replace(&directory.join(name), &text)?;
    }
    for program in daemon::programs(node.flavour, &fabric.options) {
        parse(node.flavour, program, directory)?;
    }
    Ok(())
}

/// Has one program read its file in `directory`.
///
/// # Errors
/// It says anything of it at all: FRR's daemons exit with 0 whatever they find.
pub fn parse(flavour: Flavour, program: &str, directory: &Path) -> Result<()> {
    let name = daemon::process_name(program);
    let file = directory.join(format!("{name}.conf"));
    let mut command = Command::new(program);
    match flavour {
        Flavour::Frr => command.args(["--dryrun", "--config_file"]).arg(&file),
        Flavour::Bird => command.args(["-p", "-c"]).arg(&file),
    };
    let output = command
        .output()
        .map_err(Error::io(format!("running {program}")))?;
    let said = [output.stdout, output.stderr].concat();
    // What isn't about a mistake: a kernel without MPLS, and a remark on peers
    // that aren't there yet.
    let said: Vec<String> = String::from_utf8_lossy(&said)
        .lines()
        .filter(|line| !REMARKS.iter().any(|remark| line.contains(remark)))
        .map(str::to_owned)
        .collect();
    if output.status.success() && said.is_empty() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("{name} reading {}", file.display()),
        reason: said.join("; "),
    })
}

//! A node's power, and the state in which it is dead and looks alive.

use std::{fmt::Write as _, process::Stdio};

use nix::sys::signal::Signal;

use super::{GRACE, Lab};
use crate::{
    Error, Result, daemon,
    fabric::Node,
    netns,
    process::{self, Identity},
    topology::Flavour,
};

/// What becomes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Power {
    /// All its processes end at once, its links go down.
    Off,
    /// Links come up, its processes start, with the files that they had.
    On,
    /// Links stay up, and nothing moves any more: neither packets nor
    /// processes. `on` ends it.
    Frozen,
}

/// How routing daemons come to their end before they are started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGKILL to the one that speaks BGP.
    Killed,
    /// The way that keeps its neighbours' routes: BIRD is told to restart
    /// gracefully. FRR 8.4 knows none: on SIGTERM it says Cease with a hard
    /// reset (RFC 8538), which ends graceful restart; so all of its daemons are
    /// killed, and zebra's successor finds the routes in the kernel.
    Graceful,
    /// SIGTERM to the one that speaks BGP.
    Terminated,
}

impl Lab {
    /// Ends a router's daemons and starts them again.
    ///
    /// # Errors
    /// There is no such router, or its daemons don't end or start.
    pub fn renew(&self, node: &str, ending: Ending) -> Result<()> {
        let node = self.fabric().node(node)?;
        let programs = daemon::programs(node.flavour, &self.fabric().options);
        let processes = self.processes(&node.name)?;
        let mut all = programs.iter().map(|program| daemon::process_name(program));
        let ended: Vec<&str> = match (ending, node.flavour) {
            (Ending::Graceful, Flavour::Frr) => all.collect(),
            _ => all.next_back().into_iter().collect(),
        };
        let hit: Vec<Identity> = processes
            .into_iter()
            .filter(|process| ended.contains(&process.name().as_str()))
            .collect();
        if ending == Ending::Graceful && node.flavour == Flavour::Bird {
            let status = self
                .command(&node.name, "birdc")
                .args(["graceful", "restart"])
                .stdout(Stdio::null())
                .status()
                .map_err(Error::io(format!("running birdc in {}", node.name)))?;
            if !status.success() {
                let reason = format!("birdc in {} failed: {status}", node.name);
                return Err(Error::Program(reason));
            }
        } else {
            let signal = match ending {
                Ending::Terminated => Signal::SIGTERM,
                Ending::Killed | Ending::Graceful => Signal::SIGKILL,
            };
            for process in &hit {
                process.signal(signal);
            }
        }
        if !process::wait_gone(&hit, GRACE) {
            let reason = format!("{} on {}: some live on", ended.join(", "), node.name);
            return Err(Error::Program(reason));
        }
        for process in hit {
            daemon::sweep(process);
        }
        self.restart(&node.name)
    }

    /// Switches a router off, on, or leaves it frozen.
    ///
    /// # Errors
    /// There is no such router, or its processes or links don't obey.
    pub fn power(&self, node: &str, power: Power) -> Result<()> {
        let node = self.fabric().node(node)?;
        match power {
            Power::Off => self.power_off(node),
            Power::On => {
                self.links_of(node, true)?;
                self.forwarding(node, true)?;
                self.signal_all(node, Signal::SIGCONT)?;
                self.restart(&node.name)
            }
            Power::Frozen => {
                self.signal_all(node, Signal::SIGSTOP)?;
                self.forwarding(node, false)
            }
        }
    }

    fn power_off(&self, node: &Node) -> Result<()> {
        // Links first: nobody shall hear the sockets of the killed close.
        self.links_of(node, false)?;
        let processes = self.processes(&node.name)?;
        for process in &processes {
            process.signal(Signal::SIGKILL);
        }
        if !process::wait_gone(&processes, GRACE) {
            let reason = format!("{}: some of its processes can't be killed", node.name);
            return Err(Error::Program(reason));
        }
        for process in processes {
            daemon::sweep(process);
        }
        daemon::forget(&self.directory.node(&node.name));
        Ok(())
    }

    fn links_of(&self, node: &Node, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        let mut lines = String::new();
        for interface in &node.interfaces {
            let _ = writeln!(lines, "link set dev {} {state}", interface.peer);
        }
        netns::batch(Some(&self.namespace(&node.name)), &lines)
    }

    fn forwarding(&self, node: &Node, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        let settings = [
            ("ipv4.ip_forward", value),
            ("ipv6.conf.all.forwarding", value),
        ];
        netns::sysctl(&self.namespace(&node.name), &settings)
    }

    fn signal_all(&self, node: &Node, signal: Signal) -> Result<()> {
        for process in self.processes(&node.name)? {
            process.signal(signal);
        }
        Ok(())
    }
}

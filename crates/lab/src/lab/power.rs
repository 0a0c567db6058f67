//! A node's power, and the state in which it is dead and looks alive.

use std::fmt::Write as _;

use nix::sys::signal::Signal;

use super::{GRACE, Lab};
use crate::{Error, Result, daemon, fabric::Node, netns, process};

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

impl Lab {
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

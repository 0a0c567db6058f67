//! Waiting for a lab to come together.

use std::{
    collections::HashSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{Lab, timed};
use crate::{
    Error, Result, daemon,
    fabric::{Family, Node},
    netns, process,
    topology::Role,
};

/// Pause between two looks at a fabric that isn't there yet.
const POLL: Duration = Duration::from_millis(200);

impl Lab {
    /// Waits until every session is established, every switch has a route to
    /// every VM and hypervisor, and every agent is in sync with its source.
    ///
    /// # Errors
    /// It takes longer than `limit`; the message says what was missing last.
    pub fn wait(&self, limit: Duration) -> Result<()> {
        timed("all BGP sessions established", || {
            self.until("establishment of all sessions", limit, || {
                let down: Vec<String> = self
                    .fabric()
                    .nodes
                    .iter()
                    .filter_map(|node| {
                        let directory = self.directory.node(&node.name);
                        let up = daemon::sessions(node, &directory).unwrap_or_default();
                        let missing = node
                            .interfaces
                            .iter()
                            .find(|i| !up.iter().any(|s| s.established && s.peer == i.peer))?;
                        Some(format!("{}–{}", node.name, missing.peer))
                    })
                    .collect();
                Ok(down)
            })
        })?;
        timed("all routes on every switch", || {
            self.until("learning of all routes", limit, || self.missing_routes())
        })?;
        if self.state.agent.is_none() {
            return Ok(());
        }
        timed("all agents in sync", || {
            self.until("agents getting in sync", limit, || {
                let mut missing = Vec::new();
                for node in self.fabric().role(Role::Hypervisor) {
                    let agent = self.agent(&node.name)?;
                    if !agent.is_some_and(|agent| agent.in_sync()) {
                        missing.push(node.name.clone());
                    }
                }
                Ok(missing)
            })
        })
    }

    /// Calls `missing` until it finds nothing.
    ///
    /// # Errors
    /// The limit is over, `missing` fails, or a signal came.
    pub fn until(
        &self,
        what: &'static str,
        limit: Duration,
        mut missing: impl FnMut() -> Result<Vec<String>>,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let left = missing()?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                let shown: Vec<&str> = left.iter().take(8).map(String::as_str).collect();
                let more = if left.len() > shown.len() {
                    ", …"
                } else {
                    ""
                };
                return Err(Error::Timeout {
                    what,
                    seconds: limit.as_secs(),
                    missing: format!("{}{more} ({} in all)", shown.join(", "), left.len()),
                });
            }
            process::sleep(POLL)?;
        }
    }

    /// "switch lacks address" for each address of VMs and hypervisors that a
    /// switch has no route for, in the kernel.
    fn missing_routes(&self) -> Result<Vec<String>> {
        let missing = Mutex::new(Vec::new());
        let fabric = self.fabric();
        let switches: Vec<&Node> = fabric
            .nodes
            .iter()
            .filter(|n| n.role != Role::Hypervisor)
            .collect();
        netns::each(&switches, |node| {
            for family in Family::ALL {
                let namespace = self.namespace(&node.name);
                let text = netns::ip(&namespace, &[family.flag(), "route", "show"])?;
                let known: HashSet<&str> = text
                    .lines()
                    .filter_map(|line| line.split_ascii_whitespace().next())
                    .collect();
                let vms = fabric.vms.iter().map(|vm| vm.address(family));
                let hypervisors = fabric.role(Role::Hypervisor).map(|n| n.loopback(family));
                let mut missing = missing.lock().unwrap_or_else(|e| e.into_inner());
                for address in vms.chain(hypervisors).map(|a| a.to_string()) {
                    if !known.contains(address.as_str()) {
                        missing.push(format!("{} lacks {address}", node.name));
                    }
                }
            }
            Ok(())
        })?;
        Ok(missing.into_inner().unwrap_or_else(|e| e.into_inner()))
    }
}

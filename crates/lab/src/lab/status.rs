//! What a lab looks like: its routers, sessions and agents, and what they told
//! each other.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;

use super::Lab;
use crate::{
    Result, agent, daemon,
    fabric::{Family, Node},
    process::{self, Identity},
    topology::Role,
};

impl Lab {
    /// State of every router.
    ///
    /// # Errors
    /// /proc can't be read. A daemon that doesn't answer is a state.
    pub fn status(&self) -> Result<Vec<NodeStatus>> {
        let namespaces: Vec<String> = self.names_of_nodes().collect();
        let running = process::in_namespaces(&namespaces)?;
        let status = |node: &Node| {
            let none = Vec::new();
            let processes = running.get(&self.namespace(&node.name)).unwrap_or(&none);
            self.node_status(node, processes)
        };
        Ok(self.fabric().nodes.iter().map(status).collect())
    }

    fn names_of_nodes(&self) -> impl Iterator<Item = String> {
        self.fabric().nodes.iter().map(|n| self.namespace(&n.name))
    }

    fn node_status(&self, node: &Node, running: &[Identity]) -> NodeStatus {
        let names: HashSet<String> = running.iter().map(|p| p.name()).collect();
        let stopped: Vec<String> = daemon::programs(node.flavour, &self.fabric().options)
            .iter()
            .map(|program| daemon::process_name(program).to_owned())
            .filter(|name| !names.contains(name))
            .collect();
        let sessions = daemon::sessions(node, &self.directory.node(&node.name));
        let (established, down, problem) = match sessions {
            Ok(sessions) => {
                let down = node
                    .interfaces
                    .iter()
                    .filter(|i| !sessions.iter().any(|s| s.established && s.peer == i.peer))
                    .map(|i| i.peer.clone())
                    .collect::<Vec<_>>();
                (node.interfaces.len() - down.len(), down, None)
            }
            Err(error) => {
                let all = node.interfaces.iter().map(|i| i.peer.clone()).collect();
                (0, all, Some(error.to_string()))
            }
        };
        NodeStatus {
            name: node.name.clone(),
            role: node.role,
            daemon: node.flavour.to_string(),
            asn: node.asn,
            expected: node.interfaces.len(),
            established,
            down,
            stopped,
            problem,
            agent: self.agent_status(node, running),
        }
    }

    /// What the agent of a hypervisor says; None where there is none.
    ///
    /// # Errors
    /// There is no such router, or /proc can't be read.
    pub fn agent(&self, node: &str) -> Result<Option<AgentStatus>> {
        let node = self.fabric().node(node)?;
        Ok(self.agent_status(node, &self.processes(&node.name)?))
    }

    fn agent_status(&self, node: &Node, running: &[Identity]) -> Option<AgentStatus> {
        let binary = self.state.agent.as_ref()?;
        if node.role != Role::Hypervisor {
            return None;
        }
        if agent::process_of(running).is_none() {
            return Some(AgentStatus::Stopped);
        }
        Some(
            match agent::ask(binary, &self.agent_files(&node.name), "status") {
                Ok(value) => AgentStatus::Answers(value),
                Err(error) => AgentStatus::Silent(error.to_string()),
            },
        )
    }

    /// The prefixes that router `node` accepted from its neighbour `peer`.
    ///
    /// # Errors
    /// There is no such router, or its daemon doesn't answer.
    pub fn learned(&self, node: &str, peer: &str, family: Family) -> Result<BTreeSet<String>> {
        let node = self.fabric().node(node)?;
        daemon::learned(node, &self.directory.node(&node.name), peer, family)
    }

    /// The prefixes that router `node` announces to its neighbour `peer`.
    ///
    /// # Errors
    /// There is no such router, or its daemon doesn't answer.
    pub fn announced(&self, node: &str, peer: &str, family: Family) -> Result<BTreeSet<String>> {
        let node = self.fabric().node(node)?;
        daemon::announced(node, &self.directory.node(&node.name), peer, family)
    }

    /// What a hypervisor shall announce, and nothing else: its loopback and
    /// its VMs.
    #[must_use]
    pub fn own_prefixes(&self, node: &Node, family: Family) -> BTreeSet<String> {
        let length = match family {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        self.fabric()
            .vms_on(&node.name)
            .map(|vm| vm.address(family))
            .chain([node.loopback(family)])
            .map(|address| format!("{address}/{length}"))
            .collect()
    }
}

/// State of a router.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// Name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Flavour of its routing daemon.
    pub daemon: String,
    /// Autonomous system.
    pub asn: u32,
    /// BGP sessions there should be.
    pub expected: usize,
    /// BGP sessions established.
    pub established: usize,
    /// Neighbours without session.
    pub down: Vec<String>,
    /// Programs that don't run.
    pub stopped: Vec<String>,
    /// Why the daemon doesn't answer.
    pub problem: Option<String>,
    /// On a hypervisor: the agent.
    pub agent: Option<AgentStatus>,
}

impl NodeStatus {
    /// Whether all is as it should be, so far as it can be seen from outside.
    #[must_use]
    pub fn good(&self) -> bool {
        let agent = self.agent.as_ref().is_none_or(AgentStatus::in_sync);
        agent && self.established == self.expected && self.stopped.is_empty()
    }
}

/// State of an agent.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentStatus {
    /// It doesn't run.
    Stopped,
    /// It runs and doesn't answer; why.
    Silent(String),
    /// What it says.
    Answers(serde_json::Value),
}

impl AgentStatus {
    /// Whether the agent says that the kernel has what the intent asks for.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        match self {
            Self::Answers(value) => value["in_sync"] == true,
            Self::Stopped | Self::Silent(_) => false,
        }
    }
}

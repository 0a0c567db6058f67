//! Hypervisors by themselves: the agent, BIRD and taps, without a fabric.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{super::sync, cloud};
use crate::{
    Error, Result, agent,
    fabric::{Fabric, Node, Vm},
    lab::{Guard, Lab, Plan, unique_name},
    netns,
    topology::{Flavour, NodeSpec, Role, Topology},
};

/// A hypervisor that is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) ports: usize,
}

/// Makes the namespaces of hypervisors, each with BIRD and without an agent.
pub(super) fn lab(specs: &[Spec], sharing: usize) -> Result<(Guard, Vec<Host>)> {
    let spec = |spec: &Spec, vms| NodeSpec {
        name: spec.name.to_owned(),
        role: Role::Hypervisor,
        flavour: Flavour::Bird,
        vms,
    };
    let topology = |ports: bool| Topology {
        nodes: specs
            .iter()
            .map(|s| spec(s, if ports { s.ports } else { 0 }))
            .collect(),
        links: Vec::new(),
    };
    let lab = Guard::up(Plan {
        name: unique_name("bench"),
        topology: topology(false),
        agent: None,
        owned: true,
    })?;
    let planned = Fabric::new(&topology(true));
    let hosts = specs
        .iter()
        .map(|spec| Host::new(&lab, &planned, spec.name, sharing))
        .collect::<Result<_>>()?;
    Ok((lab, hosts))
}

/// A hypervisor.
pub(super) struct Host {
    lab: Lab,
    node: Node,
    pub(super) namespace: String,
    pub(super) files: agent::Files,
    pub(super) vms: Vec<Vm>,
    /// Ports in each group.
    sharing: usize,
}

impl Host {
    fn new(lab: &Lab, planned: &Fabric, name: &str, sharing: usize) -> Result<Self> {
        let node = lab.fabric().node(name)?.clone();
        let files = lab.agent_files(name);
        agent::configure(lab.fabric(), &node, &files)?;
        Ok(Self {
            namespace: lab.namespace(name),
            node,
            files,
            vms: planned.vms_on(name).cloned().collect(),
            lab: lab.clone(),
            // At least two groups, so that a port can get another's.
            sharing: sharing.min(planned.vms_on(name).count() / 2).max(1),
        })
    }

    /// Makes all taps, up, with nobody behind them.
    pub(super) fn make_taps(&self) -> Result<()> {
        let shed = self.namespace_beside("shed")?;
        // Nobody lives there: its ends of taps shall keep quiet.
        netns::sysctl(&shed, &[("ipv6.conf.default.disable_ipv6", "1")])?;
        let (mut links, mut here, mut there) = (String::new(), String::new(), String::new());
        for vm in &self.vms {
            let end = vm.tap.replace("tap", "end");
            let _ = writeln!(
                links,
                "link add name {end} netns {shed} address {} type veth peer name {} netns {}",
                vm.mac, vm.tap, self.namespace
            );
            let _ = writeln!(here, "link set dev {} up", vm.tap);
            let _ = writeln!(there, "link set dev {end} up");
        }
        netns::batch(None, &links)?;
        netns::batch(Some(&self.namespace), &here)?;
        netns::batch(Some(&shed), &there)
    }

    /// How many groups there are.
    pub(super) fn groups(&self) -> usize {
        self.vms.len().div_ceil(self.sharing)
    }

    /// The number of a port's group.
    pub(super) fn group_of(&self, place: usize) -> usize {
        place / self.sharing
    }

    /// A namespace that the lab takes down with it.
    pub(super) fn namespace_beside(&self, name: &str) -> Result<String> {
        let namespace = self.lab.namespace(&format!("{name}-{}", self.node.name));
        netns::create(std::slice::from_ref(&namespace))?;
        Ok(namespace)
    }

    /// Writes the intent: each port with its group.
    pub(super) fn write_intent(&self) -> Result<()> {
        for (name, document) in self.documents() {
            self.replace(&name, &document)?;
        }
        Ok(())
    }

    /// The document that the ports' documents refer to, which is there already.
    pub(super) fn network(&self) -> Value {
        agent::network(self.lab.fabric())
    }

    /// The documents of the intent, by name.
    pub(super) fn documents(&self) -> impl Iterator<Item = (String, Value)> {
        let group = |number| (format!("group-{number}"), cloud::group(number));
        let port = |(place, vm)| {
            let groups = [cloud::own(self.group_of(place))];
            (format!("port-{place}"), cloud::port(vm, 1, &groups))
        };
        let groups = (0..self.groups()).map(group);
        groups.chain(self.vms.iter().enumerate().map(port))
    }

    /// Replaces a document of the intent; when it was renamed into place.
    pub(super) fn replace(&self, name: &str, document: &Value) -> Result<Instant> {
        let path = self.files.intent().join(format!("{name}.json"));
        let aside = self.files.intent().join(format!(".{name}.new"));
        std::fs::write(&aside, document.to_string()).map_err(Error::file(&aside))?;
        let at = Instant::now();
        std::fs::rename(&aside, &path).map_err(Error::file(&path))?;
        Ok(at)
    }

    /// Starts the agent; when.
    pub(super) fn start(&self, binary: &Path) -> Result<Instant> {
        let at = Instant::now();
        agent::start(binary, &self.namespace, &self.files, &[])?;
        Ok(at)
    }

    /// Waits until the agent says that it is in sync with all ports wired.
    pub(super) fn in_sync(&self) -> Result<Instant> {
        sync::wait(&self.files.socket(), self.vms.len())
    }

    /// Kills the agent and removes what it left: its tables, and what it knows.
    pub(super) fn forget(&self) -> Result<()> {
        self.lab.kill(&self.node.name, agent::PROGRAM)?;
        self.nft(&["delete", "table", "inet", "l2isolate"], "")?;
        self.nft(&["delete", "table", "arp", "l2isolate"], "")?;
        let state: PathBuf = self.files.state();
        std::fs::remove_dir_all(&state)
            .and_then(|()| std::fs::create_dir(&state))
            .map_err(Error::file(&state))
    }

    /// The host's rules, without what they count.
    pub(super) fn ruleset(&self) -> Result<String> {
        self.nft(&["--stateless", "list", "ruleset"], "")
    }

    /// Runs `nft` on the host.
    pub(super) fn nft(&self, arguments: &[&str], input: &str) -> Result<String> {
        let file = self.files.intent().with_file_name("nft");
        std::fs::write(&file, input).map_err(Error::file(&file))?;
        let input = std::fs::File::open(&file).map_err(Error::file(&file))?;
        let output = netns::command(&self.namespace, "nft")
            .args(arguments)
            .stdin(input)
            .output()
            .map_err(Error::io("starting nft"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(Error::Command {
            command: format!("nft {}", arguments.join(" ")),
            reason: reason.trim().to_owned(),
        })
    }
}

/// For what goes on behind a change: the cache on disk, freed memory.
pub(super) const PAUSE: Duration = Duration::from_millis(30);

//! Hypervisors by themselves: the agent, BIRD and taps, without a fabric.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{super::sync, cloud::Intent};
use crate::{
    Error, Result, agent,
    fabric::{Fabric, Node, Vm},
    lab::{Guard, Lab, Plan, unique_name},
    netns,
    topology::{Flavour, NodeSpec, Options, Role, Topology},
};

/// A hypervisor that is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) ports: usize,
}

/// Makes the namespaces of hypervisors, each with BIRD and without an agent.
pub(super) fn lab(specs: &[Spec]) -> Result<(Guard, Vec<Host>)> {
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
        options: Options::default(),
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
        .map(|spec| Host::new(&lab, &planned, *spec))
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
    pub(super) spec: Spec,
}

impl Host {
    fn new(lab: &Lab, planned: &Fabric, spec: Spec) -> Result<Self> {
        let name = spec.name;
        let node = lab.fabric().node(name)?.clone();
        let files = lab.agent_files(name);
        agent::configure(lab.fabric(), &node, &files)?;
        Ok(Self {
            namespace: lab.namespace(name),
            node,
            files,
            vms: planned.vms_on(name).cloned().collect(),
            lab: lab.clone(),
            spec,
        })
    }

    /// Makes all taps, up, with nobody behind them; but the guest's end of the
    /// one at `own` is `eth0` of a namespace of its own, which is returned. It
    /// has no address and not the port's hardware address.
    pub(super) fn make_taps(&self, own: Option<usize>) -> Result<Option<String>> {
        let shed = self.namespace_beside("shed")?;
        let guest = own.map(|_| self.namespace_beside("guest")).transpose()?;
        let mut lines: BTreeMap<&str, String> = BTreeMap::new();
        let mut links = String::new();
        for (place, vm) in self.vms.iter().enumerate() {
            let (namespace, end) = match &guest {
                Some(guest) if own == Some(place) => (guest, "eth0".to_owned()),
                _ => (&shed, vm.tap.replace("tap", "end")),
            };
            let tap = (&vm.tap, &self.namespace);
            let _ = writeln!(
                links,
                "link add name {end} netns {namespace} type veth peer name {} netns {}",
                tap.0, tap.1
            );
            for (namespace, device) in [(namespace, &end), (tap.1, tap.0)] {
                let lines = lines.entry(namespace).or_default();
                let _ = writeln!(lines, "link set dev {device} up");
            }
        }
        // Nobody lives there: these ends shall keep quiet.
        for namespace in [Some(&shed), guest.as_ref()].into_iter().flatten() {
            netns::sysctl(namespace, &[("ipv6.conf.default.disable_ipv6", "1")])?;
        }
        netns::batch(None, &links)?;
        for (namespace, lines) in lines {
            netns::batch(Some(namespace), &lines)?;
        }
        Ok(guest)
    }

    /// A namespace that the lab takes down with it.
    pub(super) fn namespace_beside(&self, name: &str) -> Result<String> {
        let namespace = self.lab.namespace(&format!("{name}-{}", self.node.name));
        netns::create(std::slice::from_ref(&namespace))?;
        Ok(namespace)
    }

    /// Adds lines to the agent's configuration, before it is started.
    pub(super) fn configure(&self, lines: &str) -> Result<()> {
        let path = self.files.config();
        let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
        std::fs::write(&path, text + lines).map_err(Error::file(&path))
    }

    /// Writes the intent, for the agent to find when it starts.
    pub(super) fn write_intent(&self, intent: &Intent) -> Result<()> {
        for (name, document) in intent.documents(&self.vms) {
            self.replace(&name, &document)?;
        }
        Ok(())
    }

    /// The document that the ports' documents refer to, which is there already.
    pub(super) fn network(&self) -> Value {
        agent::network(self.lab.fabric())
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
    ///
    /// Its words in order: the kernel gives the elements of hash sets as they lie,
    /// which is no part of what they say.
    pub(super) fn ruleset(&self) -> Result<Vec<String>> {
        let listed = self.nft(&["--stateless", "list", "ruleset"], "")?;
        let words = listed.split([' ', '\t', '\n', ',', '"']);
        let mut words: Vec<String> = words.map(str::to_owned).collect();
        words.sort_unstable();
        Ok(words)
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

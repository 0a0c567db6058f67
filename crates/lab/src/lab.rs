//! A lab from start to end.
//!
//! [`Lab::up`] builds one, [`Lab::open`] finds one that is there, [`down`]
//! removes one in whatever state it is. A lab that a run of its own needs no
//! longer than itself (a demo, a test) is held by a [`Guard`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io::Write as _,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    Error, Result, agent, daemon,
    fabric::{Fabric, Family, Node},
    netns,
    process::{self, Identity},
    state::{self, Directory, State},
    topology::{Flavour, Role, Topology},
    wiring::{self, Names},
};

/// How long daemons may take to end in order.
const GRACE: Duration = Duration::from_secs(3);
/// Pause between two looks at a fabric that isn't there yet.
const POLL: Duration = Duration::from_millis(200);

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    name: String,
    names: Names,
    directory: Directory,
    state: State,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The lab's name.
    pub name: String,
    /// The fabric.
    pub topology: Topology,
    /// The agent's binary; None: hypervisors run without agent, their taps are
    /// up to somebody else.
    pub agent: Option<PathBuf>,
    /// Whether the lab ends with this process ([`down_dead`] removes it then).
    pub owned: bool,
}

/// One step of progress, to standard error.
pub fn progress(line: &str) {
    // Nobody to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if process::interrupted() {
        return Err(Error::Interrupted);
    }
    let start = Instant::now();
    let result = work()?;
    progress(&format!(
        "  {what:<44} {:>6.2} s",
        start.elapsed().as_secs_f64()
    ));
    Ok(result)
}

impl Lab {
    /// Builds a lab and starts everything in it; what was made is removed
    /// again if something fails.
    ///
    /// # Errors
    /// The name is taken, a program is missing, or the kernel or iproute2
    /// refuse something.
    pub fn up(plan: Plan) -> Result<Self> {
        let directory = Directory::of(&plan.name)?;
        let fabric = Fabric::new(&plan.topology);
        for node in &fabric.nodes {
            daemon::check_installed(node.flavour)?;
        }
        let mut lab = Self {
            names: Names::of(&plan.name),
            directory,
            state: State {
                owner: Identity::own(),
                agent: plan.agent,
                fabric,
            },
            name: plan.name,
        };
        lab.directory.create(&lab.name, &lab.state)?;
        let built = lab.build().and_then(|()| {
            if plan.owned {
                return Ok(());
            }
            lab.state.owner = None;
            lab.directory.save(&lab.state)
        });
        if let Err(error) = built {
            progress(&format!("taking lab `{}` down again: {error}", lab.name));
            down(&lab.name)?;
            return Err(error);
        }
        Ok(lab)
    }

    fn build(&self) -> Result<()> {
        let fabric = self.fabric();
        let (nodes, vms) = (fabric.nodes.len(), fabric.vms.len());
        progress(&format!(
            "lab `{}`: {nodes} routers, {} links, {vms} VMs",
            self.name,
            fabric.links.len(),
        ));
        timed(&format!("{} namespaces", nodes + vms), || {
            wiring::namespaces(fabric, &self.names)
        })?;
        timed(&format!("{} links", fabric.links.len() + vms), || {
            wiring::links(fabric, &self.names)
        })?;
        timed("addresses of routers", || {
            wiring::routers(fabric, &self.names)
        })?;
        // FRR first, all of it: an unnumbered FRR learns a BIRD by its router
        // advertisements, and the first should not be missed.
        for flavour in [Flavour::Frr, Flavour::Bird] {
            let nodes: Vec<&Node> = fabric
                .nodes
                .iter()
                .filter(|n| n.flavour == flavour)
                .collect();
            if nodes.is_empty() {
                continue;
            }
            timed(&format!("{} × {flavour} started", nodes.len()), || {
                netns::each(&nodes, |node| self.start_daemons(node))
            })?;
        }
        if let Some(binary) = &self.state.agent {
            let hypervisors: Vec<&Node> = fabric.role(Role::Hypervisor).collect();
            timed(&format!("{} agents started", hypervisors.len()), || {
                netns::each(&hypervisors, |node| {
                    let files = self.agent_files(&node.name);
                    agent::configure(fabric, node, &files)?;
                    agent::start(binary, &self.namespace(&node.name), &files, &[])
                })
            })?;
        }
        timed(&format!("{vms} VMs"), || {
            wiring::guests(fabric, &self.names)
        })
    }

    fn start_daemons(&self, node: &Node) -> Result<()> {
        let directory = self.directory.node(&node.name);
        std::fs::create_dir(&directory).map_err(Error::file(&directory))?;
        daemon::configure(node, &directory)?;
        daemon::start(node, &self.namespace(&node.name), &directory, &[])
    }

    /// A lab that is up already.
    ///
    /// # Errors
    /// There is none of that name, or it was never finished.
    pub fn open(name: &str) -> Result<Self> {
        let directory = Directory::of(name)?;
        let Some(state) = directory.load(name)? else {
            return Err(Error::Program(format!(
                "lab `{name}` was never finished; `l2isolate-lab down --name {name}` removes it"
            )));
        };
        Ok(Self {
            name: name.to_owned(),
            names: Names::of(name),
            directory,
            state,
        })
    }

    /// What the lab consists of.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.state.fabric
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace of a router or VM.
    #[must_use]
    pub fn namespace(&self, node: &str) -> String {
        self.names.of_node(node)
    }

    /// The files of a hypervisor's agent.
    #[must_use]
    pub fn agent_files(&self, node: &str) -> agent::Files {
        agent::Files::below(&self.directory.node(node))
    }

    /// The agent's binary.
    #[must_use]
    pub fn agent_binary(&self) -> Option<&PathBuf> {
        self.state.agent.as_ref()
    }

    /// The processes in a node's namespace.
    ///
    /// # Errors
    /// /proc can't be read.
    pub fn processes(&self, node: &str) -> Result<Vec<Identity>> {
        let namespace = self.namespace(node);
        let mut all = process::in_namespaces(std::slice::from_ref(&namespace))?;
        Ok(all.remove(&namespace).unwrap_or_default())
    }

    /// Runs a command in a node or VM, with this process's input and output.
    ///
    /// # Errors
    /// There is no such node, or the command can't be started.
    pub fn exec(&self, node: &str, command: &[String]) -> Result<ExitStatus> {
        self.check_known(node)?;
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| Error::Program("exec: no command given".to_owned()))?;
        netns::command(&self.namespace(node), program)
            .args(arguments)
            .status()
            .map_err(Error::io(format!("running {program} in {node}")))
    }

    fn check_known(&self, name: &str) -> Result<()> {
        if self.fabric().vm(name).is_ok() {
            return Ok(());
        }
        self.fabric().node(name).map(|_| ())
    }

    /// Takes a link down, or up again: the port of the switch nearer to the
    /// spines, so that the other end sees its carrier go as from a cut cable.
    ///
    /// # Errors
    /// The two aren't linked.
    pub fn set_link(&self, a: &str, b: &str, up: bool) -> Result<()> {
        self.check_known(a)?;
        self.check_known(b)?;
        let state = if up { "up" } else { "down" };
        let fabric = self.fabric();
        let (node, interface) = if let Ok(vm) = fabric.vm(a).or_else(|_| fabric.vm(b)) {
            if vm.host != a && vm.host != b {
                return Err(Error::Program(format!("{} runs on {}", vm.name, vm.host)));
            }
            (vm.host.clone(), vm.tap.clone())
        } else {
            let link = fabric.links.iter().find(|link| {
                let [x, y] = &link.ends;
                (x.node == a && y.node == b) || (x.node == b && y.node == a)
            });
            let Some([upper, lower]) = link.map(|link| &link.ends) else {
                return Err(Error::Program(format!("there is no link from {a} to {b}")));
            };
            (upper.node.clone(), lower.node.clone())
        };
        let line = format!("link set dev {interface} {state}\n");
        netns::batch(Some(&self.namespace(&node)), &line)
    }

    /// Kills a daemon of a router with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// No such daemon runs there.
    pub fn kill(&self, node: &str, daemon: &str) -> Result<()> {
        self.fabric().node(node)?;
        let processes = self.processes(node)?;
        let hit: Vec<Identity> = processes
            .iter()
            .copied()
            .filter(|p| p.name() == daemon)
            .collect();
        if hit.is_empty() {
            let mut names: Vec<String> = processes.iter().map(|p| p.name()).collect();
            names.sort();
            names.dedup();
            return Err(Error::UnknownNode {
                name: daemon.to_owned(),
                wanted: "a daemon that runs on this router",
                known: names.join(", "),
            });
        }
        for process in &hit {
            process.signal(nix::sys::signal::Signal::SIGKILL);
        }
        if !process::wait_gone(&hit, GRACE) {
            return Err(Error::Program(format!("{daemon} on {node} lives on")));
        }
        for process in hit {
            daemon::sweep(process);
        }
        Ok(())
    }

    /// Starts what doesn't run on a router: routing daemons and agent.
    ///
    /// # Errors
    /// Something can't be started.
    pub fn restart(&self, node: &str) -> Result<()> {
        let node = self.fabric().node(node)?;
        let running = self.processes(&node.name)?;
        let namespace = self.namespace(&node.name);
        let directory = self.directory.node(&node.name);
        daemon::start(node, &namespace, &directory, &running)?;
        match (&self.state.agent, node.role) {
            (Some(binary), Role::Hypervisor) => {
                agent::start(binary, &namespace, &self.agent_files(&node.name), &running)
            }
            _ => Ok(()),
        }
    }

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
        let stopped: Vec<String> = daemon::programs(node.flavour)
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
        Some(match agent::status(binary, &self.agent_files(&node.name)) {
            Ok(value) => AgentStatus::Answers(value),
            Err(error) => AgentStatus::Silent(error.to_string()),
        })
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

    /// Waits until every session is established and every switch has a route
    /// to every VM and hypervisor.
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
        let missing = std::sync::Mutex::new(Vec::new());
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

/// Takes a lab down in whatever state it is: ends the processes in its
/// namespaces, removes the namespaces and the directory.
///
/// # Errors
/// There is nothing of that name, or something can't be removed.
pub fn down(name: &str) -> Result<()> {
    let lock = state::lock()?;
    down_locked(name, &lock)
}

fn down_locked(name: &str, lock: &state::Lock) -> Result<()> {
    let directory = Directory::of(name)?;
    let namespaces = netns::list(Names::of(name).prefix())?;
    if namespaces.is_empty() && !directory.path().exists() {
        return Err(Error::NoLab(name.to_owned()));
    }
    let by_node: HashMap<String, Vec<Identity>> = process::in_namespaces(&namespaces)?;
    // This process itself may have a socket there, but is not of the lab.
    let own = std::process::id();
    let processes: Vec<Identity> = by_node
        .into_values()
        .flatten()
        .filter(|p| p.pid != own)
        .collect();
    if !process::end(&processes, GRACE) {
        return Err(Error::Program(format!(
            "lab `{name}`: some of its processes can't be killed; try again"
        )));
    }
    for process in &processes {
        daemon::sweep(*process);
    }
    netns::delete(&namespaces)?;
    directory.remove(lock)
}

/// Takes down all labs whose owner has died; returns their names.
///
/// # Errors
/// One can't be taken down.
pub fn down_dead() -> Result<Vec<String>> {
    let mut gone = Vec::new();
    if state::labs()?.is_empty() {
        return Ok(gone);
    }
    let lock = state::lock()?;
    for name in state::labs()? {
        let Ok(directory) = Directory::of(&name) else {
            continue;
        };
        // Without a state nobody can tell; it may be coming up just now.
        let Ok(Some(state)) = directory.load(&name) else {
            continue;
        };
        if state.owner.is_some_and(|owner| !owner.lives()) {
            down_locked(&name, &lock)?;
            gone.push(name);
        }
    }
    Ok(gone)
}

/// A lab that goes with its holder, also when a test panics.
#[derive(Debug)]
pub struct Guard {
    lab: Lab,
    done: bool,
}

impl Guard {
    /// Builds a lab to be held; `plan.owned` is taken as true.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up(plan: Plan) -> Result<Self> {
        let plan = Plan {
            owned: true,
            ..plan
        };
        Ok(Self {
            lab: Lab::up(plan)?,
            done: false,
        })
    }

    /// Takes the lab down and says whether that went well.
    ///
    /// # Errors
    /// As [`down`].
    pub fn down(mut self) -> Result<()> {
        self.done = true;
        down(&self.lab.name)
    }
}

impl std::ops::Deref for Guard {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Err(error) = down(&self.lab.name) {
            progress(&format!("taking lab `{}` down: {error}", self.lab.name));
        }
    }
}

/// A name for a lab that nobody else will choose: for demos and tests.
#[must_use]
pub fn unique_name(kind: &str) -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{kind}{:x}{:x}", std::process::id(), since.subsec_micros())
}

/// Counts of nodes by role, for one-line summaries.
#[must_use]
pub fn counts(fabric: &Fabric) -> BTreeMap<Role, usize> {
    let mut counts = BTreeMap::new();
    for node in &fabric.nodes {
        *counts.entry(node.role).or_default() += 1;
    }
    counts
}

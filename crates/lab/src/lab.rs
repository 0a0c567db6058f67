//! A lab from start to end.
//!
//! [`Lab::up`] builds one, [`Lab::open`] finds one that is there, [`down`]
//! removes one in whatever state it is. A lab that a run of its own needs no
//! longer than itself (a demo, a test) is held by a [`Guard`].

mod end;
mod power;
mod status;
mod wait;

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

pub use end::{Guard, down, down_dead, unique_name};
pub use power::{Ending, Power};
pub use status::{AgentStatus, NodeStatus};

use crate::{
    Error, Result, agent, daemon,
    fabric::{Fabric, Node},
    netns,
    process::{self, Identity},
    state::{Directory, State},
    topology::{Flavour, Role, Topology},
    wiring::{self, Names},
};

/// How long daemons may take to end in order.
const GRACE: Duration = Duration::from_secs(3);

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

pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
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
            daemon::check_installed(node.flavour, &fabric.options)?;
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
        if nodes + vms == 0 {
            return Ok(());
        }
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
        let options = &self.fabric().options;
        daemon::configure(options, node, &directory)?;
        daemon::start(options, node, &self.namespace(&node.name), &directory, &[])
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

    /// The directory of a node's files.
    #[must_use]
    pub fn directory(&self, node: &str) -> PathBuf {
        self.directory.node(node)
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
        self.command(node, program)
            .args(arguments)
            .status()
            .map_err(Error::io(format!("running {program} in {node}")))
    }

    /// A command in a node or VM. In a router, `vtysh` and `birdc` are found
    /// first that speak with the router's own daemons, FRR_CONF is the file of
    /// bgpd's configuration and BIRD_DRAIN the one that a BIRD switch's
    /// configuration includes.
    pub fn command(&self, node: &str, program: &str) -> Command {
        let mut command = netns::command(&self.namespace(node), program);
        if self.fabric().node(node).is_ok() {
            command.envs(daemon::environment(&self.directory.node(node)));
        }
        command
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
        daemon::start(
            &self.fabric().options,
            node,
            &namespace,
            &directory,
            &running,
        )?;
        match (&self.state.agent, node.role) {
            (Some(binary), Role::Hypervisor) => {
                agent::start(binary, &namespace, &self.agent_files(&node.name), &running)
            }
            _ => Ok(()),
        }
    }
}

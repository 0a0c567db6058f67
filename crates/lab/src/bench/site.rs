//! Where it is measured: a small fabric with one hypervisor full of ports.
//!
//! Two spines, two racks of two ToRs and one hypervisor each. The first
//! hypervisor runs one VM, the far end of probes. The ports under test are
//! planned for the other one; their taps appear when the bench says so.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use crate::{
    Error, Result, agent,
    fabric::{Fabric, Vm},
    lab::{Guard, Plan, unique_name},
    netns,
    topology::{self, Mix, Role, Shape, Topology},
    wiring::guest_lines,
};

/// How long the fabric may take to come together.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// A namespace for the far ends of taps that no probe uses.
const SHED: &str = "shed";

/// What to build.
pub(super) struct Options {
    pub(super) fabric: Mix,
    /// Of the fabric.
    pub(super) options: topology::Options,
    /// Ports under test.
    pub(super) ports: usize,
}

/// The fabric and the ports.
pub(super) struct Site {
    pub(super) lab: Guard,
    /// The hypervisor with the ports.
    pub(super) host: String,
    pub(super) host_namespace: String,
    /// The VM in the other rack.
    pub(super) far: Vm,
    /// The ports under test.
    pub(super) vms: Vec<Vm>,
}

impl Site {
    /// Builds the fabric, and a namespace for every VM that `probed` picks by
    /// its place.
    ///
    /// # Errors
    /// The lab can't be built, or doesn't converge.
    pub(super) fn up(
        fabric: Mix,
        agent: PathBuf,
        ports: usize,
        probed: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let plan = Options {
            fabric,
            options: topology::Options::default(),
            ports,
        };
        Self::with(&plan, agent, probed)
    }

    /// The same, with options of the fabric.
    ///
    /// # Errors
    /// As [`Site::up`].
    pub(super) fn with(
        plan: &Options,
        agent: PathBuf,
        probed: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let shape = Shape {
            spines: 2,
            racks: 2,
            tors: 2,
            hypervisors: 1,
            vms: 0,
        };
        let mut topology = Topology::regular(shape, plan.fabric);
        topology.options = plan.options.clone();
        let mut hypervisors = topology
            .nodes
            .iter_mut()
            .filter(|n| n.role == Role::Hypervisor);
        if let Some(first) = hypervisors.next() {
            first.vms = 1;
        }
        let mut full = topology.clone();
        if let Some(last) = full.nodes.last_mut() {
            last.vms = plan.ports;
        }
        let lab = Guard::up(Plan {
            name: unique_name("bench"),
            topology,
            agent: Some(agent),
            owned: true,
        })?;
        lab.wait(CONVERGENCE)?;
        let planned = Fabric::new(&full);
        let nothing = || Error::Program("the bench's fabric has no hypervisor".to_owned());
        let far = lab.fabric().vms.first().ok_or_else(nothing)?.clone();
        let host = planned.nodes.last().ok_or_else(nothing)?.name.clone();
        let vms: Vec<Vm> = planned.vms_on(&host).cloned().collect();
        let site = Self {
            host_namespace: lab.namespace(&host),
            lab,
            host,
            far,
            vms,
        };
        site.make_guests(probed)?;
        Ok(site)
    }

    /// Where the guest's end of a port is.
    pub(super) fn guest_namespace(&self, vm: &Vm, probed: bool) -> String {
        self.lab.namespace(if probed { &vm.name } else { SHED })
    }

    /// Makes the guests' namespaces, in which their taps wait.
    fn make_guests(&self, probed: impl Fn(usize) -> bool) -> Result<()> {
        let shed = self.lab.namespace(SHED);
        let own: Vec<&Vm> = (self.vms.iter().enumerate())
            .filter(|(place, _)| probed(*place))
            .map(|(_, vm)| vm)
            .collect();
        let mut namespaces: Vec<String> = (own.iter())
            .map(|vm| self.guest_namespace(vm, true))
            .collect();
        namespaces.push(shed.clone());
        netns::create(&namespaces)?;
        // Nobody lives there: its ends of taps shall keep quiet.
        netns::sysctl(&shed, &[("ipv6.conf.default.disable_ipv6", "1")])?;
        let mut lines = String::new();
        for (place, vm) in self.vms.iter().enumerate() {
            let namespace = self.guest_namespace(vm, probed(place));
            let end = end(vm, probed(place));
            let _ = writeln!(
                lines,
                "link add name {end} netns {namespace} address {} \
                 type veth peer name {} netns {namespace}",
                vm.mac, vm.tap
            );
        }
        netns::each(&own, |vm| {
            let settings = [
                ("ipv6.conf.default.accept_dad", "0"),
                ("ipv6.conf.default.accept_ra", "0"),
            ];
            netns::sysctl(&self.guest_namespace(vm, true), &settings)
        })?;
        netns::batch(None, &lines)
    }

    /// The line for `ip -batch` in the guest's namespace by which a tap appears
    /// and is switched on, by one request. As from Nova, it has no carrier yet.
    pub(super) fn tap_line(&self, vm: &Vm) -> String {
        format!("link set dev {} netns {} up\n", vm.tap, self.host_namespace)
    }

    /// The lines by which the guest starts, as when QEMU opens the tap: carrier,
    /// and, if it is probed, addresses and routes.
    pub(super) fn start_lines(vm: &Vm, probed: bool) -> String {
        if probed {
            guest_lines(vm)
        } else {
            format!("link set dev {} up\n", end(vm, probed))
        }
    }

    /// A probed port's tap appears, and its guest starts.
    ///
    /// # Errors
    /// `ip` refuses something.
    pub(super) fn start(&self, vm: &Vm) -> Result<()> {
        let mut guest = Ip::open(&self.guest_namespace(vm, true))?;
        guest.say(&self.tap_line(vm))?;
        guest.say(&Self::start_lines(vm, true))?;
        guest.finish()
    }

    /// Gives the agent the intent of all ports.
    ///
    /// # Errors
    /// The file can't be written.
    pub(super) fn write_intent(&self) -> Result<()> {
        let ports: Vec<&Vm> = self.vms.iter().collect();
        let files = self.lab.agent_files(&self.host);
        agent::write_intent(&files, "ports", &agent::ports(&ports))
    }
}

/// The guest's end of the tap.
pub(super) fn end(vm: &Vm, probed: bool) -> String {
    if probed {
        "eth0".to_owned()
    } else {
        vm.tap.replace("tap", "end")
    }
}

/// An `ip -batch` that is running already and does what it is told at once,
/// so that starting a program is not part of what is measured.
pub(super) struct Ip {
    child: Child,
    input: Option<ChildStdin>,
}

impl Ip {
    /// Starts one inside a namespace.
    ///
    /// # Errors
    /// `ip` can't be started.
    pub(super) fn open(namespace: &str) -> Result<Self> {
        let mut child = Command::new("ip")
            .args(["-netns", namespace, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::io("starting ip -batch"))?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// Has it carry out lines; doesn't wait for them.
    ///
    /// # Errors
    /// It has ended since an earlier line was refused.
    pub(super) fn say(&mut self, lines: &str) -> Result<()> {
        match &mut self.input {
            Some(input) => input
                .write_all(lines.as_bytes())
                .map_err(Error::io("telling ip -batch")),
            None => Ok(()),
        }
    }

    /// Waits until all is done.
    ///
    /// # Errors
    /// A line was refused; `ip` has said on standard error which.
    pub(super) fn finish(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.child.wait().map_err(Error::io("waiting for ip"))?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Program(
            "ip -batch was refused a line; see above".to_owned(),
        ))
    }
}

impl Drop for Ip {
    /// Its input's end ends it.
    fn drop(&mut self) {
        if let Some(input) = self.input.take() {
            drop(input);
            let _ = self.child.wait();
        }
    }
}

//! One hypervisor with a real agent: its taps appear all at once.

use std::{
    collections::HashSet,
    fmt::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    super::{
        filter::generation::Commits,
        message::{self, News},
        monitor::Monitor,
        site::Ip,
        stats, sync,
        usage::Usage,
        wiring::Wiring,
    },
    Cloud, Report, cpu,
};
use crate::{
    Error, Result,
    agent::{self, Files},
    fabric::{Fabric, GATEWAY4, GATEWAY6, VM_PREFIX4, VM_PREFIX6, Vm},
    lab::{Guard, Plan, progress, unique_name},
    netns,
    neutron::{Options, Release, Rig},
    process::{self, Identity},
    topology::{Mix, Role, Shape, Topology},
};

/// How many ports one POST makes.
const AT_ONCE: usize = 20;
/// Longest wait: what is compared with this took four minutes.
const LIMIT: Duration = Duration::from_secs(600);
/// How many rules are put in, one after the other.
const RULES: u16 = 11;
/// After this without a commit the agent has done what it had to do.
const QUIET: Duration = Duration::from_millis(500);
const SHED: &str = "shed";

/// The hypervisor.
struct Host<'a> {
    cloud: Cloud<'a>,
    agent: &'a Path,
    namespace: String,
    files: Files,
    lab: &'a Guard,
    name: String,
    group: String,
    vms: Vec<Vm>,
}

/// Measures.
pub(super) fn run(agent: &Path, release: Release, ports: usize, report: &mut Report) -> Result<()> {
    let shape = Shape {
        spines: 1,
        racks: 2,
        tors: 2,
        hypervisors: 1,
        vms: 0,
    };
    let topology = Topology::regular(shape, Mix::Bird);
    let mut full = topology.clone();
    if let Some(last) = full.nodes.last_mut() {
        last.vms = ports;
    }
    let lab = Guard::up(Plan {
        name: unique_name("bench"),
        topology,
        agent: None,
        owned: true,
    })?;
    let rig = Rig::up(&lab, Options::new(release)?)?;
    let host = Host::up(&lab, &rig, agent, &Fabric::new(&full))?;
    host.boot(report)?;
    host.rules(report)?;
    host.restart(report)?;
    report.agent_rss_mib = report.agent_rss_mib.max(host.usage()?.rss_mib);
    rig.down()?;
    lab.down()
}

impl<'a> Host<'a> {
    /// With its ports in Neutron, and its agent started before them.
    fn up(lab: &'a Guard, rig: &'a Rig, agent: &'a Path, planned: &Fabric) -> Result<Self> {
        let node = lab.fabric().role(Role::Hypervisor).last();
        let node = node.ok_or_else(|| Error::Program("no hypervisor".to_owned()))?;
        let files = lab.agent_files(&node.name);
        let config = files.config();
        let directory = config.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory).map_err(Error::file(directory))?;
        agent::configure_for_neutron(node, &files, &rig.transport_url(), "")?;
        let mut cloud = Cloud {
            rig,
            network: String::new(),
            subnet: String::new(),
        };
        cloud.network = cloud.create("network", json!({"name": "bench"}))?;
        let subnet = |version, cidr: String, gateway: String| {
            json!({"network_id": cloud.network, "ip_version": version, "cidr": cidr,
                   "gateway_ip": gateway})
        };
        let (prefix, length) = VM_PREFIX4;
        let four = subnet(4, format!("{prefix}/{length}"), GATEWAY4.to_string());
        let (prefix, length) = VM_PREFIX6;
        let six = subnet(6, format!("{prefix}/{length}"), GATEWAY6.to_string());
        let subnets = [cloud.create("subnet", four)?, cloud.create("subnet", six)?];
        let group = cloud.group()?;
        let mut host = Self {
            namespace: lab.namespace(&node.name),
            files,
            name: node.name.clone(),
            vms: planned.vms_on(&node.name).cloned().collect(),
            cloud,
            agent,
            lab,
            group,
        };
        agent::start(agent, &host.namespace, &host.files, &[])?;
        sync::wait(&host.files.socket(), 0)?;
        host.make_ports(&subnets)?;
        Ok(host)
    }

    fn make_ports(&mut self, subnets: &[String; 2]) -> Result<()> {
        let start = Instant::now();
        for some in self.vms.chunks_mut(AT_ONCE) {
            let ports: Vec<Value> = some
                .iter()
                .map(|vm| {
                    json!({
                        "network_id": self.cloud.network, "binding:host_id": self.name,
                        "device_owner": "compute:nova", "device_id": vm.port,
                        "mac_address": vm.mac, "security_groups": [self.group],
                        "fixed_ips": [
                            {"subnet_id": subnets[0], "ip_address": vm.address4},
                            {"subnet_id": subnets[1], "ip_address": vm.address6},
                        ],
                    })
                })
                .collect();
            let answer = self
                .cloud
                .ask("POST", "ports", &json!({ "ports": ports }))?;
            let made = answer.get("ports").and_then(Value::as_array);
            for port in made.into_iter().flatten() {
                let text = |key| port.get(key).and_then(Value::as_str).unwrap_or_default();
                let vm = some.iter_mut().find(|vm| vm.mac == text("mac_address"));
                if let (Some(vm), Some(short)) = (vm, text("id").get(..11)) {
                    vm.tap = format!("tap{short}");
                    text("id").clone_into(&mut vm.port);
                }
            }
        }
        progress(&format!(
            "  {} ports made in {:.1} s",
            self.vms.len(),
            start.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn process(&self) -> Result<Identity> {
        let running = self.lab.processes(&self.name)?;
        agent::process_of(&running).ok_or_else(|| Error::Program("the agent has ended".to_owned()))
    }

    fn usage(&self) -> Result<Usage> {
        Usage::of_agent(self.lab, &self.name)
    }

    fn active(&self) -> Result<usize> {
        let count = "select count(*) from ports where status='ACTIVE'";
        self.cloud.count(count)
    }

    /// All taps at once.
    fn boot(&self, report: &mut Report) -> Result<()> {
        let shed = self.lab.namespace(SHED);
        netns::create(std::slice::from_ref(&shed))?;
        netns::sysctl(&shed, &[("ipv6.conf.default.disable_ipv6", "1")])?;
        let mut make = String::new();
        let mut open = String::new();
        for vm in &self.vms {
            let end = vm.tap.replace("tap", "end");
            let _ = writeln!(
                make,
                "link add name {end} netns {shed} type veth peer name {} netns {shed}",
                vm.tap
            );
            let _ = writeln!(open, "link set dev {} netns {} up", vm.tap, self.namespace);
        }
        netns::batch(None, &make)?;
        process::sleep(Duration::from_secs(3))?;
        let commits = Commits::listen(&self.namespace)?;
        let monitor = Monitor::open(&self.namespace, message::FEED)?;
        let pid = self.process()?.pid;
        let before = cpu(pid);
        let mut ip = Ip::open(&shed)?;
        ip.say(&open)?;
        let (appeared, wired) = self.wired(&monitor)?;
        ip.finish()?;
        let end = Instant::now() + LIMIT;
        while self.active()? < self.vms.len() {
            if Instant::now() > end {
                return Err(Error::Timeout {
                    what: "all ports being ACTIVE",
                    seconds: LIMIT.as_secs(),
                    missing: format!("{} are", self.active()?),
                });
            }
            process::sleep(Duration::from_millis(20))?;
        }
        let active = Instant::now();
        report.agent_cpu_s = cpu(pid) - before;
        // The firewall's part of a port is there before its tap, if its port is.
        let (filtered, count) = commits.within(QUIET, QUIET)?.unwrap_or((appeared, 0));
        let seconds = |to: Instant| to.saturating_duration_since(appeared).as_secs_f64();
        progress(&format!(
            "  wired after {:.2} s, last of {count} commits of the firewall after {:.2} s",
            seconds(wired),
            seconds(filtered)
        ));
        report.wired_s = seconds(wired.max(filtered));
        report.all_active_s = seconds(active);
        report.agent_rss_mib = self.usage()?.rss_mib;
        progress(&format!("  {report:?}"));
        Ok(())
    }

    /// When the last tap appeared, and when the last port was wired.
    fn wired(&self, monitor: &Monitor<News>) -> Result<(Instant, Instant)> {
        let mut wiring = Wiring::of(&self.vms);
        let mut taps: HashSet<&str> = self.vms.iter().map(|vm| vm.tap.as_str()).collect();
        let mut appeared = Instant::now();
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(times) = wiring.complete() {
                return Ok((appeared, times.last));
            }
            if let Some(event) = monitor.next(Duration::from_millis(100))? {
                if let News::Link { name, up: true, .. } = &event.news
                    && taps.remove(name.as_str())
                {
                    appeared = event.at;
                }
                wiring.hear(&event);
            } else if Instant::now() > end {
                return Err(Error::Timeout {
                    what: "all ports being wired",
                    seconds: LIMIT.as_secs(),
                    missing: "see the agent's log".to_owned(),
                });
            }
            if process::interrupted() {
                return Err(Error::Interrupted);
            }
        }
    }

    /// Rules one by one.
    fn rules(&self, report: &mut Report) -> Result<()> {
        let commits = Commits::listen(&self.namespace)?;
        let mut samples = Vec::new();
        for port in 9001..9001 + RULES {
            commits.clear()?;
            let start = Instant::now();
            self.cloud.rule(&self.group, port)?;
            let (at, _) = commits.last(QUIET)?;
            samples.push(at.saturating_duration_since(start));
        }
        report.rule_ms.p50 = stats::percentile(&samples, 50).map(stats::ms);
        progress(&format!("  rules: {samples:?}"));
        Ok(())
    }

    /// The agent is killed and started again.
    fn restart(&self, report: &mut Report) -> Result<()> {
        let old = self.process()?;
        old.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = process::wait_gone(&[old], Duration::from_secs(10));
        process::sleep(Duration::from_secs(2))?;
        let start = Instant::now();
        agent::start(self.agent, &self.namespace, &self.files, &[])?;
        let synced = sync::wait(&self.files.socket(), self.vms.len())?;
        report.restart_s = synced.saturating_duration_since(start).as_secs_f64();
        // Whatever it has to report.
        let mut least = self.vms.len();
        for _ in 0..50 {
            least = least.min(self.active()?);
            process::sleep(Duration::from_millis(50))?;
        }
        report.restart_left_active = self.vms.len() - least;
        Ok(())
    }
}

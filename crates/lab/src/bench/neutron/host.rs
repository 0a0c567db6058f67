//! One hypervisor with a real agent: its taps appear all at once.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;

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
    Cloud, Median, cpu,
    ports::{LIMIT, hidden_taps, two_subnets},
    without_agents,
};
use crate::{
    Error, Result,
    agent::{self, Files},
    fabric::{Fabric, Vm},
    lab::{Guard, progress},
    neutron::{Options, Release, Rig},
    process::{self, Identity},
    topology::{Role, Topology},
};

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

/// What one hypervisor takes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// From the last tap's appearance until all ports are wired and their
    /// groups are in the firewall.
    pub wired_s: f64,
    /// From there until all ports are ACTIVE.
    pub all_active_s: f64,
    /// The agent's largest resident size.
    pub agent_rss_mib: f64,
    /// Its processor time from the taps until all ports are ACTIVE.
    pub agent_cpu_s: f64,
    /// From the POST of a rule until the kernel has it.
    pub rule_ms: Median,
    /// From the start of the agent's program until it is in sync.
    pub restart_s: f64,
    /// Ports that left ACTIVE meanwhile.
    pub restart_left_active: usize,
}

/// Measures. The ports are those of `planned` on the fabric's last hypervisor.
pub(super) fn run(
    agent: &Path,
    release: Release,
    topology: Topology,
    planned: &Fabric,
) -> Result<Figures> {
    let lab = without_agents(topology)?;
    let rig = Rig::up(&lab, Options::new(release)?)?;
    let host = Host::up(&lab, &rig, agent, planned)?;
    let mut figures = Figures::default();
    host.boot(&mut figures)?;
    host.rules(&mut figures)?;
    host.restart(&mut figures)?;
    figures.agent_rss_mib = figures.agent_rss_mib.max(host.usage()?.rss_mib);
    rig.down()?;
    lab.down()?;
    Ok(figures)
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
        let network = json!({"name": "bench"});
        let (cloud, subnets) = two_subnets(rig, network)?;
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
        host.cloud
            .make_ports(&mut host.vms, &host.name, &subnets, &host.group)?;
        Ok(host)
    }

    fn process(&self) -> Result<Identity> {
        let running = self.lab.processes(&self.name)?;
        agent::process_of(&running).ok_or_else(|| Error::Program("the agent has ended".to_owned()))
    }

    fn usage(&self) -> Result<Usage> {
        Usage::of_agent(self.lab, &self.name)
    }

    /// All taps at once.
    fn boot(&self, figures: &mut Figures) -> Result<()> {
        let shed = self.lab.namespace(SHED);
        let open = hidden_taps(&shed, &self.vms, &self.namespace)?;
        process::sleep(Duration::from_secs(3))?;
        let commits = Commits::listen(&self.namespace)?;
        let monitor = Monitor::open(&self.namespace, message::FEED)?;
        let pid = self.process()?.pid;
        let before = cpu(pid);
        let mut ip = Ip::open(&shed)?;
        ip.say(&open)?;
        let (appeared, wired) = self.wired(&monitor)?;
        ip.finish()?;
        let active = self.cloud.all_active(self.vms.len())?;
        figures.agent_cpu_s = cpu(pid) - before;
        // The firewall's part of a port is there before its tap, if its port is.
        let (filtered, count) = commits.within(QUIET, QUIET)?.unwrap_or((appeared, 0));
        let seconds = |to: Instant| to.saturating_duration_since(appeared).as_secs_f64();
        progress(&format!(
            "  wired after {:.2} s, last of {count} commits of the firewall after {:.2} s",
            seconds(wired),
            seconds(filtered)
        ));
        figures.wired_s = seconds(wired.max(filtered));
        figures.all_active_s = seconds(active);
        figures.agent_rss_mib = self.usage()?.rss_mib;
        progress(&format!("  {figures:?}"));
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
    fn rules(&self, figures: &mut Figures) -> Result<()> {
        let commits = Commits::listen(&self.namespace)?;
        let mut samples = Vec::new();
        for port in 9001..9001 + RULES {
            commits.clear()?;
            let start = Instant::now();
            self.cloud.rule(&self.group, port)?;
            let (at, _) = commits.last(QUIET)?;
            samples.push(at.saturating_duration_since(start));
        }
        figures.rule_ms.p50 = stats::percentile(&samples, 50).map(stats::ms);
        progress(&format!("  rules: {samples:?}"));
        Ok(())
    }

    /// The agent is killed and started again.
    fn restart(&self, figures: &mut Figures) -> Result<()> {
        let old = self.process()?;
        old.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = process::wait_gone(&[old], Duration::from_secs(10));
        process::sleep(Duration::from_secs(2))?;
        let start = Instant::now();
        agent::start(self.agent, &self.namespace, &self.files, &[])?;
        let synced = sync::wait(&self.files.socket(), self.vms.len())?;
        figures.restart_s = synced.saturating_duration_since(start).as_secs_f64();
        // Whatever it has to figures.
        let mut least = self.vms.len();
        for _ in 0..50 {
            least = least.min(self.cloud.active()?);
            process::sleep(Duration::from_millis(50))?;
        }
        figures.restart_left_active = self.vms.len() - least;
        Ok(())
    }
}

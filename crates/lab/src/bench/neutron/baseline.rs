//! Neutron's own linuxbridge agent (21.0.0), with the same ports, addresses and
//! rules on the same server: what our figures are to be compared with.
//!
//! It is Debian's `neutron-linuxbridge-agent` with its defaults. Nova's part is
//! done here: the bridge, and the taps in it. Two things are not stock: its
//! server's network is flat, since the agent knows no routed ones, and its
//! `ebtables` is a script. Debian's (1.8.9, on nftables) can't delete a rule with
//! `--among-src`, which the agent does for each port at its restart, and tries
//! again for ever; the script empties that port's chain instead.
//!
//! What can break it: Debian's packages (`scripts/packages-bench`).

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    super::{filter::generation::Commits, stats},
    Cloud, Median, cpu_with_children, nothing,
    ports::{self, LIMIT},
    without_agents,
};
use crate::{
    Error, Result,
    fabric::{Fabric, Vm},
    lab::{Guard, progress},
    netns,
    neutron::{Mechanism, Options, Release, Rig},
    process::{self, Identity},
    state::replace,
};

const PROGRAM: &str = "/usr/bin/neutron-linuxbridge-agent";
/// Its host's name, also that of its namespace.
const HOST: &str = "stock";
const SHED: &str = "shed";
const GRACE: Duration = Duration::from_secs(15);
/// How many rules are put in, one after the other: each takes some seconds.
const RULES: u16 = 5;
/// After it has done something, so long until it is looked at as idle.
const SETTLE: Duration = Duration::from_secs(5);

const EBTABLES: &str = r#"#!/bin/sh
case "$*" in
*" -D "*"--among-src"*)
    chain=$(echo "$*" | sed 's/.* -D \([^ ]*\) .*/\1/')
    # The agent puts the port's addresses before this one next.
    /usr/sbin/ebtables-nft -t nat --concurrent -F "$chain" &&
        exec /usr/sbin/ebtables-nft -t nat --concurrent -A "$chain" -j DROP ;;
*) exec /usr/sbin/ebtables-nft "$@" ;;
esac
"#;

/// What one hypervisor takes, as in [`super::host::Figures`] where the name is
/// the same.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Baseline {
    /// From the last tap's appearance until all ports are ACTIVE.
    pub all_active_s: f64,
    /// Resident size of its three processes together, then.
    pub agent_rss_mib: f64,
    /// Processor time of all its processes from the taps until then.
    pub agent_cpu_s: f64,
    /// From the POST of a rule until the kernel has it for every port.
    pub rule_ms: Median,
    /// From the start of its program until every port has left ACTIVE, as its
    /// question for details makes it, and is ACTIVE again.
    pub restart_s: f64,
    /// Ports that left ACTIVE meanwhile.
    pub restart_left_active: usize,
}

/// Measures.
pub(super) fn run(planned: &Fabric) -> Result<Baseline> {
    let lab = without_agents(nothing())?;
    let mut options = Options::new(Release::Oldest)?;
    options.mechanism = Mechanism::Linuxbridge;
    let rig = Rig::up(&lab, options)?;
    let stock = Stock::up(&lab, &rig, planned.vms.to_vec())?;
    let mut baseline = Baseline::default();
    stock.boot(&lab, &mut baseline)?;
    stock.rules(&mut baseline)?;
    stock.restart(&mut baseline)?;
    progress(&format!("  {baseline:?}"));
    stock.stop()?;
    rig.down()?;
    lab.down()?;
    Ok(baseline)
}

/// The hypervisor.
struct Stock<'a> {
    cloud: Cloud<'a>,
    namespace: String,
    directory: PathBuf,
    group: String,
    vms: Vec<Vm>,
}

impl<'a> Stock<'a> {
    /// With its ports in Neutron, and its agent started before them.
    fn up(lab: &Guard, rig: &'a Rig, vms: Vec<Vm>) -> Result<Self> {
        let namespace = lab.namespace(HOST);
        netns::create(std::slice::from_ref(&namespace))?;
        rig.attach(&namespace, 1)?;
        let lines = "link set lo up\nlink add name uplink type veth peer name beyond\nlink set uplink up\nlink set beyond up\n";
        netns::batch(Some(&namespace), lines)?;
        let directory = lab.directory(HOST);
        configure(&directory, &rig.transport_url())?;
        let network = json!({"name": "bench", "provider:network_type": "flat",
                             "provider:physical_network": "physnet1"});
        let (cloud, subnets) = ports::two_subnets(rig, network)?;
        let mut stock = Self {
            group: cloud.group()?,
            cloud,
            namespace,
            directory,
            vms,
        };
        stock.start()?;
        stock.wait("the linuxbridge agent being alive", || {
            let agents = stock.cloud.ask("GET", "agents", &Value::Null)?;
            let agents = agents.get("agents").and_then(Value::as_array);
            Ok(agents.is_some_and(|all| all.iter().any(|agent| agent["alive"] == true)))
        })?;
        stock
            .cloud
            .make_ports(&mut stock.vms, HOST, &subnets, &stock.group)?;
        Ok(stock)
    }

    fn start(&self) -> Result<()> {
        // `ip netns exec` has given it a mount namespace of its own.
        let script = "mount --bind \"$0\" /etc/alternatives && exec \"$@\"";
        let mut command = netns::command(&self.namespace, "sh");
        command
            .args(["-c", script])
            .arg(self.directory.join("alternatives"))
            .arg(PROGRAM)
            .current_dir(&self.directory);
        for file in ["neutron.conf", "linuxbridge.ini"] {
            command.arg("--config-file").arg(self.directory.join(file));
        }
        process::start(command, &self.log()).map(|_| ())
    }

    fn stop(&self) -> Result<()> {
        if process::end(&self.processes()?, GRACE) {
            return Ok(());
        }
        Err(Error::Program(
            "the linuxbridge agent can't be ended".to_owned(),
        ))
    }

    fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    fn processes(&self) -> Result<Vec<Identity>> {
        let own = std::process::id();
        let found = process::in_namespaces(std::slice::from_ref(&self.namespace))?;
        let all = found.into_values().flatten();
        Ok(all.filter(|process| process.pid != own).collect())
    }

    fn cpu(&self) -> Result<f64> {
        let all = self.processes()?;
        Ok(all.iter().map(|one| cpu_with_children(one.pid)).sum())
    }

    fn wait(&self, what: &'static str, done: impl Fn() -> Result<bool>) -> Result<Instant> {
        let end = Instant::now() + LIMIT;
        while !done()? {
            if Instant::now() > end || self.processes()?.is_empty() {
                return Err(Error::Timeout {
                    what,
                    seconds: LIMIT.as_secs(),
                    missing: self.log().display().to_string(),
                });
            }
            process::sleep(Duration::from_millis(20))?;
        }
        Ok(Instant::now())
    }

    /// All taps at once, in the bridge that Nova makes.
    fn boot(&self, lab: &Guard, baseline: &mut Baseline) -> Result<()> {
        let short = self.cloud.network.get(..11).unwrap_or_default();
        let bridge = format!("brq{short}");
        let lines = format!("link add name {bridge} type bridge\nlink set {bridge} up\n");
        netns::batch(Some(&self.namespace), &lines)?;
        let open = ports::hidden_taps(&lab.namespace(SHED), &self.vms, &self.namespace)?;
        let mut join = String::new();
        for Vm { tap, .. } in &self.vms {
            let _ = writeln!(join, "link set dev {tap} master {bridge}");
        }
        process::sleep(SETTLE)?;
        let before = self.cpu()?;
        netns::batch(Some(&lab.namespace(SHED)), &open)?;
        netns::batch(Some(&self.namespace), &join)?;
        let appeared = Instant::now();
        let active = self.cloud.all_active(self.vms.len())?;
        baseline.agent_cpu_s = stats::rounded(self.cpu()? - before);
        baseline.all_active_s =
            stats::rounded(active.saturating_duration_since(appeared).as_secs_f64());
        let all = self.processes()?;
        baseline.agent_rss_mib = stats::rounded(all.iter().map(|one| resident(one.pid)).sum());
        progress(&format!("  stock: {} processes, {baseline:?}", all.len()));
        Ok(())
    }

    /// Rules one by one.
    fn rules(&self, baseline: &mut Baseline) -> Result<()> {
        let commits = Commits::listen(&self.namespace)?;
        let mut samples = Vec::new();
        for port in 9001..9001 + RULES {
            process::sleep(SETTLE)?;
            commits.clear()?;
            let start = Instant::now();
            self.cloud.rule(&self.group, port)?;
            let end = start + LIMIT;
            loop {
                let commit = commits.anybodys(Duration::from_millis(200))?;
                if let Some(at) = commit
                    && self.ports_with(port)? == self.vms.len()
                {
                    samples.push(at.saturating_duration_since(start));
                    break;
                }
                if Instant::now() > end || process::interrupted() {
                    return Err(Error::Program(format!(
                        "the linuxbridge agent doesn't write a rule; see {}",
                        self.log().display()
                    )));
                }
            }
        }
        baseline.rule_ms.p50 = stats::percentile(&samples, 50).map(stats::ms);
        progress(&format!("  rules: {samples:?}"));
        Ok(())
    }

    /// How many ports have a rule for that TCP port in the firewall.
    fn ports_with(&self, port: u16) -> Result<usize> {
        let output = netns::command(&self.namespace, "iptables-save")
            .output()
            .map_err(Error::io("starting iptables-save"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let rule = format!("--dport {port} ");
        Ok(text.lines().filter(|line| line.contains(&rule)).count())
    }

    /// The agent is ended and started again.
    fn restart(&self, baseline: &mut Baseline) -> Result<()> {
        for process in self.processes()? {
            process.signal(nix::sys::signal::Signal::SIGKILL);
        }
        let _ = process::wait_gone(&self.processes()?, GRACE);
        process::sleep(Duration::from_secs(2))?;
        let left = std::cell::RefCell::new(BTreeSet::new());
        let start = Instant::now();
        self.start()?;
        let back = self.wait("all ports being ACTIVE again", || {
            let statuses = self.cloud.rig.sql("select id, status from ports")?;
            let mut left = left.borrow_mut();
            let mut active = 0;
            for line in statuses.lines() {
                match line.split_once('\t') {
                    Some((_, "ACTIVE")) => active += 1,
                    Some((id, _)) => {
                        left.insert(id.to_owned());
                    }
                    None => {}
                }
            }
            Ok(active == self.vms.len() && left.len() == self.vms.len())
        })?;
        baseline.restart_s = stats::rounded(back.saturating_duration_since(start).as_secs_f64());
        baseline.restart_left_active = left.into_inner().len();
        Ok(())
    }
}

/// Resident size of a process, in MiB.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|text| text.split_ascii_whitespace().next());
    kib.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Writes the agent's configuration, and the script beside Debian's other
/// alternatives.
fn configure(directory: &Path, transport: &str) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::file(directory))?;
    let here = directory.display();
    let neutron = format!(
        "[DEFAULT]
host = {HOST}
core_plugin = ml2
transport_url = {transport}
state_path = {here}/state

[agent]
root_helper = sudo neutron-rootwrap /etc/neutron/rootwrap.conf

[oslo_concurrency]
lock_path = {here}/lock

[experimental]
linuxbridge = true
"
    );
    replace(&directory.join("neutron.conf"), &neutron)?;
    let agent = "[linux_bridge]
physical_interface_mappings = physnet1:uplink

[vxlan]
enable_vxlan = false

[securitygroup]
enable_security_group = true
firewall_driver = iptables
enable_ipset = true
";
    replace(&directory.join("linuxbridge.ini"), agent)?;
    let alternatives = directory.join("alternatives");
    let copied = Command::new("cp")
        .args(["-a", "/etc/alternatives"])
        .arg(&alternatives)
        .status()
        .map_err(Error::io("starting cp"))?;
    let script = directory.join("ebtables");
    std::fs::write(&script, EBTABLES).map_err(Error::file(&script))?;
    std::fs::set_permissions(&script, Permissions::from_mode(0o755))
        .map_err(Error::file(&script))?;
    let link = alternatives.join("ebtables");
    if !copied.success() || !link.is_symlink() || !Path::new(PROGRAM).exists() {
        return Err(Error::Program(format!(
            "{PROGRAM} or ebtables is missing: `scripts/setup bench` installs them"
        )));
    }
    std::fs::remove_file(&link).map_err(Error::file(&link))?;
    std::os::unix::fs::symlink(&script, &link).map_err(Error::file(&link))
}

//! A hypervisor with guests and a world outside.
//!
//! ```text
//!   guest g1 ── tap ┐
//!                   ├ hypervisor hv ── up0 ── world (default route)
//!   guest g2 ── tap ┘
//! ```
//!
//! Owns its namespaces, its directory and its agent; all go when it is dropped.

mod agent;
mod arp;
mod flow;
mod guest;
mod intent;
mod kernel;
mod metadata;
mod neutron;
mod random;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use l2isolate_lab::{
    netns,
    room::{self, Room},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

pub(crate) use agent::{Agent, PROGRAM, run};
pub(crate) use arp::{Arp, advertise_router, claim_neighbour, packets};
pub(crate) use flow::Flow;
pub(crate) use guest::Guest;
pub(crate) use intent::{GATEWAY4, GATEWAY6, LINK_LOCAL, Port, TAP_MAC, document, ip};
pub(crate) use kernel::{SETTINGS, array, expected, observed, with_carrier};
pub(crate) use metadata::Proxy;
pub(crate) use neutron::Neutron;
pub(crate) use random::Random;

/// What the hypervisor announces beside its guests.
pub(crate) const LOOPBACK4: &str = "10.255.1.1";
/// The same for IPv6.
pub(crate) const LOOPBACK6: &str = "2001:db8:ff::1";
/// Somebody outside.
pub(crate) const OUTSIDE4: &str = "198.51.100.1";
/// The same for IPv6.
pub(crate) const OUTSIDE6: &str = "2001:db8:ffff::1";

/// Nothing takes that long; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(20);

/// The hypervisor, and what belongs to it.
pub(crate) struct Host {
    name: String,
    /// Its namespace.
    pub(crate) hv: String,
    /// The namespace of the world outside.
    pub(crate) world: String,
    namespaces: Vec<String>,
    directory: TempDir,
    agent: Option<Agent>,
    /// Given back last, when the namespaces have gone.
    _room: Room,
}

impl Host {
    /// With the agent's defaults.
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With further lines for the agent's `[l2isolate]`. The agent isn't
    /// started yet.
    pub(crate) fn with(options: &str) -> Self {
        Self::within(room::shared(), options)
    }

    /// One that will have hundreds of taps.
    pub(crate) fn crowded() -> Self {
        Self::crowded_with("")
    }

    /// The same with further lines for the configuration.
    pub(crate) fn crowded_with(options: &str) -> Self {
        Self::within(room::whole(), options)
    }

    fn within(room: Room, options: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces: run them as root"
        );
        let name = format!("l2i-t{:08x}", Random::new().next() & 0xffff_ffff);
        let directory = TempDir::with_prefix("l2isolate-test-").unwrap();
        let mut host = Self {
            hv: format!("{name}-hv"),
            world: format!("{name}-world"),
            name,
            namespaces: Vec::new(),
            directory,
            agent: None,
            _room: room,
        };
        host.namespace("hv");
        host.namespace("world");
        host.uplink();
        fs::create_dir(host.intent()).unwrap();
        host.write_file("subnets.json", &intent::subnets());
        // Most tests are about the wiring, and their ports have no groups.
        let firewall = match options.contains("firewall") {
            true => "",
            false => "firewall = false\n",
        };
        // Nor do they ask for anything.
        let services = match options.contains("dhcp") {
            true => "",
            false => "dhcp = false\nipv6_services = false\n",
        };
        let config = format!(
            "[DEFAULT]\nhost = hv1\n[l2isolate]\nintent_directory = {}\nstate_directory = {}\n\
             socket = {}\nguest_directory = {}\nmetadata_directory = {}\n\
             metadata_user = {}\nloopbacks = {LOOPBACK4}/32, {LOOPBACK6}/128\n\
             log_level = debug\n{firewall}{services}{options}\n",
            host.intent().display(),
            host.path("state").display(),
            host.socket().display(),
            host.path("guest").display(),
            host.path("map").display(),
            metadata::USER,
        );
        // dnsmasq runs as a user of its own, and reads below it.
        fs::set_permissions(host.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(host.path("l2isolate.conf"), config).unwrap();
        host
    }

    /// Another namespace that goes with the host.
    pub(crate) fn namespace(&mut self, suffix: &str) -> String {
        let name = format!("{}-{suffix}", self.name);
        netns::create(std::slice::from_ref(&name)).unwrap();
        self.namespaces.push(name.clone());
        // Addresses are at hand at once.
        let settings = [
            ("ipv6.conf.default.accept_dad", "0"),
            ("ipv6.conf.default.dad_transmits", "0"),
        ];
        netns::sysctl(&name, &settings).unwrap();
        netns::ip(&name, &["link", "set", "lo", "up"]).unwrap();
        name
    }

    fn uplink(&self) {
        let world = &self.world;
        let hv = format!(
            "link add up0 type veth peer name up0 netns {world}\n\
             addr add 192.0.2.1/30 dev up0\naddr add 2001:db8:aaaa::1/64 dev up0 nodad\n\
             addr add {LOOPBACK4}/32 dev lo\naddr add {LOOPBACK6}/128 dev lo nodad\n\
             link set up0 up\n\
             route add default via 192.0.2.2\nroute add default via 2001:db8:aaaa::2\n"
        );
        netns::batch(Some(&self.hv), &hv).unwrap();
        let outside = format!(
            "addr add 192.0.2.2/30 dev up0\naddr add 2001:db8:aaaa::2/64 dev up0 nodad\n\
             addr add {OUTSIDE4}/32 dev lo\naddr add {OUTSIDE6}/128 dev lo nodad\n\
             link set up0 up\n\
             route add default via 192.0.2.1\nroute add default via 2001:db8:aaaa::1\n"
        );
        netns::batch(Some(world), &outside).unwrap();
    }

    /// A guest: its namespace and its tap. Its port is only written by
    /// [`Self::write`].
    pub(crate) fn guest(&mut self, number: u32) -> Guest {
        let guest = self.paused_guest(number);
        guest.set_up();
        guest
    }

    /// A guest that hasn't said anything yet.
    pub(crate) fn paused_guest(&mut self, number: u32) -> Guest {
        let namespace = self.namespace(&format!("g{number}"));
        let guest = Guest::new(namespace, Port::new(number));
        self.tap(guest.port.tap(), &guest.namespace, "eth0");
        guest
    }

    /// Guests 1 to `count`, their ports written.
    pub(crate) fn guests<const N: usize>(&mut self) -> [Guest; N] {
        std::array::from_fn(|index| {
            let guest = self.guest(index as u32 + 1);
            self.write(&guest.port);
            guest
        })
    }

    /// A device that is named like a tap, with its other end in a namespace.
    pub(crate) fn tap(&self, name: &str, namespace: &str, peer: &str) {
        let veth = format!("link add {name} type veth peer name {peer} netns {namespace}\n");
        netns::batch(Some(&self.hv), &veth).unwrap();
    }

    /// All processes in the hypervisor.
    pub(crate) fn processes(&self) -> Vec<i32> {
        processes(&self.hv)
    }

    /// Runs `ip` in the hypervisor; the arguments are parted by spaces.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&self.hv, arguments)
    }

    /// A setting of the hypervisor, as in sysctl(8), below net.
    pub(crate) fn sysctl(&self, key: &str) -> String {
        let path = Path::new("/proc/sys/net").join(key.replace('.', "/"));
        netns::inside(&self.hv, || fs::read_to_string(path).unwrap())
            .unwrap()
            .trim()
            .to_owned()
    }

    /// Sets one, as a stranger would.
    pub(crate) fn set_sysctl(&self, key: &str, value: &str) {
        netns::sysctl(&self.hv, &[(key, value)]).unwrap();
    }

    /// A path in the host's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where documents of intent lie.
    pub(crate) fn intent(&self) -> PathBuf {
        self.path("intent")
    }

    /// The agent's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/agent.sock")
    }

    /// Writes a port's document.
    pub(crate) fn write(&self, port: &Port) {
        self.write_file(&port.file(), &port.to_document());
    }

    /// Removes a port's document.
    pub(crate) fn remove(&self, port: &Port) {
        fs::remove_file(self.intent().join(port.file())).unwrap();
    }

    /// Writes a document aside and renames it in.
    pub(crate) fn write_file(&self, name: &str, text: &str) {
        let aside = self.intent().join(format!(".{name}.aside"));
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.intent().join(name)).unwrap();
    }

    /// Starts the agent.
    pub(crate) fn start(&mut self) {
        self.start_as(None, &[]);
    }

    /// Starts the agent with what setpriv(1) leaves it by these options.
    pub(crate) fn start_with(&mut self, privileges: &[String]) {
        self.start_as(None, privileges);
    }

    fn start_as(&mut self, release: Option<&Path>, privileges: &[String]) {
        assert!(self.agent.is_none(), "the agent runs already");
        self.agent = Some(Agent::start(
            &self.hv,
            &self.path("l2isolate.conf"),
            &self.path("log"),
            release,
            privileges,
        ));
    }

    /// Starts the agent where it finds an older kernel, by its release.
    pub(crate) fn start_on(&mut self, release: &str) {
        let file = self.path("osrelease");
        fs::write(&file, format!("{release}\n")).unwrap();
        self.start_as(Some(&file), &[]);
    }

    /// The agent's process, to be killed by whoever can't wait.
    pub(crate) fn agent_process(&self) -> Pid {
        self.agent
            .as_ref()
            .expect("the agent doesn't run")
            .process()
    }

    /// Kills the agent, as the out-of-memory killer would.
    pub(crate) fn kill(&mut self) {
        drop(self.agent.take().expect("the agent doesn't run"));
    }

    /// Ends the agent as a service manager would.
    pub(crate) fn stop(&mut self) {
        self.agent.take().expect("the agent doesn't run").end();
    }

    /// What the agent says of itself, once it answers.
    pub(crate) fn status(&self) -> serde_json::Value {
        self.ask("status")
    }

    /// What the agent would write now.
    pub(crate) fn diff(&self) -> serde_json::Value {
        self.ask("diff")
    }

    /// What the firewall counted at a port: `way` is egress or ingress.
    pub(crate) fn counted(&self, port: &Port, way: &str, what: &str) -> u64 {
        let ports = self.ask("ports");
        let ports = ports.as_array().unwrap();
        let ours = ports.iter().find(|p| p["id"] == port.id());
        ours.unwrap()["counters"][way][what]["packets"]
            .as_u64()
            .unwrap()
    }

    /// Where the agent says that a port is in a live migration.
    pub(crate) fn migration(&self, port: &Port) -> String {
        let ports = self.ask("ports");
        let ports = ports.as_array().unwrap();
        let ours = ports.iter().find(|p| p["id"] == port.id());
        let state = ours.and_then(|p| p["migration"].as_str());
        state.unwrap_or("gone").to_owned()
    }

    fn ask(&self, verb: &str) -> serde_json::Value {
        let mut answer = None;
        self.until("the agent answers", || {
            answer = agent::ask(&self.socket(), verb);
            answer.is_some()
        });
        answer.unwrap()
    }

    /// Waits until the agent has taken in all there is now, and has nothing
    /// left to do.
    pub(crate) fn settled(&self) {
        self.until("the agent has nothing left to do", || {
            let status = self.status();
            status["differences"] == 0 && status["source"]["complete"] == true
        });
    }

    /// Waits until exactly these ports are wired: intent = kernel.
    pub(crate) fn wired(&self, ports: &[&Port]) {
        let expected = expected(ports, &with_carrier(&self.hv));
        let mut now = Default::default();
        let wait = Wait::new();
        while !wait.over() {
            now = observed(&self.hv, ports);
            if now == expected {
                return;
            }
        }
        let missing: Vec<_> = expected.difference(&now).collect();
        let surplus: Vec<_> = now.difference(&expected).collect();
        panic!("intent is not kernel; missing: {missing:#?}; too much: {surplus:#?}");
    }

    /// Waits for something.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let wait = Wait::new();
        while !condition() {
            assert!(!wait.over(), "in vain: {what}");
        }
    }

    /// All that the agent has logged.
    pub(crate) fn whole_log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("the end of the agent's log:\n{}", tail.join("\n"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
            for namespace in [&self.hv, &self.world] {
                for listing in ["addr", "-4 route", "-6 route", "neigh"] {
                    eprintln!("{namespace}: ip {listing}\n{}", ip(namespace, listing));
                }
            }
        }
        drop(self.agent.take());
        // dnsmasq outlives its agent, clients their commands; and all of them
        // would outlive their namespaces.
        for pid in self.namespaces.iter().flat_map(|name| processes(name)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if let Err(error) = netns::delete(&self.namespaces) {
            eprintln!("{error}");
        }
    }
}

/// All processes in a namespace.
fn processes(namespace: &str) -> Vec<i32> {
    // Not inside: then it would be one of them.
    let output = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output();
    let output = output.map(|output| output.stdout).unwrap_or_default();
    let pids = String::from_utf8_lossy(&output);
    pids.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// A wait that ends, with a pause at each look at it.
struct Wait {
    end: Instant,
}

impl Wait {
    fn new() -> Self {
        Self {
            end: Instant::now() + LONG,
        }
    }

    fn over(&self) -> bool {
        std::thread::sleep(Duration::from_millis(10));
        Instant::now() > self.end
    }
}

//! A fabric, a Neutron, agents; and what Nova does on hypervisors.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use l2isolate_lab::{
    agent::{self, find},
    fabric::{GATEWAY4, GATEWAY6, Node, VM_PREFIX6},
    lab::{Guard, Plan, unique_name},
    netns,
    neutron::{Options, Release, Rig},
    room::{self, Room},
    topology::{Mix, Role, Shape, Topology},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::nova::Nova;

/// How long anything may take before it counts as never.
const LIMIT: Duration = Duration::from_secs(90);
/// So that nothing has to wait for the next sync for long.
const OPTIONS: &str = "sync_interval = 2\nreport_interval = 2\nmetadata_user = nobody\n";

/// Whose ports they all are.
pub(super) const INSTANCE: &str = "0b6e0000-0000-4000-8000-000000000001";

pub(super) struct Cloud {
    pub(super) nova: Nova,
    pub(super) rig: Rig,
    lab: Guard,
    binary: PathBuf,
    pub(super) network: String,
    /// The IPv4 one.
    pub(super) subnet: String,
    /// Given back last, when the namespaces have gone.
    _room: Room,
}

/// A guest: its port, its namespace, where its tap is.
pub(super) struct Guest {
    pub(super) id: String,
    host: String,
    pub(super) mac: String,
    /// One of each family.
    pub(super) addresses: [String; 2],
    pub(super) namespace: String,
}

impl Guest {
    fn tap(&self) -> String {
        format!("tap{}", &self.id[..11])
    }
}

/// The far end of a destination's tap, in the guest's namespace.
pub(super) struct Arriving {
    host: String,
}

impl Cloud {
    pub(super) fn up(release: Release) -> Self {
        let room = room::shared();
        let shape = Shape {
            spines: 1,
            racks: 2,
            tors: 2,
            hypervisors: 1,
            vms: 0,
        };
        let lab = Guard::up(Plan {
            name: unique_name("cloud"),
            topology: Topology::regular(shape, Mix::Mixed),
            agent: Some(find().unwrap()),
            owned: true,
        })
        .unwrap();
        let rig = Rig::up(&lab, Options::new(release).unwrap()).unwrap();
        let mut cloud = Self {
            nova: Nova::start(&rig),
            rig,
            lab,
            binary: find().unwrap(),
            network: String::new(),
            subnet: String::new(),
            _room: room,
        };
        cloud.rig.drive(&cloud.lab, OPTIONS).unwrap();
        for host in cloud.hypervisors() {
            cloud.until("the agent is alive", || cloud.agent(&host)["alive"] == true);
        }
        let network = cloud.ask("POST", "networks", Some(json!({"network": {"name": "n"}})));
        network["network"]["id"]
            .as_str()
            .unwrap()
            .clone_into(&mut cloud.network);
        let subnet = json!({"subnet": {
            "network_id": cloud.network, "ip_version": 4, "cidr": "10.252.0.0/16",
            "gateway_ip": GATEWAY4, "dns_nameservers": ["192.0.2.53"],
        }});
        let six = json!({"subnet": {
            "network_id": cloud.network, "ip_version": 6, "cidr": format!("{}/{}", VM_PREFIX6.0, VM_PREFIX6.1),
            "gateway_ip": GATEWAY6, "ipv6_ra_mode": "dhcpv6-stateful",
            "ipv6_address_mode": "dhcpv6-stateful",
        }});
        cloud.ask("POST", "subnets", Some(six));
        let subnet = cloud.ask("POST", "subnets", Some(subnet));
        subnet["subnet"]["id"]
            .as_str()
            .unwrap()
            .clone_into(&mut cloud.subnet);
        cloud
    }

    /// Takes everything down, in order.
    pub(super) fn down(self) {
        let Self {
            nova,
            rig,
            lab,
            _room: room,
            ..
        } = self;
        drop(nova);
        rig.down().unwrap();
        lab.down().unwrap();
        drop(room);
    }

    fn nodes(&self) -> Vec<&Node> {
        self.lab.fabric().role(Role::Hypervisor).collect()
    }

    /// Names of the two, in different racks.
    pub(super) fn hypervisors(&self) -> [String; 2] {
        let names: Vec<String> = self.nodes().iter().map(|node| node.name.clone()).collect();
        names.try_into().unwrap()
    }

    pub(super) fn start_agent(&self, host: &str) {
        let namespace = self.lab.namespace(host);
        agent::start(&self.binary, &namespace, &self.lab.agent_files(host), &[]).unwrap();
    }

    pub(super) fn namespace(&self, host: &str) -> String {
        self.lab.namespace(host)
    }

    pub(super) fn agent_config(&self, host: &str) -> PathBuf {
        self.lab.agent_files(host).config()
    }

    /// The program that is agent and metadata proxy.
    pub(super) fn program(&self) -> &Path {
        &self.binary
    }

    pub(super) fn kill_agent(&self, host: &str) {
        let running = self.lab.processes(host).unwrap();
        let process = agent::process_of(&running).unwrap();
        process.signal(Signal::SIGKILL);
        assert!(l2isolate_lab::process::wait_gone(&[process], LIMIT));
    }

    /// The agent's configuration from its next start on, with these lines for
    /// `[l2isolate]`.
    pub(super) fn configure_agent(&self, host: &str, more: &str) {
        let node = self.nodes().into_iter().find(|node| node.name == host);
        let files = self.lab.agent_files(host);
        let url = self.rig.transport_url();
        agent::configure_for_neutron(node.unwrap(), &files, &url, more).unwrap();
    }

    /// Takes from an agent that doesn't run what it keeps of its intent.
    pub(super) fn forget(&self, host: &str) {
        std::fs::remove_dir_all(self.lab.agent_files(host).state()).unwrap();
    }

    /// What an agent has logged last.
    pub(super) fn agent_log(&self, host: &str) -> String {
        let log = std::fs::read_to_string(self.lab.agent_files(host).log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// The objects that an agent keeps, each with its list.
    pub(super) fn kept(&self, host: &str) -> Vec<(String, Value)> {
        let root = self.lab.agent_files(host).state().join("intent");
        let files = files_below(&root);
        let objects = files.into_iter().filter_map(|(path, text)| {
            let list = path.parent()?.file_name()?.to_str()?.to_owned();
            let document: Value = serde_json::from_str(&text).ok()?;
            let object = document[&list][0].clone();
            Some((list, object))
        });
        objects.collect()
    }

    /// What an agent has written for guests.
    pub(super) fn guest_files(&self, host: &str) -> Vec<String> {
        let files = self.lab.agent_files(host);
        let all = [files.guest(), files.metadata()].into_iter();
        let all = all.flat_map(|directory| files_below(&directory));
        all.map(|(path, text)| format!("{}:\n{text}", path.display()))
            .collect()
    }

    /// What an agent says of itself; null while it doesn't answer.
    pub(super) fn agent_status(&self, host: &str) -> Value {
        agent::ask(&self.binary, &self.lab.agent_files(host), "status").unwrap_or_default()
    }

    /// Ids of the ports that an agent knows.
    pub(super) fn ports_of(&self, host: &str) -> Vec<String> {
        let files = self.lab.agent_files(host);
        let ports = agent::ask(&self.binary, &files, "ports").unwrap_or_default();
        let ports = ports.as_array().into_iter().flatten();
        ports
            .map(|port| port["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Asks Neutron's API.
    pub(super) fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let answer = self.rig.ask(method, path, body.as_ref()).unwrap();
        assert!(
            answer.status < 300,
            "{method} {path}: {answer:?}\n{}",
            self.rig.errors()
        );
        answer.body
    }

    /// The agent on a host, as Neutron shows it; null if there is none.
    pub(super) fn agent(&self, host: &str) -> Value {
        let agents = self.ask("GET", &format!("agents?host={host}"), None);
        agents["agents"][0].clone()
    }

    /// A group whose members may be pinged.
    pub(super) fn group(&self, name: &str) -> String {
        let body = json!({"security_group": {"name": name}});
        let group = self.ask("POST", "security-groups", Some(body));
        let id = group["security_group"]["id"].as_str().unwrap().to_owned();
        self.allow_ping(&id);
        id
    }

    pub(super) fn allow_ping(&self, group: &str) {
        for (protocol, family) in [("icmp", "IPv4"), ("ipv6-icmp", "IPv6")] {
            let rule = json!({"security_group_rule": {
                "security_group_id": group, "direction": "ingress", "protocol": protocol,
                "ethertype": family,
            }});
            self.ask("POST", "security-group-rules", Some(rule));
        }
    }

    /// A port as Nova makes it for a host.
    pub(super) fn create_port(&self, host: &str, groups: &[&str]) -> Value {
        let body = json!({"port": {
            "network_id": self.network, "binding:host_id": host, "device_owner": "compute:nova",
            "device_id": INSTANCE, "security_groups": groups,
        }});
        let port = self.ask("POST", "ports", Some(body))["port"].take();
        assert_eq!(port["binding:vif_type"], "tap", "{port}");
        port
    }

    /// The tap of a port, and the guest at its end.
    pub(super) fn plug(&self, port: Value, host: &str) -> Guest {
        let id = port["id"].as_str().unwrap().to_owned();
        let guest = Guest {
            namespace: self.lab.namespace(&format!("g{}", &id[..8])),
            host: host.to_owned(),
            mac: port["mac_address"].as_str().unwrap().to_owned(),
            addresses: [false, true].map(|six| address(&port, six)),
            id,
        };
        netns::create(std::slice::from_ref(&guest.namespace)).unwrap();
        self.tap(&guest, host, "eth0");
        self.configure(&guest);
        guest
    }

    pub(super) fn boot(&self, host: &str, groups: &[&str]) -> Guest {
        self.plug(self.create_port(host, groups), host)
    }

    fn tap(&self, guest: &Guest, host: &str, far: &str) {
        let (tap, namespace) = (guest.tap(), &guest.namespace);
        let veth = format!("link add {tap} type veth peer name {far} netns {namespace}\n");
        netns::batch(Some(&self.lab.namespace(host)), &veth).unwrap();
    }

    fn configure(&self, guest: &Guest) {
        let (mac, [four, six]) = (&guest.mac, &guest.addresses);
        let lines = format!(
            "link set lo up\nlink set eth0 address {mac}\nlink set eth0 up\n\
             address add {four}/16 dev eth0\nroute add default via {GATEWAY4}\n\
             address add {six}/128 dev eth0 nodad\n\
             route add default via {GATEWAY6} dev eth0\n"
        );
        netns::batch(Some(&guest.namespace), &lines).unwrap();
    }

    /// Nova's `pre_live_migration` at the destination: the tap is there, the
    /// guest's end is closed.
    pub(super) fn plug_destination(&self, guest: &Guest, host: &str) -> Arriving {
        self.tap(guest, host, "eth1");
        Arriving {
            host: host.to_owned(),
        }
    }

    /// The guest goes on at its destination, and its source's tap goes.
    pub(super) fn switch(&self, guest: Guest, arriving: Arriving) -> Guest {
        self.unplug(&guest);
        netns::batch(Some(&guest.namespace), "link set eth1 name eth0\n").unwrap();
        let guest = Guest {
            host: arriving.host,
            ..guest
        };
        self.configure(&guest);
        guest
    }

    /// Nova's unplug.
    pub(super) fn unplug(&self, guest: &Guest) {
        let line = format!("link del {}\n", guest.tap());
        netns::batch(Some(&self.lab.namespace(&guest.host)), &line).unwrap();
    }

    pub(super) fn status_of(&self, guest: &Guest) -> String {
        let port = self.ask("GET", &format!("ports/{}", guest.id), None);
        port["port"]["status"].as_str().unwrap().to_owned()
    }

    /// By both families.
    pub(super) fn pings(&self, from: &Guest, to: &Guest) -> bool {
        to.addresses.iter().all(|address| self.ping(from, address))
    }

    /// A ping is answered by neither family.
    pub(super) fn refuses(&self, from: &Guest, to: &Guest) -> bool {
        to.addresses.iter().all(|address| !self.ping(from, address))
    }

    pub(super) fn pings_gateway(&self, from: &Guest) -> bool {
        self.ping(from, &GATEWAY4.to_string())
    }

    fn ping(&self, from: &Guest, address: &str) -> bool {
        let status = netns::command(&from.namespace, "ping")
            .args(["-n", "-q", "-c", "1", "-W", "1", address])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.unwrap().success()
    }

    /// Waits for something.
    pub(super) fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            if Instant::now() >= end {
                for host in self.hypervisors() {
                    let (status, log) = (self.agent_status(&host), self.agent_log(&host));
                    eprintln!("{host}: {status}\n{log}");
                }
                panic!("in vain: {what}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A port's address of one family.
fn address(port: &Value, six: bool) -> String {
    let all = port["fixed_ips"].as_array().unwrap().iter();
    let mut all = all.map(|ip| ip["ip_address"].as_str().unwrap());
    all.find(|ip| ip.contains(':') == six).unwrap().to_owned()
}

/// The files below a directory with what is in them, in order.
fn files_below(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files_below(&path));
        } else if path.is_file()
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            all.push((path, text));
        }
    }
    all.sort();
    all
}

//! What a guest is told: DHCP by real clients and by one that only asks,
//! IPv6 by the kernel and real clients, faults of dnsmasq, a guest in QEMU.
//!
//! The firewall is on in all of them: what guests may ask passes it.

mod addresses;
mod changes;
mod churn;
mod clients;
mod faults;
mod hostile;
mod ipv6;
mod real;

use std::{collections::BTreeMap, fs, time::Duration};

use l2isolate_lab::{
    dhcp::{Answer, Client},
    netns,
};
use serde_json::{Value, json};

use crate::harness::{GATEWAY4, Host, Port};

/// Longest wait for an answer that is to come.
const LONG: Duration = Duration::from_secs(10);
/// How long a client waits before it asks again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long to wait for an answer that isn't to come.
const SHORT: Duration = Duration::from_millis(400);

/// The subnet of most ports, as one that a cloud would have.
fn net4() -> Value {
    json!({
        "id": "net4", "cidr": "10.252.0.0/16", "gateway": GATEWAY4,
        "dns": ["10.255.0.53", "10.255.0.54"],
        "host_routes": [{"destination": "10.250.0.0/16", "nexthop": "10.252.0.9"}],
    })
}

/// A host whose guests have nothing but a link.
pub(crate) struct Cloud {
    pub(crate) host: Host,
    subnets: BTreeMap<String, Value>,
}

impl Cloud {
    /// With further lines for the agent's configuration; not started yet.
    pub(crate) fn new(options: &str) -> Self {
        let text = format!("firewall = true\ndhcp = true\n{options}");
        Self::with(Host::with(&text))
    }

    fn with(host: Host) -> Self {
        let mut cloud = Self {
            host,
            subnets: BTreeMap::new(),
        };
        cloud.subnet(net4());
        cloud
    }

    /// Adds a subnet, or changes it.
    fn subnet(&mut self, subnet: Value) {
        let id = subnet["id"].as_str().unwrap().to_owned();
        self.subnets.insert(id, subnet);
        let all: Vec<&Value> = self.subnets.values().collect();
        let text = json!({"version": 1, "subnets": all}).to_string();
        self.host.write_file("subnets.json", &text);
    }

    /// A port with these addresses, `address subnet` each.
    pub(crate) fn port(number: u32, addresses: &[(&str, &str)]) -> Port {
        Port::new(number)
            .with_addresses(addresses)
            .with("groups", json!(["open"]))
    }

    /// Makes the namespace and the tap of a port's guest, and writes the port.
    pub(crate) fn boot(&mut self, port: &Port) -> Machine {
        let namespace = self.host.namespace(&format!("g{}", port.tap()));
        let machine = Machine {
            namespace,
            port: port.clone(),
        };
        machine.plug(&self.host);
        self.host.write(port);
        machine
    }

    /// Starts the agent, with a group that lets everything pass.
    fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with what setpriv(1) leaves the agent by these options.
    pub(crate) fn start_with(&mut self, privileges: &[String]) {
        let rules: Vec<Value> = ["ingress", "egress"]
            .iter()
            .flat_map(|direction| {
                ["IPv4", "IPv6"].map(|family| json!({"direction": direction, "ethertype": family}))
            })
            .collect();
        let groups = json!({"version": 1, "groups": [{"id": "open", "rules": rules}]});
        self.host.write_file("groups.json", &groups.to_string());
        self.host.start_with(privileges);
    }

    /// The DHCP server's process, as the agent tells.
    pub(crate) fn server(&self) -> i64 {
        self.host.status()["dhcp"]["pid"].as_i64().unwrap()
    }

    /// Problems of the intent that the agent names.
    fn problems(&self) -> Vec<String> {
        let status = self.host.status();
        let all = status["problems"].as_array().unwrap();
        let text = |p: &Value, field: &str| p[field].as_str().unwrap().to_owned();
        all.iter()
            .map(|p| {
                let (object, field) = (text(p, "object"), text(p, "field"));
                format!("{object}: {field}: {}", text(p, "reason"))
            })
            .collect()
    }
}

/// A guest: a namespace with `eth0`, up, without addresses.
pub(crate) struct Machine {
    namespace: String,
    port: Port,
}

impl Machine {
    fn plug(&self, host: &Host) {
        host.tap(self.port.tap(), &self.namespace, "eth0");
        let lines = format!(
            "link set eth0 address {}\nlink set eth0 up\n",
            self.port.mac()
        );
        netns::batch(Some(&self.namespace), &lines).unwrap();
    }

    fn mac(&self) -> [u8; 6] {
        mac(self.port.mac())
    }

    fn client(&self) -> Client {
        Client::open(&self.namespace, "eth0", self.mac()).unwrap()
    }

    /// A lease, which must come.
    pub(crate) fn lease(&self) -> Answer {
        let lease = self.client().lease(PAUSE, LONG);
        lease.unwrap_or_else(|| panic!("{} gets no lease", self.port.mac()))
    }

    fn ip(&self, arguments: &str) -> String {
        crate::harness::ip(&self.namespace, arguments)
    }

    /// Runs a program in the guest; what it printed, both ways.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = netns::command(&self.namespace, program)
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text + &String::from_utf8_lossy(&output.stderr)
    }
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

/// A setting of a running process, as /proc has it.
fn process_status(pid: i64, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

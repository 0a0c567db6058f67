//! Casts that are lost, late, repeated and out of order, and a broker that is
//! killed among them: agents end up as if they had never been told anything but
//! by `sync`, only later.
//!
//! What is changed, and what becomes of each cast, is up to chance; a seed is
//! printed, and `L2ISOLATE_SEED` sets it. (Threads and processes meet as they
//! will: the same seed makes the same choices, not the same run.)

use std::{
    cell::RefCell,
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use l2isolate_lab::{netns, neutron::Release};
use l2isolate_oslo::{Context, Options, Target, Transport};
use serde_json::{Map, Value, json};

use super::{
    relay::{Relay, exchange},
    site::{Cloud, INSTANCE},
};

/// Who changes things at the same time, and how much each of them does.
const TENANTS: u64 = 3;
const CHANGES: usize = 25;
const KINDS: [&str; 4] = ["ports", "subnets", "groups", "address_groups"];
/// The broker is killed when so many casts have been heard.
const KILLED_AFTER: usize = 60;
/// What nobody asks for by itself comes by then.
const SYNC: &str = "sync_interval = 8\nreport_interval = 5\nmetadata_user = nobody\n";
/// The far ends of taps.
const SHED: &str = "shed";

/// Debian 12's own.
#[test]
fn losses_on_the_oldest_release() {
    casts_may_be_lost_late_repeated_and_out_of_order(Release::Oldest);
}

/// The newest.
#[test]
fn losses_on_the_newest_release() {
    casts_may_be_lost_late_repeated_and_out_of_order(Release::Newest);
}

#[expect(clippy::print_stdout, reason = "what a failure is read by")]
fn casts_may_be_lost_late_repeated_and_out_of_order(release: Release) {
    let seed = std::env::var("L2ISOLATE_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("seed: L2ISOLATE_SEED={seed}");
    let cloud = Cloud::up(release);
    let hosts = cloud.hypervisors();
    let shed = cloud.namespace(SHED);
    netns::create(std::slice::from_ref(&shed)).unwrap();
    let relay = Relay::start(&cloud.rig, &hosts, seed);
    for host in &hosts {
        let exchange = exchange(host);
        let more = format!("{SYNC}\n[DEFAULT]\ncontrol_exchange = {exchange}\n");
        cloud.configure_agent(host, &more);
        cloud.kill_agent(host);
        cloud.start_agent(host);
        cloud.until("the agent hears casts", || hears(&cloud, host));
    }

    let world = World::make(&cloud);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            cloud.until("casts are heard", || {
                relay.counts.all().iter().sum::<usize>() > KILLED_AFTER
            });
            cloud.rig.broker().kill().unwrap();
            cloud.rig.broker().start().unwrap();
        });
        for number in 0..TENANTS {
            let world = &world;
            scope.spawn(move || {
                Tenant {
                    world,
                    dice: fastrand::Rng::with_seed(seed.wrapping_add(1 + number)),
                    ports: Vec::new(),
                    rules: Vec::new(),
                }
                .live();
            });
        }
    });
    let counts = relay.counts.all();
    println!("casts lost, late, repeated, passed: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");

    for host in &hosts {
        let last = RefCell::new(Vec::new());
        cloud.until("the agent has what Neutron has", || {
            let now = differences(&cloud, host);
            if last.replace(now.clone()) != now {
                println!("{host} is still to be told: {now:?}");
            }
            now.is_empty() && cloud.agent_status(host)["in_sync"] == true
        });
        let heard = cloud.agent_status(host)["source"]["contact"]["casts"].clone();
        assert!(heard.as_u64().unwrap() > 0, "{heard}");
    }
    cloud.until("ports are ACTIVE where their taps are", || {
        world.statuses_are_right()
    });
    drop(relay);
    // An agent that is only told by `sync`, and knew nothing before, wants the
    // same, in the kernel and in what guests are told.
    for host in &hosts {
        let before = traces(&cloud, host);
        cloud.kill_agent(host);
        cloud.forget(host);
        cloud.configure_agent(host, "sync_interval = 3600\nmetadata_user = nobody\n");
        cloud.start_agent(host);
        cloud.until("the agent is in sync", || {
            let status = cloud.agent_status(host);
            status["in_sync"] == true && status["source"]["contact"]["last_sync"].is_string()
        });
        let after = traces(&cloud, host);
        let other = before.iter().zip(&after).find(|(one, other)| one != other);
        assert!(
            before.len() == after.len() && other.is_none(),
            "{host}: {other:#?}\n{}",
            cloud.agent_log(host)
        );
    }
    netns::delete(&[shed]).unwrap();
    cloud.down();
}

fn hears(cloud: &Cloud, host: &str) -> bool {
    cloud.agent(host)["configurations"]["hears_casts"] == true
}

/// What a `sync` would bring to an agent that has what this one keeps.
fn differences(cloud: &Cloud, host: &str) -> Vec<String> {
    let kept = cloud.kept(host);
    let mut digests = Map::new();
    for kind in KINDS {
        let of_kind = kept.iter().filter(|(list, _)| list == kind);
        let ids = of_kind.map(|(_, object)| {
            let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            (text("id"), Value::from(text("digest")))
        });
        digests.insert(kind.to_owned(), Value::Object(ids.collect()));
    }
    let reply = sync(cloud, host, &digests.into());
    let mut all = Vec::new();
    for kind in KINDS {
        for (list, what) in [(&reply[kind], "differs"), (&reply["gone"][kind], "is gone")] {
            for object in list.as_array().unwrap() {
                all.push(format!("{kind} {} {what}", object["id"]));
            }
        }
    }
    all
}

fn sync(cloud: &Cloud, host: &str, digests: &Value) -> Value {
    let mut options = Options::read(&cloud.rig.transport_url(), |_| None).unwrap();
    options.exchange = "neutron".to_owned();
    let arguments = json!({"host": host, "digests": digests});
    let arguments = arguments.as_object().cloned().unwrap();
    netns::inside(cloud.rig.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let transport = Transport::start(options);
            let client = transport.client(Target::new("l2isolate"));
            let reply = client.call(&Context::admin(), "sync", arguments).await;
            transport.close().await;
            reply.unwrap()
        })
    })
    .unwrap()
}

/// What an agent has left in its hypervisor: firewall, routes, neighbours, and
/// what guests are told.
fn traces(cloud: &Cloud, host: &str) -> Vec<String> {
    let namespace = cloud.namespace(host);
    let nft = netns::command(&namespace, "nft")
        .args(["--stateless", "list", "ruleset"])
        .output()
        .unwrap();
    let mut all = vec![String::from_utf8(nft.stdout).unwrap()];
    assert!(all[0].contains("l2isolate"), "{}", all[0]);
    for family in ["-4", "-6"] {
        let routes = ["route", "show", "table", "all", "proto", "76"];
        for args in [&routes[..], &["neigh", "show", "nud", "permanent"]] {
            let args: Vec<&str> = [family].iter().chain(args).copied().collect();
            all.push(sorted(&netns::ip(&namespace, &args).unwrap()));
        }
    }
    all.extend(cloud.guest_files(host));
    all
}

fn sorted(text: &str) -> String {
    let lines: BTreeSet<&str> = text.lines().collect();
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

/// What tenants share.
struct World<'a> {
    cloud: &'a Cloud,
    hosts: [String; 2],
    groups: Vec<String>,
    address_group: String,
    /// Ports with a tap.
    tapped: Mutex<BTreeSet<String>>,
    numbers: AtomicU32,
}

impl<'a> World<'a> {
    fn make(cloud: &'a Cloud) -> Self {
        let groups = ["a", "b", "c"].map(|name| cloud.group(name));
        let body = json!({"address_group": {"name": "a", "addresses": ["192.0.2.0/24"]}});
        let address_group = cloud.ask("POST", "address-groups", Some(body));
        Self {
            cloud,
            hosts: cloud.hypervisors(),
            groups: groups.to_vec(),
            address_group: id(&address_group["address_group"]),
            tapped: Mutex::default(),
            numbers: AtomicU32::new(1),
        }
    }

    /// Another one for each call.
    fn number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn statuses_are_right(&self) -> bool {
        let ports = self.cloud.ask("GET", "ports", None);
        let tapped = self.tapped.lock().unwrap();
        ports["ports"].as_array().unwrap().iter().all(|port| {
            let up = tapped.contains(&id(port)) && port["admin_state_up"] == true;
            (port["status"] == "ACTIVE") == up
        })
    }

    /// Nova's plug.
    fn plug(&self, port: &str, host: &str) {
        let (tap, end) = (format!("tap{}", &port[..11]), self.number());
        let shed = self.cloud.namespace(SHED);
        let veth = format!("link add {tap} type veth peer name end{end} netns {shed}\n");
        netns::batch(Some(&self.cloud.namespace(host)), &veth).unwrap();
        let up = format!("link set end{end} up\n");
        netns::batch(Some(&shed), &up).unwrap();
        self.tapped.lock().unwrap().insert(port.to_owned());
    }

    fn unplug(&self, port: &str, host: &str) {
        let line = format!("link del tap{}\n", &port[..11]);
        netns::batch(Some(&self.cloud.namespace(host)), &line).unwrap();
    }
}

/// A port of a tenant.
struct Port {
    id: String,
    /// One of the two.
    host: usize,
}

/// Somebody who changes things.
struct Tenant<'a> {
    world: &'a World<'a>,
    dice: fastrand::Rng,
    ports: Vec<Port>,
    rules: Vec<String>,
}

impl Tenant<'_> {
    fn live(&mut self) {
        for _ in 0..CHANGES {
            match self.dice.u8(..13) {
                0..3 => self.boot(1),
                3 => self.boot(3),
                4 => self.delete(),
                5..8 => self.change_port(),
                8 => self.make_rule(),
                9 => self.delete_rule(),
                10 => self.change_others(),
                11 => self.migrate(),
                _ => self.move_cold(),
            }
        }
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let body = (!body.is_null()).then_some(body);
        self.world.cloud.ask(method, path, body)
    }

    fn group(&mut self) -> String {
        let groups = &self.world.groups;
        groups[self.dice.usize(..groups.len())].clone()
    }

    /// One of the own ports, if there is one.
    fn any(&mut self) -> Option<usize> {
        let count = self.ports.len();
        (count > 0).then(|| self.dice.usize(..count))
    }

    fn boot(&mut self, count: usize) {
        let host = self.dice.usize(..2);
        let group = self.group();
        let ports: Vec<Value> = (0..count)
            .map(|_| {
                json!({
                    "network_id": self.world.cloud.network,
                    "binding:host_id": self.world.hosts[host], "device_owner": "compute:nova",
                    "device_id": INSTANCE, "security_groups": [group],
                    "allowed_address_pairs": [{"ip_address": self.pair()}],
                })
            })
            .collect();
        let made = self.ask("POST", "ports", json!({ "ports": ports }));
        for port in made["ports"].as_array().unwrap() {
            let id = id(port);
            self.world.plug(&id, &self.world.hosts[host]);
            self.ports.push(Port { id, host });
        }
    }

    fn pair(&mut self) -> String {
        let number = self.world.number();
        format!("203.0.{}.{}", 100 + number / 250, number % 250)
    }

    fn delete(&mut self) {
        let Some(index) = self.any() else { return };
        let Port { id, host } = self.ports.swap_remove(index);
        self.world.unplug(&id, &self.world.hosts[host]);
        self.world.tapped.lock().unwrap().remove(&id);
        self.ask("DELETE", &format!("ports/{id}"), Value::Null);
    }

    fn change_port(&mut self) {
        let Some(index) = self.any() else { return };
        let id = self.ports[index].id.clone();
        let name = format!("vm-{}", self.world.number());
        let fields = match self.dice.u8(..7) {
            0 => json!({"name": name}),
            1 => json!({"dns_name": name}),
            2 => json!({"admin_state_up": self.dice.bool()}),
            3 => json!({"allowed_address_pairs": [{"ip_address": self.pair()}]}),
            4 => json!({"port_security_enabled": true, "security_groups": [self.group()]}),
            5 => json!({"port_security_enabled": false, "security_groups": [],
                        "allowed_address_pairs": []}),
            _ => json!({"extra_dhcp_opts": [
                {"opt_name": "bootfile-name", "opt_value": name}]}),
        };
        // Pairs aren't taken while the port is without security.
        let secure = json!({"port": {"port_security_enabled": true}});
        if fields.get("allowed_address_pairs").is_some() {
            self.ask("PUT", &format!("ports/{id}"), secure);
        }
        self.ask("PUT", &format!("ports/{id}"), json!({ "port": fields }));
    }

    fn make_rule(&mut self) {
        let port = 1000 + self.world.number();
        let mut rule = json!({
            "security_group_id": self.group(), "direction": "ingress", "ethertype": "IPv4",
            "protocol": "tcp", "port_range_min": port, "port_range_max": port,
        });
        match self.dice.u8(..3) {
            0 => rule["remote_group_id"] = self.group().into(),
            1 => rule["remote_address_group_id"] = self.world.address_group.clone().into(),
            _ => {}
        }
        let made = self.ask(
            "POST",
            "security-group-rules",
            json!({ "security_group_rule": rule }),
        );
        self.rules.push(id(&made["security_group_rule"]));
    }

    fn delete_rule(&mut self) {
        if let Some(id) = self.rules.pop() {
            self.ask("DELETE", &format!("security-group-rules/{id}"), Value::Null);
        }
    }

    /// An address group's addresses, a subnet's options, a network's MTU.
    fn change_others(&mut self) {
        let number = self.world.number();
        let (network, subnet) = (&self.world.cloud.network, &self.world.cloud.subnet);
        match self.dice.u8(..4) {
            0 => {
                let path = format!("address-groups/{}/add_addresses", self.world.address_group);
                let prefix = format!("198.51.{}.{}/32", number / 250, number % 250);
                self.ask("PUT", &path, json!({"addresses": [prefix]}));
            }
            1 => {
                let servers = json!({"dns_nameservers": [format!("192.0.2.{}", number % 250)]});
                self.ask(
                    "PUT",
                    &format!("subnets/{subnet}"),
                    json!({ "subnet": servers }),
                );
            }
            2 => {
                let routes = json!({"host_routes": [
                    {"destination": "192.0.2.0/24", "nexthop": format!("10.252.0.{}", number % 250)}]});
                self.ask(
                    "PUT",
                    &format!("subnets/{subnet}"),
                    json!({ "subnet": routes }),
                );
            }
            _ => {
                let mtu = json!({"network": {"mtu": 1400 + number % 100}});
                self.ask("PUT", &format!("networks/{network}"), mtu);
            }
        }
    }

    /// As Nova does it, live.
    fn migrate(&mut self) {
        let Some(index) = self.any() else { return };
        let Port { id, host } = &self.ports[index];
        let (id, from) = (id.clone(), *host);
        let to = 1 - from;
        let path = format!("ports/{id}/bindings");
        let [source, destination] = [from, to].map(|host| self.world.hosts[host].clone());
        self.ask("POST", &path, json!({"binding": {"host": destination}}));
        self.world.plug(&id, &destination);
        self.ask(
            "PUT",
            &format!("{path}/{destination}/activate"),
            Value::Null,
        );
        self.world.unplug(&id, &source);
        self.ask("DELETE", &format!("{path}/{source}"), Value::Null);
        self.ports[index].host = to;
    }

    /// The port moves while its machine is off, and its MAC becomes another one,
    /// which Neutron allows only while it is bound to no host.
    fn move_cold(&mut self) {
        let Some(index) = self.any() else { return };
        let Port { id, host } = &self.ports[index];
        let (id, from) = (id.clone(), *host);
        let to = 1 - from;
        let number = self.world.number();
        let path = format!("ports/{id}");
        self.world.unplug(&id, &self.world.hosts[from]);
        self.ask("PUT", &path, json!({"port": {"binding:host_id": ""}}));
        let mac = format!("fa:17:00:00:{:02x}:{:02x}", number / 256, number % 256);
        self.ask("PUT", &path, json!({"port": {"mac_address": mac}}));
        let host = &self.world.hosts[to];
        self.ask("PUT", &path, json!({"port": {"binding:host_id": host}}));
        self.world.plug(&id, host);
        self.ports[index].host = to;
    }
}

fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

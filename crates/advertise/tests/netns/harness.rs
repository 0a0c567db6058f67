//! ```text
//!   t1 (FRR, AS 65001) ── t1 ┐
//!                            ├ hv (rendered, AS 4200000010)
//!   t2 (BIRD, AS 65002) ─ t2 ┘
//! ```
//!
//! Owns its namespaces, its directory and its daemons; all go when it is
//! dropped.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv6Addr,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use l2isolate_advertise::{
    Handover,
    driver::{BirdSettings, Change, Daemon, Driver, FrrSettings, GobgpSettings, Observed},
    render::{self, Flavour, Uplink, Way},
};
use l2isolate_lab::netns;
use l2isolate_model::announce::{Attributes, Community};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Group, Pid, User},
};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing takes that long; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(30);
/// The hypervisor's AS.
pub(crate) const ASN: u32 = 4_200_000_010;
const SWITCHES: [(&str, u32); 2] = [("t1", 65001), ("t2", 65002)];

/// What a switch has learned of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Learned {
    pub(crate) path: Vec<u32>,
    pub(crate) graceful_shutdown: bool,
}

/// The hypervisor and its switches.
pub(crate) struct Fabric {
    name: String,
    namespaces: Vec<String>,
    directory: TempDir,
    pub(crate) flavour: Flavour,
    host: Vec<Child>,
    switches: Vec<Child>,
}

impl Fabric {
    /// With the hypervisor's daemon running, and told by its driver.
    pub(crate) fn new(flavour: Flavour) -> Self {
        Self::with(flavour, |_| {})
    }

    /// The same with something else in the rendered configuration.
    pub(crate) fn with(flavour: Flavour, change: impl FnOnce(&mut render::Host)) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces: run them as root"
        );
        let directory = TempDir::with_prefix("l2isolate-advertise-").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let unique = directory.path().file_name().unwrap().to_str().unwrap();
        let name = format!("l2i-a{}", unique.trim_start_matches("l2isolate-advertise-"));
        let mut fabric = Self {
            name,
            namespaces: Vec::new(),
            directory,
            flavour,
            host: Vec::new(),
            switches: Vec::new(),
        };
        for node in ["hv", "t1", "t2"] {
            let namespace = fabric.namespace(node);
            netns::create(std::slice::from_ref(&namespace)).unwrap();
            fabric.namespaces.push(namespace.clone());
            let settings = [
                ("ipv6.conf.default.accept_dad", "0"),
                ("ipv6.conf.default.dad_transmits", "0"),
            ];
            netns::sysctl(&namespace, &settings).unwrap();
            netns::ip(&namespace, &["link", "set", "lo", "up"]).unwrap();
            let place = fabric.path(node);
            fs::create_dir(&place).unwrap();
            let (user, group) = (User::from_name("frr"), Group::from_name("frrvty"));
            let (user, group) = (user.unwrap().unwrap(), group.unwrap().unwrap());
            nix::unistd::chown(&place, Some(user.uid), Some(group.gid)).unwrap();
        }
        for (switch, _) in SWITCHES {
            let far = fabric.namespace(switch);
            let lines = format!(
                "link add {switch} type veth peer name hv netns {far}\nlink set {switch} up\n"
            );
            netns::batch(Some(&fabric.namespace("hv")), &lines).unwrap();
            netns::ip(&far, &["link", "set", "hv", "up"]).unwrap();
        }
        fabric.start_switches();
        let mut host = fabric.host_config();
        change(&mut host);
        if flavour == Flavour::Gobgp {
            fabric.introduce();
        }
        let text = render::render(&host, flavour).unwrap();
        fs::write(fabric.config(), text).unwrap();
        fabric.start();
        fabric
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    fn config(&self) -> PathBuf {
        self.path("hv").join("rendered.conf")
    }

    /// What the hypervisor's configuration is rendered from.
    pub(crate) fn host_config(&self) -> render::Host {
        let uplinks = SWITCHES.map(|(interface, asn)| Uplink {
            interface: interface.to_owned(),
            peer: self.peer_address(interface),
            peer_asn: Some(asn),
        });
        render::Host {
            uplinks: uplinks.to_vec(),
            bird_file: self.path("hv").join("l2isolate.conf"),
            version: version(self.flavour).to_owned(),
            ..host(self.flavour)
        }
    }

    fn peer_address(&self, switch: &str) -> Option<Ipv6Addr> {
        let far = self.namespace(switch);
        let mut address = None;
        self.until("a link-local address", || {
            address = link_local(&far, "hv");
            address.is_some()
        });
        address
    }

    /// How the hypervisor's daemon is reached.
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_as(None)
    }

    /// The same as another user.
    pub(crate) fn daemon_as(&self, user: Option<&str>) -> Daemon {
        let place = self.path("hv");
        match self.flavour {
            Flavour::Frr => Daemon::Frr(FrrSettings {
                vtysh: "/usr/bin/vtysh".into(),
                sockets: place,
                user: user.map(str::to_owned),
            }),
            Flavour::Bird => Daemon::Bird(BirdSettings {
                socket: place.join("bird.ctl"),
                file: place.join("l2isolate.conf"),
            }),
            Flavour::Gobgp => Daemon::Gobgp(GobgpSettings {
                address: format!("unix://{}", place.join("gobgp.sock").display()),
            }),
        }
    }

    /// Starts the hypervisor's daemon.
    pub(crate) fn start(&mut self) {
        let (namespace, place, config) = (self.namespace("hv"), self.path("hv"), self.config());
        match self.flavour {
            Flavour::Frr => {
                self.host = frr(&namespace, &place, None, true);
                // As FRR's own start script has it read what is in one file.
                let read = Command::new("vtysh")
                    .arg("--vty_socket")
                    .arg(&place)
                    .arg("-f")
                    .arg(&config)
                    .output()
                    .unwrap();
                assert!(read.status.success(), "{read:?}");
            }
            Flavour::Bird => self.host = vec![bird(&namespace, &place, &config)],
            Flavour::Gobgp => {
                let socket = place.join("gobgp.sock");
                let _ = fs::remove_file(&socket);
                let mut command = netns::command(&namespace, "gobgpd");
                command.args(["-t", "toml", "-f"]).arg(&config);
                command
                    .arg("--api-hosts")
                    .arg(format!("unix://{}", socket.display()));
                command.args(["--pprof-disable", "--log-plain"]);
                self.host = vec![spawn(command, &place.join("gobgpd.log"))];
                wait_for(&socket);
            }
        }
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&mut self) {
        end(&mut self.host);
    }

    /// GoBGP sends no router advertisements, so an FRR must be told of it.
    fn introduce(&self) {
        let own = link_local(&self.namespace("hv"), "t1");
        let own = own.unwrap().to_string();
        let neighbor = |what: &str| format!("neighbor {own} {what}");
        let mut lines = vec![
            "configure terminal".to_owned(),
            "router bgp 65001".to_owned(),
            "no neighbor hv interface remote-as external".to_owned(),
            neighbor("remote-as external"),
            neighbor("interface hv"),
            neighbor("capability extended-nexthop"),
            neighbor("timers connect 1"),
        ];
        for family in ["ipv4", "ipv6"] {
            lines.push(format!("address-family {family} unicast"));
            lines.push(neighbor("activate"));
            lines.push("exit-address-family".to_owned());
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        self.vtysh("t1", &lines);
    }

    fn start_switches(&mut self) {
        let place = self.path("t1");
        let config = "hostname t1\nrouter bgp 65001\n bgp router-id 10.255.0.1\n \
             no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
             bgp graceful-restart\n timers bgp 3 9\n neighbor hv interface remote-as external\n \
             neighbor hv timers connect 1\n \
             address-family ipv4 unicast\n  network 0.0.0.0/0\n  network 10.9.0.0/16\n  neighbor hv activate\n \
             exit-address-family\n address-family ipv6 unicast\n  network ::/0\n  neighbor hv activate\n \
             exit-address-family\nexit\n";
        fs::write(place.join("bgpd.conf"), config).unwrap();
        let mut switches = frr(
            &self.namespace("t1"),
            &place,
            Some(&place.join("bgpd.conf")),
            false,
        );
        let place = self.path("t2");
        let config = "router id 10.255.0.2;\nprotocol device {}\n\
             protocol radv { interface \"hv\" { min ra interval 3; max ra interval 4; default lifetime 0; }; }\n\
             protocol static { ipv4; route 0.0.0.0/0 unreachable; route 10.8.0.0/16 unreachable; }\n\
             protocol static { ipv6; route ::/0 unreachable; }\n\
             protocol bgp hv { local as 65002; interface \"hv\"; neighbor range fe80::/10 external;\n\
             dynamic name \"from\"; graceful restart on;\n\
             ipv4 { extended next hop yes; import all; export where source = RTS_STATIC; };\n\
             ipv6 { import all; export where source = RTS_STATIC; }; }\n";
        fs::write(place.join("bird.conf"), config).unwrap();
        switches.push(bird(
            &self.namespace("t2"),
            &place,
            &place.join("bird.conf"),
        ));
        self.switches = switches;
    }

    /// What a switch has learned from the hypervisor.
    pub(crate) fn learned(&self, switch: &str) -> BTreeMap<IpNet, Learned> {
        match switch {
            "t1" => self.learned_by_frr(),
            _ => self.learned_by_bird(),
        }
    }

    fn learned_by_frr(&self) -> BTreeMap<IpNet, Learned> {
        let mut learned = BTreeMap::new();
        for family in ["ipv4", "ipv6"] {
            let question = format!("show bgp {family} unicast json detail");
            let answer = self.vtysh("t1", &[&question]);
            let answer: Value = serde_json::from_str(&answer).unwrap();
            for (prefix, items) in answer["routes"].as_object().into_iter().flatten() {
                let items = items.as_array().unwrap();
                let path = items
                    .iter()
                    .find(|item| item["aspath"].is_object() && item["local"] != true);
                let Some(path) = path else { continue };
                let segments = path["aspath"]["segments"].as_array().unwrap();
                let numbers = segments.iter().flat_map(|s| s["list"].as_array().unwrap());
                let communities = path["community"]["string"].as_str().unwrap_or_default();
                learned.insert(
                    prefix.parse().unwrap(),
                    Learned {
                        path: numbers.map(|n| n.as_u64().unwrap() as u32).collect(),
                        graceful_shutdown: communities.contains("graceful-shutdown"),
                    },
                );
            }
        }
        learned
    }

    fn learned_by_bird(&self) -> BTreeMap<IpNet, Learned> {
        let mut learned: BTreeMap<IpNet, Learned> = BTreeMap::new();
        let listing = self.birdc("t2", "show route where source = RTS_BGP all");
        let mut last = None;
        for line in listing.lines() {
            if let Some(prefix) = line.split(' ').next().and_then(|word| word.parse().ok()) {
                last = Some(prefix);
                let new = Learned {
                    path: Vec::new(),
                    graceful_shutdown: false,
                };
                learned.insert(prefix, new);
            }
            let Some(entry) = last.and_then(|prefix| learned.get_mut(&prefix)) else {
                continue;
            };
            let line = line.trim();
            if let Some(path) = line.strip_prefix("BGP.as_path: ") {
                entry.path = path.split(' ').map(|word| word.parse().unwrap()).collect();
            } else if let Some(communities) = line.strip_prefix("BGP.community: ") {
                entry.graceful_shutdown = communities.contains("(65535,0)");
            }
        }
        learned
    }

    /// Withdrawals that the switch of BIRD has heard.
    pub(crate) fn withdrawals(&self) -> u64 {
        let listing = self.birdc("t2", "show protocols all");
        let counts = listing
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Import withdraws:"));
        counts
            .map(|line| {
                let word = line.split_ascii_whitespace().next().unwrap();
                word.parse::<u64>().unwrap_or(0)
            })
            .sum()
    }

    /// Asks FRR of a node.
    pub(crate) fn vtysh(&self, node: &str, commands: &[&str]) -> String {
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(self.path(node));
        command.args(["-d", "bgpd"]);
        for line in commands {
            command.args(["-c", line]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{commands:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Asks BIRD of a node.
    pub(crate) fn birdc(&self, node: &str, command: &str) -> String {
        let output = Command::new("birdc")
            .arg("-s")
            .arg(self.path(node).join("bird.ctl"))
            .args(command.split(' '))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until it is so.
    pub(crate) fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let end = Instant::now() + LONG;
        while !so() {
            assert!(Instant::now() < end, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until both sessions are up.
    pub(crate) fn up(&self, driver: &mut dyn Driver) -> Observed {
        let mut last = None;
        self.until("both sessions up", || {
            let observed = driver.observe().ok();
            let up = observed.as_ref().is_some_and(|observed| {
                let up = observed.peers.values().filter(|peer| peer.established);
                up.count() == 2
            });
            last = observed;
            up
        });
        last.unwrap()
    }

    /// Waits until both switches have learned exactly this.
    pub(crate) fn both_learned(&self, expected: &BTreeMap<IpNet, Learned>) {
        for (switch, _) in SWITCHES {
            let mut seen = BTreeMap::new();
            let end = Instant::now() + LONG;
            while seen != *expected {
                assert!(
                    Instant::now() < end,
                    "{switch} has learned {seen:#?} instead of {expected:#?}"
                );
                std::thread::sleep(Duration::from_millis(50));
                seen = self.learned(switch);
            }
        }
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in ["hv", "t1", "t2"] {
                for name in ["bgpd.log", "bird.log", "gobgpd.log"] {
                    if let Ok(text) = fs::read_to_string(self.path(node).join(name)) {
                        let tail: Vec<&str> = text.lines().rev().take(20).collect();
                        eprintln!("{node}/{name}: {tail:#?}");
                    }
                }
            }
        }
        end(&mut self.host);
        end(&mut self.switches);
        let _ = netns::delete(&self.namespaces);
    }
}

fn link_local(namespace: &str, device: &str) -> Option<Ipv6Addr> {
    let shown = netns::ip(namespace, &["-j", "addr", "show", device]).unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let all = shown[0]["addr_info"].as_array()?.iter();
    let local = all.into_iter().find(|entry| entry["scope"] == "link")?;
    local["local"].as_str()?.parse().ok()
}

/// A host that all flavours can render.
pub(crate) fn host(flavour: Flavour) -> render::Host {
    let prefixes = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    render::Host {
        name: "hv".to_owned(),
        asn: ASN,
        router_id: "10.255.0.10".parse().unwrap(),
        uplinks: SWITCHES
            .map(|(interface, asn)| Uplink {
                interface: interface.to_owned(),
                peer: None,
                peer_asn: Some(asn),
            })
            .to_vec(),
        way: Way::Told,
        handover: Handover {
            protocol: 76,
            metric: 5,
            steps: 2,
            asn: ASN,
            guests: prefixes(["10.252.0.0/16", "2001:db8:252::/64"]),
            loopbacks: prefixes(["10.255.0.0/16", "2001:db8:255::/48"]),
        },
        maximum_prefixes: 100,
        bfd: false,
        password: None,
        roles: true,
        bird_file: "/etc/bird/l2isolate.conf".into(),
        version: version(flavour).to_owned(),
    }
}

fn version(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Frr => "8.4.4",
        Flavour::Bird => "2.0.12",
        Flavour::Gobgp => "3.10.0",
    }
}

/// Prefixes of guests.
pub(crate) fn prefix(number: u32) -> IpNet {
    format!("10.252.{}.{}/32", number / 250, number % 250)
        .parse()
        .unwrap()
}

/// The same of IPv6.
pub(crate) fn prefix6(number: u32) -> IpNet {
    format!("2001:db8:252::{number:x}/128").parse().unwrap()
}

/// What makes others prefer any other way.
pub(crate) fn drained(prepend: u8) -> Attributes {
    Attributes {
        communities: [Community::GRACEFUL_SHUTDOWN].into(),
        prepend,
        ..Attributes::default()
    }
}

/// What switches learn of a prefix that is announced so.
pub(crate) fn learned(attributes: &Attributes) -> Learned {
    Learned {
        path: vec![ASN; usize::from(attributes.prepend) + 1],
        graceful_shutdown: attributes.graceful_shutdown(),
    }
}

/// Makes changes that must all go well.
pub(crate) fn apply(driver: &mut dyn Driver, changes: &[Change]) {
    for (change, result) in changes.iter().zip(driver.apply(changes)) {
        result.unwrap_or_else(|failure| panic!("{change:?}: {failure}"));
    }
}

fn frr(namespace: &str, place: &Path, bgpd: Option<&Path>, bfd: bool) -> Vec<Child> {
    let empty = place.join("empty.conf");
    fs::write(&empty, "").unwrap();
    let zserv = place.join("zserv");
    let mut children = Vec::new();
    let daemons = [("zebra", true), ("bgpd", true), ("bfdd", bfd)];
    for (name, _) in daemons.iter().filter(|(_, wanted)| *wanted) {
        let config = match *name {
            "bgpd" => bgpd.unwrap_or(&empty),
            _ => &empty,
        };
        let socket = place.join(format!("{name}.vty"));
        let _ = fs::remove_file(&socket);
        let mut command = netns::command(namespace, format!("/usr/lib/frr/{name}"));
        command
            .args(["-u", "frr", "-g", "frr", "-P", "0", "--vty_socket"])
            .arg(place)
            .arg("-z")
            .arg(&zserv)
            .arg("-i")
            .arg(place.join(format!("{name}.pid")))
            .arg("-f")
            .arg(config)
            .arg("--log")
            .arg(format!(
                "file:{}",
                place.join(format!("{name}.log")).display()
            ));
        if *name == "bfdd" {
            command.arg("--bfdctl").arg(place.join("bfdd.sock"));
        }
        children.push(spawn(command, &place.join("out")));
        wait_for(&socket);
    }
    children
}

fn bird(namespace: &str, place: &Path, config: &Path) -> Child {
    let socket = place.join("bird.ctl");
    let _ = fs::remove_file(&socket);
    let mut command = netns::command(namespace, "bird");
    command
        .arg("-f")
        .arg("-c")
        .arg(config)
        .arg("-s")
        .arg(&socket);
    command.arg("-P").arg(place.join("bird.pid"));
    command.arg("-D").arg(place.join("bird.log"));
    let child = spawn(command, &place.join("out"));
    wait_for(&socket);
    child
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(log);
    let log = log.unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn wait_for(socket: &Path) {
    let end = Instant::now() + LONG;
    while UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < end, "{} isn't opened", socket.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn end(children: &mut Vec<Child>) {
    for child in children.iter_mut() {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        let _ = child.wait();
        let _ = fs::remove_dir_all(format!("/var/tmp/frr/bgpd.{}", child.id()));
        let _ = fs::remove_dir_all(format!("/var/tmp/frr/zebra.{}", child.id()));
        let _ = fs::remove_dir_all(format!("/var/tmp/frr/bfdd.{}", child.id()));
    }
    children.clear();
}

//! A host with a real routing daemon between two switches of BIRD.
//!
//! ```text
//!   guests ── hypervisor: agent, routing daemon ─┬─ up1 ── tor1 (AS 65001)
//!                                                └─ up2 ── tor2 (AS 65002)
//! ```

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv6Addr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use l2isolate_advertise::{
    Handover,
    render::{self, Flavour, Uplink, Way},
};
use l2isolate_lab::netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User},
};

use crate::harness::{Host, Port, array, run};

/// What is said of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Usual,
    /// GRACEFUL_SHUTDOWN (RFC 8326).
    Drained,
    /// A path that is longer by two, and of unknown origin.
    Leaving,
}

/// The host's AS.
const ASN: u32 = 4_200_000_010;
const SWITCHES: [(&str, u32); 2] = [("tor1", 65001), ("tor2", 65002)];

pub(super) struct Rig {
    pub(super) host: Host,
    flavour: Flavour,
    daemons: Vec<Child>,
    /// The switches' link-local addresses.
    addresses: Vec<Ipv6Addr>,
    switches: BTreeMap<&'static str, Child>,
}

impl Rig {
    /// The agent isn't started yet, everything else is.
    pub(super) fn new(flavour: Flavour, way: Way, options: &str) -> Self {
        let mut host = Host::new();
        let place = host.path("hv");
        fs::create_dir(&place).unwrap();
        let frr = User::from_name("frr").unwrap().unwrap();
        nix::unistd::chown(&place, Some(frr.uid), Some(frr.gid)).unwrap();
        let (mut switches, mut addresses) = (BTreeMap::new(), Vec::new());
        for (number, (switch, asn)) in SWITCHES.into_iter().enumerate() {
            let namespace = host.namespace(switch);
            let name = format!("up{}", number + 1);
            let lines = format!(
                "link add {name} type veth peer name hv netns {namespace}\nlink set {name} up\n"
            );
            netns::batch(Some(&host.hv), &lines).unwrap();
            netns::ip(&namespace, &["link", "set", "hv", "up"]).unwrap();
            addresses.push(link_local(&host, &namespace));
            let directory = host.path(switch);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("bird.conf"), switch_config(number, asn)).unwrap();
            switches.insert(switch, bird(&namespace, &directory, "bird.conf"));
        }
        let config = host.path("l2isolate.conf");
        let (ways, word) = match flavour {
            Flavour::Frr => ("frr", format!("frr_sockets = {}", place.display())),
            Flavour::Gobgp => (
                "gobgp",
                format!("gobgp_address = unix://{}/gobgp.sock", place.display()),
            ),
            Flavour::Bird => (
                "bird",
                format!(
                    "bird_socket = {0}/bird.ctl\nbird_file = {0}/l2isolate.conf",
                    place.display()
                ),
            ),
        };
        let announce = match way {
            Way::Told => format!("advertise = {ways}"),
            Way::Kernel => format!("verify_daemon = {ways}"),
        };
        let text = fs::read_to_string(&config).unwrap();
        let text = format!(
            "{text}{announce}\n{word}\nuplinks = up1, up2\nverify_interval = 0.3\n\
             guest_prefixes = 10.252.0.0/16, 2001:db8:252::/64\n{options}\n"
        );
        fs::write(config, text).unwrap();
        let mut rig = Self {
            host,
            flavour,
            daemons: Vec::new(),
            addresses,
            switches,
        };
        fs::write(place.join("rendered.conf"), rig.rendered(way)).unwrap();
        rig.start_daemon();
        rig
    }

    fn rendered(&self, way: Way) -> String {
        let prefixes = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
        let uplink = |number: usize| Uplink {
            interface: format!("up{}", number + 1),
            peer: Some(self.addresses[number]),
            peer_asn: Some(SWITCHES[number].1),
        };
        let host = render::Host {
            name: "hv".to_owned(),
            asn: ASN,
            router_id: "10.255.1.1".parse().unwrap(),
            uplinks: (0..2).map(uplink).collect(),
            way,
            handover: Handover {
                protocol: 76,
                metric: 5,
                steps: 2,
                asn: ASN,
                guests: prefixes(["10.252.0.0/16", "2001:db8:252::/64"]),
                loopbacks: prefixes(["10.255.0.0/16", "2001:db8:ff::/48"]),
            },
            maximum_prefixes: 100,
            bfd: false,
            password: None,
            roles: true,
            bird_file: self.host.path("hv/l2isolate.conf"),
            version: match self.flavour {
                Flavour::Frr => "8.4.4".to_owned(),
                Flavour::Bird => "2.0.12".to_owned(),
                Flavour::Gobgp => "3.10.0".to_owned(),
            },
        };
        render::render(&host, self.flavour).unwrap()
    }

    /// Starts the host's routing daemon.
    pub(super) fn start_daemon(&mut self) {
        let place = self.host.path("hv");
        match self.flavour {
            Flavour::Frr => {}
            Flavour::Bird => {
                self.daemons = vec![bird(&self.host.hv, &place, "rendered.conf")];
                return;
            }
            Flavour::Gobgp => {
                let socket = place.join("gobgp.sock");
                let _ = fs::remove_file(&socket);
                let mut command = netns::command(&self.host.hv, "gobgpd");
                command
                    .args(["-t", "toml", "-f"])
                    .arg(place.join("rendered.conf"));
                command
                    .arg("--api-hosts")
                    .arg(format!("unix://{}", socket.display()));
                command.args(["--pprof-disable", "--log-plain"]);
                self.daemons = vec![spawn(command, &place)];
                wait_for(&self.host, &socket);
                return;
            }
        }
        // Each daemon reads its own lines itself: told by vtysh, sessions start
        // while the lines come (docs/adr/0009).
        let rendered = fs::read_to_string(place.join("rendered.conf")).unwrap();
        let of_zebra = |line: &&str| line.starts_with("no zebra ");
        let (zebra, bgpd): (Vec<&str>, Vec<&str>) = rendered.lines().partition(of_zebra);
        fs::write(place.join("zebra.conf"), zebra.join("\n") + "\n").unwrap();
        fs::write(place.join("bgpd.conf"), bgpd.join("\n") + "\n").unwrap();
        for name in ["zebra", "bgpd"] {
            let socket = place.join(format!("{name}.vty"));
            let _ = fs::remove_file(&socket);
            let mut command = netns::command(&self.host.hv, format!("/usr/lib/frr/{name}"));
            command
                .args(["-u", "frr", "-g", "frr", "-P", "0", "--vty_socket"])
                .arg(&place)
                .arg("-z")
                .arg(place.join("zserv"))
                .arg("-i")
                .arg(place.join(format!("{name}.pid")))
                .arg("-f")
                .arg(place.join(format!("{name}.conf")))
                .arg("--log")
                .arg(format!("file:{}/{name}.log", place.display()));
            self.daemons.push(spawn(command, &place));
            wait_for(&self.host, &socket);
        }
    }

    /// Kills it as a crash would.
    pub(super) fn kill_daemon(&mut self) {
        end(self.daemons.drain(..));
    }

    /// Ends a switch for good.
    pub(super) fn kill_switch(&mut self, switch: &str) {
        end(self.switches.remove(switch));
    }

    /// What a switch has learned: each host prefix, and what is said of it.
    pub(super) fn learned(&self, switch: &str) -> BTreeMap<String, Said> {
        let socket = self.host.path(switch).join("bird.ctl");
        let listing = birdc(&socket, "show route where source = RTS_BGP all");
        let longest = format!("BGP.as_path:{}", format!(" {ASN}").repeat(3));
        let mut learned = BTreeMap::new();
        let (mut last, mut incomplete) = (String::new(), false);
        for line in listing.lines().map(str::trim_end) {
            if let Some((prefix, _)) = line.split_once(' ')
                && prefix.contains('/')
            {
                let host = prefix.trim_end_matches("/32").trim_end_matches("/128");
                host.clone_into(&mut last);
                incomplete = false;
                learned.insert(host.to_owned(), Said::Usual);
            }
            incomplete |= line.ends_with("BGP.origin: Incomplete");
            if line.contains("BGP.community") && line.contains("(65535,0)") {
                learned.insert(last.clone(), Said::Drained);
            } else if line.ends_with(&longest) && incomplete {
                learned.insert(last.clone(), Said::Leaving);
            }
        }
        learned
    }

    /// Waits until both switches have learned the loopbacks and these ports.
    pub(super) fn announced(&self, ports: &[&Port], drained: bool) {
        let loopbacks = [crate::harness::LOOPBACK4, crate::harness::LOOPBACK6];
        let loopbacks = loopbacks.map(str::to_owned).into_iter();
        let addresses = ports.iter().flat_map(|port| [port.v4(), port.v6()]);
        let all = loopbacks.chain(addresses);
        let said = if drained { Said::Drained } else { Said::Usual };
        self.has_learned(&all.map(|address| (address, said)).collect());
    }

    /// Waits until both switches have learned the loopbacks and the first ports
    /// unmarked, the others marked.
    pub(super) fn announced_with(&self, plain: &[&Port], leaving: &[&Port]) {
        let loopbacks = [crate::harness::LOOPBACK4, crate::harness::LOOPBACK6];
        let mut expected = BTreeMap::new();
        expected.extend(loopbacks.map(|address| (address.to_owned(), Said::Usual)));
        for (ports, mark) in [(plain, Said::Usual), (leaving, Said::Leaving)] {
            let addresses = ports.iter().flat_map(|port| [port.v4(), port.v6()]);
            expected.extend(addresses.map(|address| (address, mark)));
        }
        self.has_learned(&expected);
    }

    fn has_learned(&self, expected: &BTreeMap<String, Said>) {
        let switches: Vec<&str> = self.switches.keys().copied().collect();
        for switch in switches {
            let mut seen = BTreeMap::new();
            self.host
                .until(&format!("{switch} has learned {expected:?}"), || {
                    let now = self.learned(switch);
                    if now != seen {
                        eprintln!("{switch}: {now:?}");
                        seen = now;
                    }
                    seen == *expected
                });
        }
    }

    /// Tells the host's daemon something, as an operator would.
    pub(super) fn by_hand(&self, commands: &[&str]) {
        let place = self.host.path("hv");
        let mut command = match self.flavour {
            Flavour::Bird => {
                for command in commands {
                    birdc(&place.join("bird.ctl"), command);
                }
                return;
            }
            Flavour::Gobgp => {
                let mut command = Command::new("gobgp");
                let socket = place.join("gobgp.sock");
                command
                    .arg("--target")
                    .arg(format!("unix://{}", socket.display()));
                command.args(commands);
                command
            }
            Flavour::Frr => {
                let mut command = Command::new("vtysh");
                command.arg("--vty_socket").arg(place).args(["-d", "bgpd"]);
                for line in commands {
                    command.args(["-c", line]);
                }
                command
            }
        };
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A command of the agent's program.
    pub(super) fn command(&self, arguments: &[&str]) -> Output {
        let socket = self.host.socket();
        let mut all = arguments.to_vec();
        all.extend(["--socket", socket.to_str().unwrap()]);
        run(&all)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        end(self.daemons.drain(..));
        end(std::mem::take(&mut self.switches).into_values());
    }
}

fn link_local(host: &Host, namespace: &str) -> Ipv6Addr {
    let mut address = None;
    host.until("a link-local address", || {
        let device = &array(namespace, "-j addr show hv")[0];
        let all = device["addr_info"].as_array().unwrap();
        let local = all.iter().find(|entry| entry["scope"] == "link");
        address = local.and_then(|entry| entry["local"].as_str()?.parse().ok());
        address.is_some()
    });
    address.unwrap()
}

fn switch_config(number: usize, asn: u32) -> String {
    format!(
        "router id 10.255.9.{number};\nprotocol device {{}}\n\
         protocol radv {{ interface \"hv\" {{ min ra interval 3; max ra interval 4; default lifetime 0; }}; }}\n\
         protocol static {{ ipv4; route 0.0.0.0/0 unreachable; }}\n\
         protocol static {{ ipv6; route ::/0 unreachable; }}\n\
         protocol bgp hv {{ local as {asn}; interface \"hv\"; neighbor range fe80::/10 external;\n\
         dynamic name \"from\";\n\
         ipv4 {{ extended next hop yes; import all; export where source = RTS_STATIC; }};\n\
         ipv6 {{ import all; export where source = RTS_STATIC; }}; }}\n"
    )
}

fn birdc(socket: &Path, command: &str) -> String {
    let output = Command::new("birdc")
        .arg("-s")
        .arg(socket)
        .args(command.split(' '))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn bird(namespace: &str, place: &Path, config: &str) -> Child {
    let socket: PathBuf = place.join("bird.ctl");
    let _ = fs::remove_file(&socket);
    let mut command = netns::command(namespace, "bird");
    command.args(["-f", "-c"]).arg(place.join(config));
    command.arg("-s").arg(&socket);
    command.arg("-P").arg(place.join("bird.pid"));
    command.arg("-D").arg(place.join("bird.log"));
    let child = spawn(command, place);
    while UnixStream::connect(&socket).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child
}

fn spawn(mut command: Command, place: &Path) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(place.join("out"))
        .unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn wait_for(host: &Host, socket: &Path) {
    host.until("the daemon's socket", || {
        UnixStream::connect(socket).is_ok()
    });
}

fn end(children: impl IntoIterator<Item = Child>) {
    for mut child in children {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        let _ = child.wait();
        for name in ["zebra", "bgpd"] {
            let _ = fs::remove_dir_all(format!("/var/tmp/frr/{name}.{}", child.id()));
        }
    }
}

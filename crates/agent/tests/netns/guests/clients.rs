//! Real clients with the scripts that Debian ships: what they make of a lease,
//! seen in their namespace.
//!
//! Each runs with a copy of /etc and a host name of its own, so that what it
//! does to the machine is done to the guest alone.

use std::{fs, path::PathBuf, process::Command};

use l2isolate_lab::netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{Cloud, Machine};
use crate::harness::{GATEWAY4, TAP_MAC};

/// A client's own files.
pub(super) struct Place {
    directory: PathBuf,
}

impl Place {
    pub(super) fn new(cloud: &Cloud, machine: &Machine) -> Self {
        let directory = cloud.host.path(&format!("client-{}", machine.port.tap()));
        fs::create_dir(&directory).unwrap();
        let copied = Command::new("cp")
            .args(["-a", "/etc"])
            .arg(&directory)
            .status()
            .unwrap();
        assert!(copied.success());
        let etc = directory.join("etc");
        let _ = fs::remove_file(etc.join("resolv.conf"));
        fs::write(etc.join("resolv.conf"), "").unwrap();
        for state in ["dhcp", "dhcpcd", "run"] {
            fs::create_dir(directory.join(state)).unwrap();
        }
        Self { directory }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The name servers, and where to look for short names.
    pub(super) fn resolver(&self) -> Vec<String> {
        let text = self.read("etc/resolv.conf");
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        text.lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| words(line).join(" "))
            .collect()
    }

    /// Runs a client to its end, or to where it goes into the background.
    pub(super) fn run(&self, machine: &Machine, line: &str) -> String {
        let directory = self.directory.display();
        let script = format!(
            "mount --bind {directory}/etc /etc && \
             mkdir -p /var/lib/dhcp /var/lib/dhcpcd /run/dhcpcd && \
             mount --bind {directory}/run /run/dhcpcd && \
             mount --bind {directory}/dhcp /var/lib/dhcp && \
             mount --bind {directory}/dhcpcd /var/lib/dhcpcd && \
             {line}"
        );
        let log = self.path("log");
        let output = fs::File::create(&log).unwrap();
        // Not a pipe: who stays in the background would hold it open.
        let status = netns::command(&machine.namespace, "unshare")
            .args(["--uts", "timeout", "30", "sh", "-c", &script])
            .stdin(std::process::Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status()
            .unwrap();
        let text = fs::read_to_string(log).unwrap();
        assert!(status.success(), "{line}: {status}\n{text}");
        text
    }

    /// Ends a client in the background.
    pub(super) fn end(&self, file: &str) {
        if let Ok(pid) = self.read(file).trim().parse() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

/// What the guest has got: address with length, default route, other routes by
/// way of routers, MTU.
fn configured(machine: &Machine) -> (Vec<String>, Vec<String>, u64) {
    let list = |arguments: &str| -> Vec<serde_json::Value> {
        serde_json::from_str(&machine.ip(arguments)).unwrap()
    };
    let link = list("-j -4 addr show dev eth0");
    let addresses = link[0]["addr_info"].as_array().unwrap();
    let addresses = addresses
        .iter()
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
        .collect();
    let mut routes: Vec<String> = list("-j -4 route show")
        .iter()
        .filter(|route| route["gateway"].is_string())
        .map(|r| {
            format!(
                "{} {}",
                r["dst"].as_str().unwrap(),
                r["gateway"].as_str().unwrap()
            )
        })
        .collect();
    routes.sort();
    (addresses, routes, link[0]["mtu"].as_u64().unwrap())
}

/// The routes that a lease tells of, as a guest has them. Debian's script for
/// udhcpc knows of the router alone.
const ROUTES: [&str; 3] = [
    "10.250.0.0/16 10.252.0.9",
    "169.254.169.254 10.252.0.1",
    "default 10.252.0.1",
];

fn assert_configured(machine: &Machine, place: &Place, expected: &[&str], log: &str) {
    let (addresses, routes, mtu) = configured(machine);
    assert_eq!(addresses, [format!("{}/16", machine.port.v4())], "{log}");
    assert_eq!(routes, expected, "{log}");
    // dhcpcd leaves the link's MTU alone and sets that of its routes.
    let routed = machine.ip("-4 route show default");
    assert!(
        mtu == 1442 || routed.contains("mtu 1442"),
        "{mtu}, {routed}\n{log}"
    );
    let resolver = place.resolver();
    let servers: Vec<&String> = resolver
        .iter()
        .filter(|line| line.starts_with("nameserver"))
        .collect();
    assert_eq!(
        servers,
        ["nameserver 10.255.0.53", "nameserver 10.255.0.54"],
        "{log}"
    );
    assert!(
        resolver.iter().any(|line| line.contains("example.org")),
        "{resolver:?}\n{log}"
    );
    // It works: the gateway answers, and somebody beyond it.
    let ping = |address: &str| machine.run("ping", &["-n", "-c", "1", "-W", "2", address]);
    for address in [GATEWAY4, crate::harness::OUTSIDE4] {
        assert!(
            ping(address).contains(" 0% packet loss"),
            "{}",
            ping(address)
        );
    }
}

/// The three clients side by side on one host, each on its tap.
#[test]
fn udhcpc_dhclient_and_dhcpcd_configure_a_guest() {
    let mut cloud = Cloud::new("dhcp_domain = example.org\n");
    let machines = [1, 2, 3].map(|number: u32| {
        let address = format!("10.252.1.{}", 9 + number);
        let port = Cloud::port(number, &[(&address, "net4")]).with("mtu", 1442);
        cloud.boot(&port)
    });
    cloud.start();
    cloud.host.settled();
    let places = machines
        .each_ref()
        .map(|machine| Place::new(&cloud, machine));
    let [udhcpc, dhclient, dhcpcd] = &places;
    let lines = [
        "exec busybox udhcpc -i eth0 -f -q -n -t 8 -T 1 -O staticroutes -O mtu -s /etc/udhcpc/default.script".to_owned(),
        format!("exec dhclient -4 -1 -v -pf {} eth0", dhclient.path("pid").display()),
        // It tests its address for duplicates first (RFC 5227).
        "exec dhcpcd -4 -1 -B -t 20 eth0".to_owned(),
    ];
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3)
            .map(|n| {
                let (machine, place, line) = (&machines[n], &places[n], &lines[n]);
                scope.spawn(move || place.run(machine, line))
            })
            .collect();
        for (n, run) in runs.into_iter().enumerate() {
            let log = run.join().unwrap();
            let expected = if n == 0 { &ROUTES[2..] } else { &ROUTES };
            assert_configured(&machines[n], &places[n], expected, &log);
        }
    });
    dhclient.end("pid");
    let _ = (udhcpc, dhcpcd);
}

/// The same by IPv6: an address of its own by DHCPv6, everybody else behind
/// the router, name servers, the link's MTU.
#[test]
fn dhclient_and_dhcpcd_configure_ipv6() {
    let mut cloud = Cloud::new("dhcp_domain = example.org\n");
    cloud.subnet(
        json!({"id": "net6", "cidr": "2001:db8:252::/64", "gateway": "fe80::1",
        "dns": ["2001:db8:255::53", "2001:db8:255::54"],
        "ipv6_ra_mode": "dhcpv6-stateful", "ipv6_address_mode": "dhcpv6-stateful"}),
    );
    let machines = [1, 2].map(|number: u32| {
        let address = format!("2001:db8:252::1:{number}");
        cloud.boot(&Cloud::port(number, &[(&address, "net6")]).with("mtu", 1442))
    });
    cloud.start();
    cloud.host.settled();
    let [one, two] = &machines;
    let places = machines
        .each_ref()
        .map(|machine| Place::new(&cloud, machine));
    let [dhclient, dhcpcd] = &places;
    let line = format!(
        "exec dhclient -6 -1 -v -pf {} eth0",
        dhclient.path("pid").display()
    );
    let first = dhclient.run(one, &line);
    dhclient.end("pid");
    let second = dhcpcd.run(two, "exec dhcpcd -6 -1 -B -t 20 eth0");
    for (machine, place, log) in [(one, dhclient, &first), (two, dhcpcd, &second)] {
        let addresses = machine.ip("-6 addr show dev eth0 scope global");
        let own = machine.port.addresses()[0];
        assert!(addresses.contains(&own.to_string()), "{addresses}\n{log}");
        assert!(
            !addresses.contains("dadfailed") && !addresses.contains("deprecated"),
            "{addresses}"
        );
        let routes = machine.ip("-6 route show");
        let default = routes
            .lines()
            .find(|line| line.starts_with("default"))
            .unwrap_or_default();
        assert!(default.contains("via fe80::1 dev eth0"), "{routes}\n{log}");
        let servers: Vec<String> = place
            .resolver()
            .into_iter()
            .filter(|l| l.starts_with("nameserver"))
            .collect();
        let expected = ["nameserver 2001:db8:255::53", "nameserver 2001:db8:255::54"];
        assert_eq!(servers, expected, "{log}");
    }
    let ping = one.run("ping", &["-n", "-c", "2", "-W", "2", "2001:db8:252::1:2"]);
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    assert!(one.ip("-6 neigh show fe80::1 dev eth0").contains(TAP_MAC));
}

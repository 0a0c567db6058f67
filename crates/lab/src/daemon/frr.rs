//! FRRouting: zebra and bgpd.
//!
//! The configuration carries what FRR 8.4 needs to start fast and to survive
//! its own restart; each line that isn't obvious says why in the file that an
//! operator finds in the lab's directory. Asks bgpd over its vty socket, whose
//! framing is: a command ends with NUL, an answer with three NULs and a status.
//!
//! What can break it: a newer FRR's configuration language or JSON.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{Group, User};
use serde_json::{Map, Value};

use super::{Session, runs};
use crate::{
    Error, Result,
    fabric::{Family, LOOPBACK_PREFIX4, LOOPBACK_PREFIX6, Node, VM_PREFIX4, VM_PREFIX6},
    netns,
    process::{self, Identity},
    state::replace,
    topology::Role,
};

pub(super) const PROGRAMS: [&str; 2] = ["/usr/lib/frr/zebra", "/usr/lib/frr/bgpd"];
/// Where each FRR process makes a directory for its log buffers; one killed
/// leaves it behind.
const BUFFERS: &str = "/var/tmp/frr";
const BGPD_SOCKET: &str = "bgpd.vty";
const USER: &str = "frr";
/// How long a daemon may take to read its configuration and open its socket.
const START: Duration = Duration::from_secs(10);

pub(super) fn configure(node: &Node, directory: &Path) -> Result<()> {
    // The daemons drop root and make their sockets and pid files there.
    let user = User::from_name(USER).map_err(Error::errno("looking up user frr"))?;
    let group = Group::from_name(USER).map_err(Error::errno("looking up group frr"))?;
    let missing = || Error::Program("user or group frr is missing: install frr".to_owned());
    let (user, group) = (user.ok_or_else(missing)?, group.ok_or_else(missing)?);
    nix::unistd::chown(directory, Some(user.uid), Some(group.gid))
        .map_err(Error::errno(format!("chown frr {}", directory.display())))?;
    replace(&directory.join("zebra.conf"), &zebra_conf(node))?;
    replace(&directory.join("bgpd.conf"), &bgpd_conf(node))
}

pub(super) fn start(namespace: &str, directory: &Path, running: &[Identity]) -> Result<()> {
    let [zebra, bgpd] = PROGRAMS;
    let socket = directory.join("zserv");
    let command = |program: &str, name: &str| {
        let file = |ending: &str| directory.join(format!("{name}.{ending}"));
        let mut command = netns::command(namespace, program);
        command
            .args(["-u", USER, "-g", USER, "-P", "0", "--vty_socket"])
            .arg(directory)
            .arg("-z")
            .arg(&socket)
            .arg("-i")
            .arg(file("pid"))
            .arg("-f")
            .arg(file("conf"))
            .arg("--log")
            .arg(format!("file:{}", file("log").display()));
        command
    };
    if !runs(zebra, running) {
        let _ = std::fs::remove_file(&socket);
        let mut command = command(zebra, "zebra");
        // Routes of a zebra before this one live on until bgpd has had time to
        // learn them again.
        command.args(["-K", "60"]);
        process::start(command, &directory.join("zebra.out"))?;
        wait_socket(&socket)?;
    }
    if !runs(bgpd, running) {
        let socket = directory.join(BGPD_SOCKET);
        let _ = std::fs::remove_file(&socket);
        process::start(command(bgpd, "bgpd"), &directory.join("bgpd.out"))?;
        wait_socket(&socket)?;
    }
    Ok(())
}

fn wait_socket(socket: &Path) -> Result<()> {
    let end = Instant::now() + START;
    while UnixStream::connect(socket).is_err() {
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        if Instant::now() > end {
            return Err(Error::Program(format!(
                "{} was not opened within {} s; see the logs beside it",
                socket.display(),
                START.as_secs(),
            )));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

pub(super) fn sessions(directory: &Path) -> Result<Vec<Session>> {
    let families = ask_json(directory, "show bgp summary json")?;
    let mut sessions: Vec<Session> = Vec::new();
    for family in families.values() {
        let Some(peers) = family.get("peers").and_then(Value::as_object) else {
            continue;
        };
        for (peer, about) in peers {
            let state = about.get("state").and_then(Value::as_str).unwrap_or("");
            // One session carries both families: it is up where both are.
            match sessions.iter_mut().find(|s| s.peer == *peer) {
                Some(session) => session.established &= state == "Established",
                None => sessions.push(Session {
                    peer: peer.clone(),
                    established: state == "Established",
                    state: state.to_owned(),
                }),
            }
        }
    }
    Ok(sessions)
}

pub(super) fn learned(directory: &Path, peer: &str, family: Family) -> Result<BTreeSet<String>> {
    neighbor_routes(directory, peer, family, "routes", "routes")
}

pub(super) fn announced(directory: &Path, peer: &str, family: Family) -> Result<BTreeSet<String>> {
    neighbor_routes(
        directory,
        peer,
        family,
        "advertised-routes",
        "advertisedRoutes",
    )
}

/// Prefixes that bgpd lists under `key` for what `which` asks.
fn neighbor_routes(
    directory: &Path,
    peer: &str,
    family: Family,
    which: &str,
    key: &str,
) -> Result<BTreeSet<String>> {
    let family = family.to_string().to_lowercase();
    let command = format!("show bgp {family} unicast neighbors {peer} {which} json");
    let answer = ask_json(directory, &command)?;
    let routes = answer.get(key).and_then(Value::as_object);
    Ok(routes
        .into_iter()
        .flatten()
        .map(|(prefix, _)| prefix.clone())
        .collect())
}

/// One command to bgpd whose answer is a JSON object.
fn ask_json(directory: &Path, command: &str) -> Result<Map<String, Value>> {
    let socket = directory.join(BGPD_SOCKET);
    let text = ask(&socket, command)?;
    serde_json::from_str(&text)
        .map_err(|e| Error::Program(format!("{}: `{command}`: {e}", socket.display())))
}

/// One command to a daemon's vty socket.
fn ask(socket: &Path, command: &str) -> Result<String> {
    let what = || Error::io(format!("asking {}", socket.display()));
    let mut stream = UnixStream::connect(socket).map_err(what())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .map_err(what())?;
    let mut answer = Vec::new();
    for line in ["enable", command] {
        stream
            .write_all(format!("{line}\0").as_bytes())
            .map_err(what())?;
        answer.clear();
        let mut buffer = [0; 65536];
        while !matches!(answer.as_slice(), [.., 0, 0, 0, _]) {
            let count = stream.read(&mut buffer).map_err(what())?;
            if count == 0 {
                return Err(Error::Program(format!(
                    "{} closed the connection at `{line}`",
                    socket.display()
                )));
            }
            answer.extend(buffer.iter().take(count));
        }
    }
    answer.truncate(answer.len().saturating_sub(4));
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

pub(super) fn sweep(process: Identity) {
    for program in PROGRAMS {
        let name = super::process_name(program);
        let path = Path::new(BUFFERS).join(format!("{name}.{}", process.pid));
        let _ = std::fs::remove_dir_all(path);
    }
    // Only if it is empty: another FRR may use it.
    let _ = std::fs::remove_dir(BUFFERS);
}

fn zebra_conf(node: &Node) -> String {
    format!(
        "hostname {}\n\
         ! With nexthop groups in the kernel, a link that flapped stays out of\n\
         ! the kernel's route while zebra shows it (FRR 8.4).\n\
         no zebra nexthop kernel enable\n",
        node.name
    )
}

/// Name of the peer group for neighbours of one role.
fn group(role: Role) -> &'static str {
    match role {
        Role::Spine => "SPINES",
        Role::Tor => "TORS",
        Role::Hypervisor => "HYPERVISORS",
    }
}

fn bgpd_conf(node: &Node) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "hostname {}", node.name);
    // Policies stand before `router bgp`: a session that comes up before its
    // route-map is there sends End-of-RIB too early and voids graceful restart.
    policies(&mut out, node);
    out.push_str("bgp route-map delay-timer 0\n");
    let _ = write!(
        out,
        "router bgp {}\n bgp router-id {}\n \
         no bgp default ipv4-unicast\n \
         no bgp ebgp-requires-policy\n \
         no bgp network import-check\n \
         bgp bestpath as-path multipath-relax\n \
         bgp graceful-restart\n \
         bgp graceful-restart preserve-fw-state\n \
         coalesce-time 0\n \
         timers bgp 3 9\n",
        node.asn, node.loopback4
    );
    let mut roles: Vec<Role> = node.interfaces.iter().map(|i| i.peer_role).collect();
    roles.sort();
    roles.dedup();
    for role in &roles {
        let group = group(*role);
        let _ = writeln!(out, " neighbor {group} peer-group");
        let _ = writeln!(out, " neighbor {group} remote-as external");
        let _ = writeln!(out, " neighbor {group} timers connect 1");
    }
    for interface in &node.interfaces {
        let (name, group) = (&interface.peer, group(interface.peer_role));
        let _ = writeln!(out, " neighbor {name} interface peer-group {group}");
    }
    for family in [4, 6] {
        let _ = writeln!(out, " address-family ipv{family} unicast");
        origins(&mut out, node, family);
        for role in &roles {
            let group = group(*role);
            let _ = writeln!(out, "  neighbor {group} activate");
            let (inward, outward) = directions(node.role, *role);
            if let Some(map) = inward {
                let _ = writeln!(out, "  neighbor {group} route-map {map} in");
            }
            if let Some(map) = outward {
                let _ = writeln!(out, "  neighbor {group} route-map {map} out");
            }
        }
        out.push_str(" exit-address-family\n");
    }
    out.push_str("exit\n");
    out
}

/// What the node brings into BGP by itself.
fn origins(out: &mut String, node: &Node, family: u8) {
    let (loopback, default) = match family {
        4 => (format!("{}/32", node.loopback4), "0.0.0.0/0"),
        _ => (format!("{}/128", node.loopback6), "::/0"),
    };
    match node.role {
        Role::Spine => {
            let _ = writeln!(out, "  network {loopback}\n  network {default}");
        }
        Role::Tor => {
            let _ = writeln!(out, "  network {loopback}");
        }
        Role::Hypervisor => {
            let _ = writeln!(out, "  redistribute kernel route-map ANNOUNCE{family}");
            let _ = writeln!(out, "  redistribute connected route-map LOOPBACK{family}");
        }
    }
}

/// Route-maps towards neighbours of role `peer`: in, out.
fn directions(own: Role, peer: Role) -> (Option<&'static str>, Option<&'static str>) {
    match (own, peer) {
        (Role::Tor, Role::Hypervisor) => (Some("HOSTS"), Some("DEFAULT")),
        (Role::Hypervisor, _) => (Some("DEFAULT"), Some("OWN")),
        _ => (None, None),
    }
}

fn policies(out: &mut String, node: &Node) {
    if node.role == Role::Spine {
        return;
    }
    let (vm4, vm6) = (prefix(VM_PREFIX4), prefix(VM_PREFIX6));
    let (lo4, lo6) = (prefix(LOOPBACK_PREFIX4), prefix(LOOPBACK_PREFIX6));
    let _ = write!(
        out,
        "ip prefix-list DEFAULT permit 0.0.0.0/0\n\
         ip prefix-list VMS permit {vm4} ge 32\n\
         ip prefix-list LOOPBACKS permit {lo4} ge 32\n\
         ipv6 prefix-list DEFAULT permit ::/0\n\
         ipv6 prefix-list VMS permit {vm6} ge 128\n\
         ipv6 prefix-list LOOPBACKS permit {lo6} ge 128\n"
    );
    let mut map = |name: &str, sequence: u16, action: &str, matches: &[&str]| {
        let _ = writeln!(out, "route-map {name} {action} {sequence}");
        for line in matches {
            let _ = writeln!(out, " {line}");
        }
        out.push_str("exit\n");
    };
    let list = |family: &str, list: &str| format!("match {family} address prefix-list {list}");
    map("DEFAULT", 10, "permit", &[&list("ip", "DEFAULT")]);
    map("DEFAULT", 20, "permit", &[&list("ipv6", "DEFAULT")]);
    if node.role == Role::Tor {
        for (sequence, family, name) in [
            (10, "ip", "VMS"),
            (20, "ip", "LOOPBACKS"),
            (30, "ipv6", "VMS"),
            (40, "ipv6", "LOOPBACKS"),
        ] {
            map("HOSTS", sequence, "permit", &[&list(family, name)]);
        }
        return;
    }
    for (family, digit) in [("ip", 4), ("ipv6", 6)] {
        let announce = format!("ANNOUNCE{digit}");
        let blackhole = format!("match {family} next-hop type blackhole");
        // The floor below a VM's route: an unreachable route of the same
        // address, whose metric zebra reads as distance 200, metric 5.
        map(&announce, 5, "deny", &[&blackhole]);
        for (sequence, prefixes) in [(10, "VMS"), (20, "LOOPBACKS")] {
            let lines = [
                list(family, prefixes),
                "match metric 5".to_owned(),
                "set metric 0".to_owned(),
                "set origin igp".to_owned(),
            ];
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            map(&announce, sequence, "permit", &lines);
        }
        // zebra prefers the connected route of a loopback to the kernel's.
        let own = [
            list(family, "LOOPBACKS"),
            "match interface lo".to_owned(),
            "set metric 0".to_owned(),
            "set origin igp".to_owned(),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        map(&format!("LOOPBACK{digit}"), 10, "permit", &own);
    }
    // What has an AS in its path was learned: a hypervisor is no transit.
    map("OWN", 10, "permit", &["match as-path OWN"]);
    out.push_str("bgp as-path access-list OWN permit ^$\n");
}

fn prefix<A: std::fmt::Display>((address, length): (A, u8)) -> String {
    format!("{address}/{length}")
}

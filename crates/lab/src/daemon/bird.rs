//! BIRD 2.
//!
//! Sessions are active at both ends where the other end is BIRD as well, since
//! both link-local addresses are known beforehand; FRR finds its neighbour by
//! the router advertisements that BIRD sends. Asks over the control socket,
//! whose lines start with a four-digit code; one that starts with 0 ends the
//! answer, 8 and 9 are errors.
//!
//! What can break it: a newer BIRD's configuration language or its columns in
//! `show protocols`.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use l2isolate_advertise::bird::{EXPORT, filter};

use super::{Session, handover, runs};
use crate::{
    Error, Result,
    fabric::{Family, LOOPBACK_PREFIX4, LOOPBACK_PREFIX6, Node, VM_PREFIX4, VM_PREFIX6},
    netns,
    process::{self, Identity},
    state::replace,
    topology::Role,
};

pub(super) const PROGRAMS: [&str; 1] = ["/usr/sbin/bird"];
const SOCKET: &str = "bird.ctl";
/// Bytes of the kernel's messages that may wait for BIRD. With the kernel's
/// default, some 200 KiB, many guests that come at once are too many messages,
/// and BIRD learns what it missed from its next look at all routes, once a
/// minute.
const NETLINK_BUFFER: u32 = 16 << 20;

pub(super) fn configure(node: &Node, directory: &Path) -> Result<()> {
    replace(&directory.join("bird.conf"), &bird_conf(node, directory))
}

pub(super) fn start(namespace: &str, directory: &Path, running: &[Identity]) -> Result<()> {
    let [bird] = PROGRAMS;
    if runs(bird, running) {
        return Ok(());
    }
    let socket = directory.join(SOCKET);
    // Left by a BIRD before this one, which then restarts gracefully (-R).
    let again = std::fs::remove_file(&socket).is_ok();
    let mut command = netns::command(namespace, bird);
    command.arg("-f").arg("-c").arg(directory.join("bird.conf"));
    command.arg("-s").arg(&socket);
    command.arg("-P").arg(directory.join("bird.pid"));
    if again {
        command.arg("-R");
    }
    process::start(command, &directory.join("bird.out"))?;
    Ok(())
}

pub(super) fn sessions(node: &Node, directory: &Path) -> Result<Vec<Session>> {
    let lines = ask(&directory.join(SOCKET), "show protocols")?;
    let mut sessions = Vec::new();
    for line in lines {
        // Name, protocol, table, state, since, info.
        let mut fields = line.split_ascii_whitespace();
        let (Some(name), Some("BGP")) = (fields.next(), fields.next()) else {
            continue;
        };
        let state = fields.nth(3).unwrap_or("down").to_owned();
        let peer = node.interfaces.iter().find(|i| protocol(&i.peer) == name);
        if let Some(interface) = peer {
            sessions.push(Session {
                peer: interface.peer.clone(),
                established: state == "Established",
                state,
            });
        }
    }
    Ok(sessions)
}

pub(super) fn learned(directory: &Path, peer: &str, family: Family) -> Result<BTreeSet<String>> {
    routes(directory, family, "protocol", peer)
}

pub(super) fn announced(directory: &Path, peer: &str, family: Family) -> Result<BTreeSet<String>> {
    routes(directory, family, "export", peer)
}

/// Prefixes of `show route` for a session, seen as `which` says.
fn routes(directory: &Path, family: Family, which: &str, peer: &str) -> Result<BTreeSet<String>> {
    let table = match family {
        Family::V4 => "master4",
        Family::V6 => "master6",
    };
    let command = format!("show route table {table} {which} {}", protocol(peer));
    let lines = ask(&directory.join(SOCKET), &command)?;
    // A line with a route starts with its prefix; others with a space, a word
    // or nothing.
    let prefix = |line: &String| {
        let first = line.split(' ').next()?;
        first.contains('/').then(|| first.to_owned())
    };
    Ok(lines.iter().filter_map(prefix).collect())
}

/// One command to the control socket; the answer's lines without codes.
fn ask(socket: &Path, command: &str) -> Result<Vec<String>> {
    let what = || Error::io(format!("asking {}", socket.display()));
    let mut stream = UnixStream::connect(socket).map_err(what())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .map_err(what())?;
    let mut reader = BufReader::new(stream.try_clone().map_err(what())?);
    let mut read = || -> Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).map_err(what())? == 0 {
                return Err(Error::Program(format!("{} hung up", socket.display())));
            }
            let line = line.trim_end();
            // A continuation of the same code starts with a space.
            let (code, rest) = match line.strip_prefix(' ') {
                Some(rest) => ("", rest),
                None => line.split_at_checked(4).unwrap_or((line, "")),
            };
            let text = rest.get(1..).unwrap_or_default().to_owned();
            if code.starts_with(['8', '9']) {
                return Err(Error::Program(format!("{}: {text}", socket.display())));
            }
            lines.push(if code.is_empty() {
                rest.to_owned()
            } else {
                text
            });
            if code.starts_with('0') && rest.starts_with(' ') || code == "0000" {
                return Ok(lines);
            }
        }
    };
    read()?; // the greeting
    stream
        .write_all(format!("{command}\n").as_bytes())
        .map_err(what())?;
    read()
}

/// BIRD's names know no hyphens.
fn protocol(peer: &str) -> String {
    format!("to_{}", peer.replace('-', "_"))
}

fn bird_conf(node: &Node, directory: &Path) -> String {
    let mut out = String::new();
    let (vm4, vm6) = (VM_PREFIX4, VM_PREFIX6);
    let (lo4, lo6) = (LOOPBACK_PREFIX4, LOOPBACK_PREFIX6);
    let _ = write!(
        out,
        "log \"{}\" all;\n\
         router id {};\n\
         define HOSTS4 = [ {}/{}{{32,32}}, {}/{}{{32,32}} ];\n\
         define HOSTS6 = [ {}/{}{{128,128}}, {}/{}{{128,128}} ];\n\
         protocol device {{ scan time 10; }}\n",
        directory.join("bird.log").display(),
        node.loopback4,
        vm4.0,
        vm4.1,
        lo4.0,
        lo4.1,
        vm6.0,
        vm6.1,
        lo6.0,
        lo6.1,
    );
    kernel(&mut out, node);
    origins(&mut out, node);
    advertisements(&mut out, node);
    for interface in &node.interfaces {
        let (import, export) = (
            |family| import(node.role, interface.peer_role, family),
            |family| export(node.role, interface.peer_role, family),
        );
        let _ = write!(
            out,
            "protocol bgp {} {{\n  \
               local as {};\n  \
               neighbor {}%'{}' external;\n  \
               keepalive time 3; hold time 9;\n  \
               connect delay time 1; connect retry time 1; error wait time 1, 1;\n  \
               graceful restart on; graceful restart time 60;\n  \
               ipv4 {{ extended next hop yes; import {}; export {}; }};\n  \
               ipv6 {{ import {}; export {}; }};\n}}\n",
            protocol(&interface.peer),
            node.asn,
            interface.peer_address,
            interface.peer,
            import(4),
            export(4),
            import(6),
            export(6),
        );
    }
    out
}

/// Exchange with the kernel's main tables.
fn kernel(out: &mut String, node: &Node) {
    if node.role == Role::Hypervisor {
        for family in l2isolate_advertise::Family::ALL {
            out.push_str(&filter(&handover(), family));
        }
    }
    for family in [4, 6] {
        let import = match node.role {
            Role::Hypervisor => format!("import filter l2isolate{family}"),
            _ => "import none".to_owned(),
        };
        let _ = write!(
            out,
            "protocol kernel kernel{family} {{\n  \
               learn; persist; merge paths on;\n  \
               netlink rx buffer {NETLINK_BUFFER};\n  \
               ipv{family} {{ {import}; export where source = RTS_BGP; }};\n}}\n"
        );
    }
}

/// What a switch brings into BGP by itself.
fn origins(out: &mut String, node: &Node) {
    if node.role == Role::Hypervisor {
        return;
    }
    for (family, loopback, default) in [
        (4, format!("{}/32", node.loopback4), "0.0.0.0/0"),
        (6, format!("{}/128", node.loopback6), "::/0"),
    ] {
        let _ = write!(
            out,
            "protocol static own{family} {{\n  ipv{family};\n  route {loopback} via \"lo\";\n"
        );
        if node.role == Role::Spine {
            let _ = writeln!(out, "  route {default} unreachable;");
        }
        out.push_str("}\n");
    }
}

/// Router advertisements, by which an unnumbered FRR finds this node. Lifetime
/// 0: nobody takes it for a default router.
fn advertisements(out: &mut String, node: &Node) {
    out.push_str("protocol radv {\n");
    for interface in &node.interfaces {
        let _ = writeln!(
            out,
            "  interface \"{}\" {{ min ra interval 3; max ra interval 4; default lifetime 0; }};",
            interface.peer
        );
    }
    out.push_str("}\n");
}

fn import(own: Role, peer: Role, family: u8) -> String {
    match (own, peer) {
        (Role::Tor, Role::Hypervisor) => format!("where net ~ HOSTS{family}"),
        (Role::Hypervisor, _) => format!("where net = {}", default(family)),
        _ => "all".to_owned(),
    }
}

fn export(own: Role, peer: Role, family: u8) -> String {
    match (own, peer) {
        (Role::Tor, Role::Hypervisor) => format!("where net = {}", default(family)),
        (Role::Hypervisor, _) => EXPORT.to_owned(),
        _ => "where source = RTS_BGP || source = RTS_STATIC".to_owned(),
    }
}

fn default(family: u8) -> &'static str {
    if family == 4 { "0.0.0.0/0" } else { "::/0" }
}

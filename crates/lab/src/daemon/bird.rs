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
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use super::{
    Session,
    bird_config::{bird_conf, protocol},
    runs,
};
use crate::{
    Error, Result,
    fabric::{Family, Node},
    netns,
    process::{self, Identity},
    topology::{Options, Role},
};

pub(super) const PROGRAMS: [&str; 1] = ["/usr/sbin/bird"];
const SOCKET: &str = "bird.ctl";
/// There once BIRD was started.
const STARTED: &str = "bird.started";
/// Included by a switch's configuration: whether it is drained.
pub(super) const DRAIN: &str = "drain.conf";

/// The files of a node; `directory` is where they will be.
pub(super) fn render(
    options: &Options,
    node: &Node,
    directory: &Path,
    log: &str,
) -> Vec<(String, String)> {
    let text = bird_conf(options, node, directory, log);
    let mut files = vec![("bird.conf".to_owned(), text)];
    if node.role != Role::Hypervisor {
        files.push((DRAIN.to_owned(), "define DRAINED = false;\n".to_owned()));
    }
    files
}

pub(super) fn start(namespace: &str, directory: &Path, running: &[Identity]) -> Result<()> {
    let [bird] = PROGRAMS;
    if runs(bird, running) {
        return Ok(());
    }
    let socket = directory.join(SOCKET);
    // A BIRD before this one means a graceful restart (-R): without, its OPEN
    // says that the kernel's routes are gone. (BIRD removes its own files when
    // it ends in order.)
    let started = directory.join(STARTED);
    let again = started.exists();
    std::fs::write(&started, "").map_err(Error::file(&started))?;
    let _ = std::fs::remove_file(&socket);
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

/// The next start isn't one of a BIRD that only restarts.
pub(super) fn forget(directory: &Path) {
    let _ = std::fs::remove_file(directory.join(STARTED));
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

//! FRRouting: zebra and bgpd.
//!
//! Asks bgpd over its vty socket, whose framing is: a command ends with NUL, an
//! answer with three NULs and a status.
//!
//! What can break it: a newer FRR's options or JSON.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{Group, User};
use serde_json::{Map, Value};

use super::{
    Session,
    frr_config::{bfdd_conf, bgpd_conf, zebra_conf},
    runs,
};
use crate::{
    Error, Result,
    fabric::{Family, Node},
    netns,
    process::{self, Identity},
    topology::Options,
};

const ZEBRA: &str = "/usr/lib/frr/zebra";
const BFDD: &str = "/usr/lib/frr/bfdd";
const BGPD: &str = "/usr/lib/frr/bgpd";
/// In the order of their start; without and with BFD.
pub(super) const PROGRAMS: [&str; 2] = [ZEBRA, BGPD];
pub(super) const PROGRAMS_BFD: [&str; 3] = [ZEBRA, BFDD, BGPD];
/// Where each FRR process makes a directory for its log buffers; one killed
/// leaves it behind.
const BUFFERS: &str = "/var/tmp/frr";
const BGPD_SOCKET: &str = "bgpd.vty";
const USER: &str = "frr";
/// Bytes of zebra's queue of kernel messages.
const NETLINK_QUEUE: &str = "67108864";
/// How long a daemon may take to read its configuration and open its socket.
const START: Duration = Duration::from_secs(10);

/// The files of a node.
pub(super) fn render(options: &Options, node: &Node) -> Vec<(String, String)> {
    let mut files = vec![
        ("zebra.conf".to_owned(), zebra_conf(node)),
        ("bgpd.conf".to_owned(), bgpd_conf(options, node)),
        // Each daemon has a file of its own.
        (
            "vtysh.conf".to_owned(),
            "no service integrated-vtysh-config\n".to_owned(),
        ),
    ];
    if options.bfd {
        files.push(("bfdd.conf".to_owned(), bfdd_conf(node)));
    }
    files
}

pub(super) fn prepare(directory: &Path) -> Result<()> {
    // The daemons drop root and make their sockets and pid files there.
    let user = User::from_name(USER).map_err(Error::errno("looking up user frr"))?;
    let group = Group::from_name(USER).map_err(Error::errno("looking up group frr"))?;
    let missing = || Error::Program("user or group frr is missing: install frr".to_owned());
    let (user, group) = (user.ok_or_else(missing)?, group.ok_or_else(missing)?);
    nix::unistd::chown(directory, Some(user.uid), Some(group.gid))
        .map_err(Error::errno(format!("chown frr {}", directory.display())))
}

pub(super) fn start(
    options: &Options,
    namespace: &str,
    directory: &Path,
    running: &[Identity],
) -> Result<()> {
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
    if !runs(ZEBRA, running) {
        let _ = std::fs::remove_file(&socket);
        let mut command = command(ZEBRA, "zebra");
        // Routes of a zebra before this one live on until bgpd has had time to
        // learn them again.
        command.args(["-K", "60"]);
        // What zebra's usual 4 MiB can't hold is lost without a word, and the
        // routes in it are never announced: a hypervisor that gets 1,000 taps
        // at once needs more.
        command.args(["--nl-bufsize", NETLINK_QUEUE]);
        // Otherwise it deletes an IPv6 route before it sets it anew, and what comes
        // in between follows the default route, or nothing.
        command.arg("--v6-rr-semantics");
        process::start(command, &directory.join("zebra.out"))?;
        wait_socket(&socket)?;
    }
    if options.bfd && !runs(BFDD, running) {
        let vty = directory.join("bfdd.vty");
        let _ = std::fs::remove_file(&vty);
        let mut command = command(BFDD, "bfdd");
        // Its control socket is one for the machine otherwise.
        command.arg("--bfdctl").arg(directory.join("bfdd.sock"));
        process::start(command, &directory.join("bfdd.out"))?;
        wait_socket(&vty)?;
    }
    if !runs(BGPD, running) {
        let socket = directory.join(BGPD_SOCKET);
        let _ = std::fs::remove_file(&socket);
        process::start(command(BGPD, "bgpd"), &directory.join("bgpd.out"))?;
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
    for program in PROGRAMS_BFD {
        let name = super::process_name(program);
        let path = Path::new(BUFFERS).join(format!("{name}.{}", process.pid));
        let _ = std::fs::remove_dir_all(path);
    }
    // Only if it is empty: another FRR may use it.
    let _ = std::fs::remove_dir(BUFFERS);
}

//! The agent on each hypervisor: its configuration, its intent, its start.
//!
//! The lab plays the cloud: it writes the intent that Neutron would send into
//! the directory that the agent watches, and asks the agent over its socket
//! only to show what it says; measurements never rely on that.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    Error, Result,
    fabric::{Fabric, GATEWAY4, GATEWAY6, Node, VM_PREFIX4, VM_PREFIX6, Vm},
    netns,
    process::{self, Identity},
    state::replace,
};

/// The agent's program file and process name.
pub const PROGRAM: &str = "l2isolate";
/// The protocol number of the agent's routes, its default.
pub const ROUTE_PROTOCOL: u8 = 76;
/// The metric of routes to announce, its default.
pub const ROUTE_METRIC: u32 = 5;
/// The agent's `migration_prepend`, its default.
pub const MIGRATION_PREPEND: u8 = 2;
/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
const SUBNET4: &str = "44444444-0000-4000-8000-000000000004";
const SUBNET6: &str = "66666666-0000-4000-8000-000000000006";
pub(crate) const GROUP: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const PROJECT: &str = "00000000000040008000000000001ab0";
/// Older than anything: all ports of a lab are made at the same time.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// The agent that belongs to this program: built and installed side by side.
///
/// # Errors
/// There is none.
pub fn find() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(Error::io("finding this program's own file"))?;
    // A test's executable is one level further down, in deps/.
    let candidates = own.ancestors().skip(1).take(2).map(|d| d.join(PROGRAM));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::Program(format!(
                "the agent `{PROGRAM}` is not beside {}; build it (`cargo build -p l2isolate`) \
                 or name it with --agent",
                own.display()
            ))
        })
}

/// Paths of one agent's files.
#[derive(Debug, Clone)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// Those below a node's directory.
    #[must_use]
    pub fn below(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("agent.ini")
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// The directory of the intent.
    #[must_use]
    pub fn intent(&self) -> PathBuf {
        self.directory.join("intent")
    }

    /// What the agent keeps.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// What guests are told.
    #[must_use]
    pub fn guest(&self) -> PathBuf {
        self.directory.join("guest")
    }

    /// What the metadata proxy knows of each tap.
    #[must_use]
    pub fn metadata(&self) -> PathBuf {
        self.directory.join("metadata")
    }

    /// What the agent logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }
}

/// Writes configuration and intent of a hypervisor's agent.
///
/// # Errors
/// A file can't be written.
pub fn configure(fabric: &Fabric, node: &Node, files: &Files) -> Result<()> {
    for directory in [files.intent(), files.state()] {
        std::fs::create_dir_all(&directory).map_err(Error::file(&directory))?;
    }
    replace(&files.config(), &ini(node, files))?;
    let vms: Vec<&Vm> = fabric.vms_on(&node.name).collect();
    write_intent(files, "ports", &ports(&vms))?;
    write_intent(files, "network", &network(fabric))
}

/// Writes the configuration of a hypervisor's agent whose intent comes from
/// Neutron, by way of the RabbitMQ at `transport_url`. `more` are further lines
/// for `[l2isolate]`.
///
/// # Errors
/// A file can't be written.
pub fn configure_for_neutron(
    node: &Node,
    files: &Files,
    transport_url: &str,
    more: &str,
) -> Result<()> {
    let state = files.state();
    std::fs::create_dir_all(&state).map_err(Error::file(&state))?;
    let text = format!(
        "{}source = neutron\n{more}\n[DEFAULT]\ntransport_url = {transport_url}\n",
        ini(node, files)
    );
    replace(&files.config(), &text)
}

/// Replaces one document of the intent.
///
/// # Errors
/// The file can't be written.
pub fn write_intent(files: &Files, name: &str, document: &Value) -> Result<()> {
    let path = files.intent().join(format!("{name}.json"));
    replace(&path, &format!("{document:#}\n"))
}

/// Starts the agent, unless it is among `running`.
///
/// # Errors
/// It can't be started.
pub fn start(binary: &Path, namespace: &str, files: &Files, running: &[Identity]) -> Result<()> {
    if process_of(running).is_some() {
        return Ok(());
    }
    let mut command = netns::command(namespace, binary);
    command
        .arg("agent")
        .arg("--config-file")
        .arg(files.config());
    process::start(command, &files.log())?;
    Ok(())
}

/// The agent among the processes of its namespace.
#[must_use]
pub fn process_of(running: &[Identity]) -> Option<Identity> {
    running
        .iter()
        .copied()
        .find(|p| p.lives() && p.name() == PROGRAM)
}

/// What a running agent says, as JSON: `what` is `status` or `ports`.
///
/// # Errors
/// It doesn't answer.
pub fn ask(binary: &Path, files: &Files, what: &str) -> Result<Value> {
    let mut command = Command::new(binary);
    command.args([what, "--json", "--socket"]);
    command.arg(files.socket());
    let output = command
        .output()
        .map_err(Error::io(format!("running {}", binary.display())))?;
    let failed = |reason: String| Error::Command {
        command: format!("{PROGRAM} {what} --socket {}", files.socket().display()),
        reason,
    };
    if output.stdout.is_empty() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(reason));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))
}

/// Puts a request to a running agent over its socket, at once: no program is started.
///
/// # Errors
/// It doesn't answer, or refuses.
pub fn tell(files: &Files, request: &Value) -> Result<Value> {
    let path = files.socket();
    let exchange = || {
        let mut stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let failed = |reason: String| Error::Command {
        command: format!("{request} to {}", path.display()),
        reason,
    };
    let answer: Value = exchange()
        .map_err(|error: io::Error| failed(error.to_string()))
        .and_then(|text| serde_json::from_str(&text).map_err(|e| failed(e.to_string())))?;
    match answer.get("ok") {
        Some(value) => Ok(value.clone()),
        None => Err(failed(answer.to_string())),
    }
}

/// Has a hypervisor's agent send what still arrives for guests that have left after
/// them, once it is started anew.
///
/// # Errors
/// Its configuration can't be written.
pub fn with_tunnel(files: &Files) -> Result<()> {
    let path = files.config();
    let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
    replace(&path, &(text + "migration_tunnel = true\n"))
}

fn ini(node: &Node, files: &Files) -> String {
    let uplinks: Vec<&str> = node.interfaces.iter().map(|i| i.peer.as_str()).collect();
    let uplinks = match uplinks.is_empty() {
        // Whoever makes some says so.
        true => String::new(),
        false => format!("uplinks = {}\n", uplinks.join(", ")),
    };
    format!(
        "[DEFAULT]\n\
         host = {}\n\
         \n\
         [l2isolate]\n\
         intent_directory = {}\n\
         state_directory = {}\n\
         socket = {}\n\
         guest_directory = {}\n\
         metadata_directory = {}\n\
         loopbacks = {}/32, {}/128\n\
         {uplinks}",
        node.name,
        files.intent().display(),
        files.state().display(),
        files.socket().display(),
        files.guest().display(),
        files.metadata().display(),
        node.loopback4,
        node.loopback6,
    )
}

/// The document with the ports of `vms`, each in the group that lets everything
/// pass.
#[must_use]
pub fn ports(vms: &[&Vm]) -> Value {
    let ports: Vec<Value> = vms.iter().map(|vm| port(vm, 1, &[GROUP])).collect();
    json!({"version": 1, "ports": ports})
}

/// One port, in these groups.
#[must_use]
pub fn port(vm: &Vm, revision: u64, groups: &[impl AsRef<str>]) -> Value {
    let groups: Vec<&str> = groups.iter().map(AsRef::as_ref).collect();
    json!({
        "id": vm.port,
        "revision": revision,
        "created": CREATED,
        "tap": vm.tap,
        "mac": vm.mac,
        "addresses": [
            {"address": vm.address4, "subnet": SUBNET4},
            {"address": vm.address6, "subnet": SUBNET6},
        ],
        "mtu": 1500,
        "admin_state_up": true,
        "project": PROJECT,
        "instance": vm.port,
        "hostname": vm.name,
        "port_security": true,
        "groups": groups,
        "binding": {"state": "active"},
    })
}

/// The document with what the ports refer to: both subnets and one group that
/// lets everything pass.
pub(crate) fn network(fabric: &Fabric) -> Value {
    let rules: Vec<Value> = ["ingress", "egress"]
        .into_iter()
        .flat_map(|direction| {
            ["IPv4", "IPv6"]
                .map(|ethertype| json!({"direction": direction, "ethertype": ethertype}))
        })
        .collect();
    let members: Vec<Value> = fabric
        .vms
        .iter()
        .flat_map(|vm| {
            [
                json!({"address": format!("{}/32", vm.address4)}),
                json!({"address": format!("{}/128", vm.address6)}),
            ]
        })
        .collect();
    json!({
        "version": 1,
        "subnets": [
            {
                "id": SUBNET4,
                "cidr": format!("{}/{}", VM_PREFIX4.0, VM_PREFIX4.1),
                "gateway": GATEWAY4,
                "dns": [],
                "dhcp": true,
                "revision": 1,
            },
            {
                "id": SUBNET6,
                "cidr": format!("{}/{}", VM_PREFIX6.0, VM_PREFIX6.1),
                "gateway": GATEWAY6,
                "dns": [],
                "dhcp": true,
                "revision": 1,
            },
        ],
        "groups": [{"id": GROUP, "revision": 1, "rules": rules, "members": members}],
    })
}

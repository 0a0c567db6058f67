//! The metadata proxy as a process in the hypervisor's namespace, and what the
//! agent would tell it.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use l2isolate_lab::netns;
use l2isolate_model::{IfName, document, intent::Intent, metadata::entry::Entry, tap::Tap};
use l2isolate_plan::{Config, TapView, guest::metadata};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Host, PROGRAM, Port, TAP_MAC, array, intent};

/// Somebody without privileges, who is on every machine.
pub(crate) const USER: &str = "nobody";

/// The unit file's words in those of setpriv(1).
const UNPRIVILEGED: [&str; 9] = [
    "--reuid",
    USER,
    "--regid",
    "nogroup",
    "--clear-groups",
    "--no-new-privs",
    "--inh-caps=-all,+net_bind_service",
    "--ambient-caps=-all,+net_bind_service",
    "--bounding-set=-all,+net_bind_service",
];

/// A running proxy; dropping it kills it.
pub(crate) struct Proxy {
    child: Child,
}

impl Proxy {
    pub(crate) fn new(child: Child) -> Self {
        Self { child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, as a service manager would.
    pub(crate) fn terminate(&self) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
    }

    /// Waits until it has ended, which it must do well.
    pub(crate) fn ended(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the proxy ended with {status}");
    }

    /// Its largest resident size so far, in KiB.
    pub(crate) fn peak(&self) -> u64 {
        self.status("VmHWM:").parse().unwrap()
    }

    /// A field of /proc/PID/status, its first word.
    pub(crate) fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let mut words = line.unwrap().split_whitespace();
        words.next().unwrap_or_default().to_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It fails only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Host {
    /// Starts a proxy with these lines in its configuration, after `[l2isolate]`.
    pub(crate) fn proxy(&self, options: &str) -> Proxy {
        let mut command = self.proxy_command(options);
        Proxy::new(command.spawn().unwrap())
    }

    /// How a proxy is started in the hypervisor: as a service manager does it,
    /// without privileges from the start.
    pub(crate) fn proxy_command(&self, options: &str) -> Command {
        let config = self.path("metadata.conf");
        let directory = self.metadata_directory();
        let text = format!(
            "[l2isolate]\nmetadata_directory = {}\nmetadata_user = {USER}\nlog_level = debug\n{options}\n",
            directory.display()
        );
        fs::write(&config, text).unwrap();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("proxy.log"))
            .unwrap();
        let mut command = netns::command(&self.hv, "setpriv");
        command
            .args(UNPRIVILEGED)
            .args(["--pdeathsig", "KILL", PROGRAM, "metadata", "--config-file"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    /// What the proxy has logged.
    pub(crate) fn proxy_log(&self) -> String {
        fs::read_to_string(self.path("proxy.log")).unwrap_or_default()
    }

    /// The port map, which everybody can read here.
    pub(crate) fn metadata_directory(&self) -> PathBuf {
        let directory = self.path("map");
        if !directory.exists() {
            fs::create_dir(&directory).unwrap();
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(self.directory.path(), open.clone()).unwrap();
            fs::set_permissions(&directory, open).unwrap();
        }
        directory
    }

    /// Writes what the agent would write of these ports.
    pub(crate) fn tell(&self, ports: &[&Port]) {
        for port in ports {
            let entry = self.entry(port).unwrap();
            self.tell_text(port, &entry.to_json().unwrap());
        }
    }

    /// Writes whatever of a port, aside and renamed.
    pub(crate) fn tell_text(&self, port: &Port, text: &str) {
        let directory = self.metadata_directory();
        let name = Entry::file_name(port.tap().parse().unwrap());
        let aside = directory.join(format!(".{name}.tmp"));
        fs::write(&aside, text).unwrap();
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(aside, directory.join(name)).unwrap();
    }

    /// What the plan makes of a port, with the tap as the kernel has it.
    pub(crate) fn entry(&self, port: &Port) -> Option<Entry> {
        let mut intent = Intent::default();
        for text in [intent::subnets(), port.to_document()] {
            let document = document::parse(text.as_bytes(), "test".as_ref()).unwrap();
            intent.update(document.objects);
        }
        let name: IfName = port.tap().parse().unwrap();
        let links = array(&self.hv, "-j link show");
        let indexes: BTreeMap<&str, u64> = links
            .iter()
            .map(|link| {
                (
                    link["ifname"].as_str().unwrap(),
                    link["ifindex"].as_u64().unwrap(),
                )
            })
            .collect();
        let tap = Tap {
            index: (*indexes.get(port.tap())?).try_into().unwrap(),
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
        };
        let view = TapView {
            tap: &tap,
            marked: false,
            seen: false,
            step: 1,
            stopped: false,
        };
        let config = Config {
            route_metric: 5,
            leaving_steps: 2,
            loopbacks: Vec::new(),
            tap_mac: TAP_MAC.parse().unwrap(),
            gateway_link_local: super::LINK_LOCAL.parse().unwrap(),
            dhcp: true,
            metadata: true,
            manage_host: true,
            tunnel: None,
            connections: None,
        };
        let checked = intent.on_tap(name).map(AsRef::as_ref);
        metadata::plan(name, Some(&view), checked, &config)
    }
}

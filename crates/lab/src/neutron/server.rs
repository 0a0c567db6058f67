//! Neutron's processes: the API's and the agents' side.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{ADDRESS, API_PORT, Release, Rig, api, config};
use crate::{
    Error, Result, netns,
    process::{self, Identity},
    state::replace,
};

const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(15);
/// How many lines of errors are shown.
const ERRORS: usize = 200;

/// Asks RabbitMQ whether the servers consume, as a client would.
const WAIT_FOR_RPC: &str = include_str!("wait_for_rpc.py");

/// One of Neutron's programs with its workers: a process group of its own.
#[derive(Debug)]
pub(super) struct Server<'a> {
    rig: &'a Rig,
    name: &'static str,
}

impl<'a> Server<'a> {
    /// Those of a release.
    pub(super) fn all(rig: &'a Rig) -> Vec<Self> {
        let names: &[&'static str] = match rig.options.release {
            Release::Oldest => &["neutron-server"],
            // No program serves the API; any WSGI server does.
            Release::Newest => &["gunicorn", "neutron-rpc-server"],
        };
        names.iter().map(|name| Self { rig, name }).collect()
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    fn command(&self) -> Command {
        let Rig {
            namespace,
            directory,
            options,
        } = self.rig;
        let programs = &options.programs;
        let mut command = netns::command(namespace, programs.program(self.name));
        if self.name == "gunicorn" {
            command
                .args(["-k", "gthread", "--threads", "8", "--timeout", "300"])
                .args(["--workers", &options.api_workers.to_string()])
                .args(["--bind", &format!("{ADDRESS}:{API_PORT}")])
                .arg("--pythonpath")
                .arg(directory)
                .arg("lab_wsgi:application")
                .env("OS_NEUTRON_CONFIG_DIR", directory)
                .env("OS_NEUTRON_CONFIG_FILES", config::FILES.join(";"));
        } else {
            for file in config::FILES {
                command.arg("--config-file").arg(directory.join(file));
            }
        }
        command
            .env("PYTHONPATH", &programs.driver)
            .current_dir(directory);
        command
    }

    /// Starts it, if it doesn't run.
    pub(super) fn start(&self) -> Result<()> {
        if self.process().is_some() {
            return Ok(());
        }
        let pid = process::start(self.command(), &self.log())?;
        let text = serde_json::to_string(&Identity::of(pid))
            .map_err(|e| Error::Program(format!("a process has no JSON form: {e}")))?;
        replace(&self.file("json"), &text)
    }

    /// The first of its processes, while it lives.
    pub(super) fn process(&self) -> Option<Identity> {
        self.recorded().filter(|identity| identity.lives())
    }

    fn recorded(&self) -> Option<Identity> {
        let text = std::fs::read_to_string(self.file("json")).ok()?;
        serde_json::from_str(&text).ok()?
    }

    /// All of its processes.
    fn group(&self) -> Result<Vec<Identity>> {
        let Some(leader) = self.recorded() else {
            return Ok(Vec::new());
        };
        let namespaces = std::slice::from_ref(&self.rig.namespace);
        let mut all: Vec<Identity> = process::in_namespaces(namespaces)?
            .into_values()
            .flatten()
            .collect();
        all.retain(|process| group_of(process.pid) == Some(leader.pid));
        Ok(all)
    }

    /// Ends it in order; kills what doesn't end.
    pub(super) fn stop(&self) -> Result<()> {
        if let Some(leader) = self.process() {
            leader.signal(Signal::SIGTERM);
            let _ = process::wait_gone(&self.group()?, STOP);
        }
        self.kill()
    }

    /// Kills it and its workers.
    pub(super) fn kill(&self) -> Result<()> {
        let group = self.group()?;
        for process in &group {
            process.signal(Signal::SIGKILL);
        }
        if process::wait_gone(&group, STOP) {
            return Ok(());
        }
        Err(Error::Program(format!("{} can't be killed", self.name)))
    }

    /// The last lines of its log that are errors, tracebacks included.
    pub(super) fn errors(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| l.contains(" ERROR ")).collect();
        let from = lines.len().saturating_sub(ERRORS);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    fn log(&self) -> PathBuf {
        self.file("log")
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.rig.directory.join(self.name).with_extension(extension)
    }

    fn check(&self) -> Result<()> {
        if self.process().is_some() {
            return Ok(());
        }
        Err(self.failed("ended"))
    }

    fn failed(&self, how: &str) -> Error {
        let log = self.log();
        Error::Program(format!(
            "{} {how}; the end of {}: {}",
            self.name,
            log.display(),
            tail(&log)
        ))
    }
}

/// Waits until the API answers and all RPC workers listen.
pub(super) fn wait(rig: &Rig, servers: &[Server<'_>]) -> Result<()> {
    let end = Instant::now() + START;
    while !answers(rig)? {
        servers.iter().try_for_each(Server::check)?;
        if Instant::now() >= end {
            return Err(servers
                .first()
                .map_or(Error::Interrupted, |server| server.failed("doesn't answer")));
        }
        process::sleep(Duration::from_millis(50))?;
    }
    let mut command = netns::command(&rig.namespace, rig.options.programs.python());
    command
        .args(["-c", WAIT_FOR_RPC, &rig.transport_url()])
        .arg(rig.options.rpc_workers.to_string())
        .arg(START.as_secs().to_string())
        .args(rig.options.mechanism.queues());
    let output = command
        .output()
        .map_err(Error::io("asking RabbitMQ for Neutron's consumers"))?;
    servers.iter().try_for_each(Server::check)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program(format!(
        "Neutron doesn't serve agents: {}",
        last_lines(&String::from_utf8_lossy(&output.stderr))
    )))
}

/// Whether the API answers.
pub(super) fn answers(rig: &Rig) -> Result<bool> {
    let socket = (ADDRESS, API_PORT).into();
    netns::inside(&rig.namespace, || {
        api::ask(socket, "GET", "/v2.0/networks", None).is_ok_and(|answer| answer.status == 200)
    })
}

/// The process group of a process (field 5 of /proc/PID/stat).
fn group_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(2)?.parse().ok()
}

/// The end of a log.
pub(super) fn tail(log: &Path) -> String {
    last_lines(&std::fs::read_to_string(log).unwrap_or_default())
}

/// The end of a text.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(20);
    lines.get(from..).unwrap_or_default().join("\n")
}

//! Neutron's MariaDB: its own data directory, a Unix socket, no network.

use std::{
    io::Read as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{Rig, config};
use crate::{
    Error, Result, netns,
    process::{self, Identity},
    state::replace,
};

const START: Duration = Duration::from_secs(60);

/// Small, and without care for power cuts: a lab doesn't outlive one.
const ENGINE: &[&str] = &[
    "--no-defaults",
    "--user=root",
    "--skip-log-bin",
    "--character-set-server=utf8mb3",
    "--innodb-data-file-path=ibdata1:12M:autoextend",
    "--innodb-log-file-size=16M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
];

const SERVER: &[&str] = &[
    "--skip-networking",
    "--skip-name-resolve",
    "--performance-schema=OFF",
    "--max-connections=500",
];

/// A database server.
#[derive(Debug)]
pub(super) struct Database {
    namespace: String,
    directory: PathBuf,
}

impl Database {
    pub(super) fn new(namespace: &str, directory: &Path) -> Self {
        Self {
            namespace: namespace.to_owned(),
            directory: directory.to_owned(),
        }
    }

    /// Makes an empty database and starts its server.
    pub(super) fn make(&self) -> Result<()> {
        let data = self.directory.join("data");
        std::fs::create_dir_all(&data).map_err(Error::file(&data))?;
        let mut install = netns::command(&self.namespace, "mariadb-install-db");
        install
            .args(ENGINE)
            .args(["--skip-test-db", "--auth-root-authentication-method=normal"])
            .arg(format!("--datadir={}", data.display()));
        run(install)?;
        let mut server = netns::command(&self.namespace, "/usr/sbin/mariadbd");
        server
            .args(ENGINE)
            .args(SERVER)
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!(
                "--pid-file={}",
                self.directory.join("pid").display()
            ));
        let log = self.directory.join("log");
        let pid = process::start(server, &log)?;
        let identity = Identity::of(pid);
        let text = serde_json::to_string(&identity)
            .map_err(|e| Error::Program(format!("a process has no JSON form: {e}")))?;
        replace(&self.directory.join("process.json"), &text)?;
        let end = Instant::now() + START;
        while !self.answers() {
            if identity.is_none_or(|i| !i.lives()) || Instant::now() >= end {
                return Err(Error::Program(format!(
                    "MariaDB didn't start; the end of {}: {}",
                    log.display(),
                    super::server::tail(&log)
                )));
            }
            process::sleep(Duration::from_millis(20))?;
        }
        let mut create = self.client("create database neutron");
        create.args(["--skip-column-names"]);
        run(create).map(|_| ())
    }

    /// Makes Neutron's tables.
    pub(super) fn fill(&self, rig: &Rig) -> Result<()> {
        let manage = rig.options.programs.program("neutron-db-manage");
        let mut command = netns::command(&self.namespace, manage);
        for file in config::FILES {
            command.arg("--config-file").arg(rig.directory.join(file));
        }
        command.args(["upgrade", "heads"]);
        command.env("PYTHONPATH", &rig.options.programs.driver);
        run(command).map(|_| ())
    }

    /// Runs a statement.
    pub(super) fn run(&self, statement: &str) -> Result<String> {
        let mut command = self.client(statement);
        command.args(["--skip-column-names", "neutron"]);
        run(command)
    }

    fn client(&self, statement: &str) -> Command {
        let mut command = netns::command(&self.namespace, "mariadb");
        command
            .args(["--no-defaults", "--user=root", "--batch", "--execute"])
            .arg(statement)
            .arg(format!("--socket={}", self.socket().display()));
        command
    }

    /// The server's process, while it lives.
    pub(super) fn process(&self) -> Option<Identity> {
        let text = std::fs::read_to_string(self.directory.join("process.json")).ok()?;
        let identity: Identity = serde_json::from_str(&text).ok()?;
        identity.lives().then_some(identity)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    /// It greets whoever connects.
    fn answers(&self) -> bool {
        let greet = || -> std::io::Result<()> {
            let mut stream = UnixStream::connect(self.socket())?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.read_exact(&mut [0; 5])
        };
        greet().is_ok()
    }
}

/// Runs a program to its end; returns what it printed.
fn run(mut command: Command) -> Result<String> {
    // Without `netns exec NAMESPACE`.
    let words = command.get_args().skip(3).take(4);
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let what = words.join(" ");
    let output = command.output().map_err(Error::io(what.clone()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut reason = String::from_utf8_lossy(&output.stdout).into_owned();
    reason.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(Error::Command {
        command: what,
        reason: super::server::last_lines(&reason),
    })
}

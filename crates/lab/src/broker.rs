//! A RabbitMQ of a lab's or a test's own.
//!
//! The server binary itself is called, not Debian's wrapper, with its files in
//! a directory of its own and all its sockets in a network namespace: the
//! machine's own RabbitMQ, if there is one, is neither needed nor seen, and
//! whoever ends the processes of that namespace ends the broker. The
//! distribution and its port mapper (epmd) are on 127.0.0.1 there.
//!
//! A lab puts its broker into a namespace of its own name and has it ended with
//! everything else; a test that needs no more than a broker takes [`Alone`].
//!
//! What can break it: another layout of RabbitMQ's Debian package, and the
//! words of its configuration file.

mod alone;
mod certificates;

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

pub use alone::Alone;
pub use certificates::Certificates;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, netns,
    process::{self, Identity},
    state::replace,
};

/// Where Debian's package keeps RabbitMQ's versions.
const INSTALLED: &str = "/usr/lib/rabbitmq/lib";
/// The name of its process, and of its tools' processes.
const PROCESS: &str = "beam.smp";
/// Where the port mapper listens.
const EPMD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4369);
/// Erlang starts in some seconds; on a busy machine in some more.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(20);

/// How a broker shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Where it listens for AMQP.
    pub addresses: Vec<IpAddr>,
    /// The port for AMQP. Two brokers in one namespace need two ports, at
    /// least 2 apart and far from those of others plus 20,000.
    pub port: u16,
    /// The port for AMQP over TLS; None: no TLS.
    pub tls: Option<u16>,
    /// Whether clients must have a certificate on the TLS port.
    pub client_certificates: bool,
    /// Whom the server's certificate is for, in openssl's words
    /// (`subjectAltName`).
    pub certificate_for: Vec<String>,
    /// The user; no administrator, all rights in `vhost`.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// The virtual host.
    pub vhost: String,
    /// Kill it when the thread that starts it ends, however that happens.
    pub ends_with_caller: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            port: 5672,
            tls: None,
            client_certificates: false,
            certificate_for: vec!["DNS:localhost".to_owned(), "IP:127.0.0.1".to_owned()],
            user: "openstack".to_owned(),
            password: "secret".to_owned(),
            vhost: "/".to_owned(),
            ends_with_caller: false,
        }
    }
}

/// A broker: its configuration and, while it runs, its process.
#[derive(Debug, Clone)]
pub struct Broker {
    namespace: String,
    directory: PathBuf,
    options: Options,
}

impl Broker {
    /// Writes a broker's configuration, and certificates if it has TLS, into
    /// `directory`, which is made. It isn't started yet.
    ///
    /// # Errors
    /// RabbitMQ or openssl is missing, or a file can't be written.
    pub fn configure(namespace: &str, directory: &Path, options: Options) -> Result<Self> {
        installed()?;
        let broker = Self {
            namespace: namespace.to_owned(),
            directory: directory.to_owned(),
            options,
        };
        for part in ["mnesia", "log"] {
            let path = directory.join(part);
            std::fs::create_dir_all(&path).map_err(Error::file(&path))?;
        }
        if broker.options.tls.is_some() {
            broker
                .certificates()
                .make(&broker.options.certificate_for)?;
        }
        replace(&directory.join("rabbitmq.conf"), &broker.configuration())?;
        Ok(broker)
    }

    /// One that was configured before, by this program or another.
    #[must_use]
    pub fn open(namespace: &str, directory: &Path, options: Options) -> Self {
        Self {
            namespace: namespace.to_owned(),
            directory: directory.to_owned(),
            options,
        }
    }

    /// Starts it and waits until it takes connections; what runs already is
    /// only waited for.
    ///
    /// # Errors
    /// It can't be started, or ends by itself: with the end of its log.
    pub fn start(&self) -> Result<()> {
        let process = match self.process() {
            Some(process) => process,
            None => self.spawn()?,
        };
        let end = Instant::now() + START;
        while !self.answers()? {
            if !process.lives() || Instant::now() >= end {
                return Err(Error::Program(format!(
                    "RabbitMQ in namespace {} didn't start; the end of {}: {}",
                    self.namespace,
                    self.log().display(),
                    self.log_tail()
                )));
            }
            process::sleep(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Kills it with SIGKILL; what it wrote to disk stays.
    ///
    /// # Errors
    /// It can't be killed.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It doesn't end.
    pub fn stop(&self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// Stops it in order and starts it again.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// The server's process, while it lives.
    #[must_use]
    pub fn process(&self) -> Option<Identity> {
        let text = std::fs::read_to_string(self.pid_file()).ok()?;
        let identity: Identity = serde_json::from_str(&text).ok()?;
        identity.lives().then_some(identity)
    }

    /// Runs `rabbitmqctl -q` with these arguments, and returns what it prints.
    /// It takes a second or two.
    ///
    /// # Errors
    /// The command fails, most often because the broker doesn't run.
    pub fn control(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("rabbitmqctl")?;
        command.args(["-q", "-n", &self.node()]).args(arguments);
        let what = || format!("rabbitmqctl {}", arguments.join(" "));
        let output = command.output().map_err(Error::io(what()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let mut reason = String::from_utf8_lossy(&output.stderr).into_owned();
        reason.push_str(&String::from_utf8_lossy(&output.stdout));
        Err(Error::Command {
            command: what(),
            reason: reason.trim().to_owned(),
        })
    }

    /// The `transport_url` of oslo.messaging for a client at `address`.
    #[must_use]
    pub fn url(&self, address: IpAddr) -> String {
        self.url_with(SocketAddr::new(address, self.options.port))
    }

    /// The same for the TLS port; the options that TLS needs are not in it.
    #[must_use]
    pub fn tls_url(&self, address: IpAddr) -> Option<String> {
        let port = self.options.tls?;
        Some(self.url_with(SocketAddr::new(address, port)))
    }

    fn url_with(&self, address: SocketAddr) -> String {
        let Options {
            user,
            password,
            vhost,
            ..
        } = &self.options;
        let vhost = vhost.replace('%', "%25").replace('/', "%2F");
        format!("rabbit://{user}:{password}@{address}/{vhost}")
    }

    /// The certificates of the TLS port.
    #[must_use]
    pub fn certificates(&self) -> Certificates {
        Certificates::below(&self.directory)
    }

    /// Where it runs.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How it is.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What it and its helpers log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("log").join("rabbitmq.log")
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).map_or_else(
            || "there is none".to_owned(),
            |tail| format!("\n{}", tail.join("\n")),
        )
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("process.json")
    }

    fn node(&self) -> String {
        format!("broker{}@localhost", self.options.port)
    }

    fn configuration(&self) -> String {
        let Options {
            addresses,
            port,
            tls,
            client_certificates,
            user,
            password,
            vhost,
            ..
        } = &self.options;
        let mut text = String::new();
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{key} = {value}");
        };
        for (number, address) in (1..).zip(addresses) {
            let socket = SocketAddr::new(*address, *port);
            line(&format!("listeners.tcp.{number}"), &socket);
        }
        if let Some(port) = tls {
            for (number, address) in (1..).zip(addresses) {
                let socket = SocketAddr::new(*address, *port);
                line(&format!("listeners.ssl.{number}"), &socket);
            }
            let files = self.certificates();
            line("ssl_options.cacertfile", &files.authority().display());
            line("ssl_options.certfile", &files.server().display());
            line("ssl_options.keyfile", &files.server_key().display());
            line("ssl_options.verify", &"verify_peer");
            line("ssl_options.fail_if_no_peer_cert", client_certificates);
        }
        line("loopback_users", &"none");
        line("default_user", user);
        line("default_pass", password);
        line("default_vhost", vhost);
        line("default_user_tags.administrator", &false);
        line("default_permissions.configure", &".*");
        line("default_permissions.read", &".*");
        line("default_permissions.write", &".*");
        // Labs live on small temporary file systems.
        line("disk_free_limit.absolute", &"1MB");
        line("log.file", &false);
        line("log.console", &true);
        line("log.console.level", &"info");
        text
    }

    /// One of RabbitMQ's programs, with this broker's environment.
    fn command(&self, program: &str) -> Result<Command> {
        let file = installed()?.join(program);
        let mut command = netns::command(&self.namespace, "setpriv");
        if self.options.ends_with_caller {
            // Each step executes in place, so it reaches the Erlang machine.
            command.args(["--pdeathsig", "KILL"]);
        }
        command.arg("--").arg(file);
        let below = |part: &str| self.directory.join(part);
        let port = u32::from(self.options.port) + 20_000;
        command
            .env("HOME", &self.directory)
            .env("RABBITMQ_NODENAME", self.node())
            .env("RABBITMQ_CONFIG_FILE", below("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", below("no-environment"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", below("no-advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", below("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", below("mnesia"))
            .env("RABBITMQ_LOG_BASE", below("log"))
            .env("RABBITMQ_PID_FILE", below("pid"))
            .env("RABBITMQ_DIST_PORT", port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_CRASH_DUMP_SECONDS", "0")
            // The script then becomes the Erlang machine, with the same pid.
            .env("RUNNING_UNDER_SYSTEMD", "1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                // No scheduler of it spins while it has nothing to do.
                "-kernel inet_dist_use_interface {127,0,0,1} \
                 +sbwt none +sbwtdcpu none +sbwtdio none",
            )
            .env_remove("NOTIFY_SOCKET");
        Ok(command)
    }

    fn spawn(&self) -> Result<Identity> {
        self.start_port_mapper()?;
        let mut command = self.command("rabbitmq-server")?;
        command.current_dir(&self.directory);
        let pid = process::start(command, &self.log())?;
        let Some(identity) = Identity::of(pid) else {
            return Err(Error::Program(format!(
                "RabbitMQ ended at once: {}",
                self.log_tail()
            )));
        };
        let text = serde_json::to_string(&identity)
            .map_err(|e| Error::Program(format!("a process has no JSON form: {e}")))?;
        replace(&self.pid_file(), &text)?;
        Ok(identity)
    }

    /// RabbitMQ would start one by itself, but one that outlives everybody.
    fn start_port_mapper(&self) -> Result<()> {
        let runs = || netns::inside(&self.namespace, || TcpStream::connect(EPMD).is_ok());
        if runs()? {
            return Ok(());
        }
        let mut command = netns::command(&self.namespace, "setpriv");
        if self.options.ends_with_caller {
            command.args(["--pdeathsig", "KILL"]);
        }
        command.args(["--", "epmd", "-address", "127.0.0.1"]);
        process::start(command, &self.log())?;
        let end = Instant::now() + START;
        while !runs()? {
            if Instant::now() >= end {
                return Err(Error::Program(format!(
                    "Erlang's port mapper didn't start: {}",
                    self.log_tail()
                )));
            }
            process::sleep(Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// Whether it answers a client's first words: a listener alone may be there
    /// before the broker is ready.
    fn answers(&self) -> Result<bool> {
        let Some(address) = self.options.addresses.first() else {
            return Err(Error::Program("a broker without address".to_owned()));
        };
        let socket = SocketAddr::new(*address, self.options.port);
        netns::inside(&self.namespace, || {
            let ask = || -> std::io::Result<u8> {
                let mut stream = TcpStream::connect(socket)?;
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                stream.write_all(b"AMQP\x00\x00\x09\x01")?;
                let mut kind = [0];
                stream.read_exact(&mut kind)?;
                Ok(kind.into_iter().next().unwrap_or(0))
            };
            // 1 is a method's frame: connection.start.
            matches!(ask(), Ok(1))
        })
    }

    fn end(&self, signal: Signal) -> Result<()> {
        let Some(process) = self.process() else {
            return Ok(());
        };
        process.signal(signal);
        if process::wait_gone(&[process], STOP) {
            return Ok(());
        }
        process.signal(Signal::SIGKILL);
        if process::wait_gone(&[process], STOP) {
            return Ok(());
        }
        Err(Error::Program(format!(
            "RabbitMQ ({PROCESS} {}) in namespace {} can't be ended",
            process.pid, self.namespace
        )))
    }
}

/// Where RabbitMQ's own programs are.
fn installed() -> Result<PathBuf> {
    let missing = || {
        Error::Program(format!(
            "RabbitMQ is missing below {INSTALLED}: install the Debian package rabbitmq-server"
        ))
    };
    let entries = std::fs::read_dir(INSTALLED).map_err(|_| missing())?;
    entries
        .flatten()
        .map(|entry| entry.path().join("sbin"))
        .find(|path| path.join("rabbitmq-server").is_file())
        .ok_or_else(missing)
}

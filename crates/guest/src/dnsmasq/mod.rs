//! dnsmasq: started, found again, watched, told to read its files anew.
//!
//! What must be known of dnsmasq 2.90 (`docs/guest.md` has all of it):
//! * A new file is read by itself when it is renamed in. What a file that is
//!   replaced or removed said before is remembered until SIGHUP.
//! * A line with an address that another line has is refused, remembered lines
//!   included: so SIGHUP comes after every such change, at most so often.
//! * An old lease of an address keeps it from its new holder: it is released.
//!
//! What can break it: a dnsmasq that doesn't start (the reason is in the log);
//! a second one on the same directory, which is ended.

mod leases;
mod process;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    net::{Ipv4Addr, UdpSocket},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use l2isolate_model::{
    IfName, Mac,
    guest::{Key, Objects, Service, Value},
};
use nix::{
    libc,
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use tracing::{debug, info, warn};

use self::process::Process;

/// Between two looks at the process.
pub const TICK: Duration = Duration::from_millis(200);
/// A packet that waits for longer waits for a process that hangs.
const PATIENCE: Duration = Duration::from_millis(600);
/// The same if the process wants to run and gets no processor.
const STARVED: Duration = Duration::from_secs(10);
/// Between two SIGHUPs: that, and so much for each host. Reading a thousand
/// anew takes 50 ms.
const REREAD: Duration = Duration::from_millis(100);
const REREAD_EACH: Duration = Duration::from_millis(1);
/// How long the process may take to end.
const FAREWELL: Duration = Duration::from_millis(300);
/// Bytes of its log that are read in one go.
const LOG: usize = 64 * 1024;

/// Where it is, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The program.
    pub program: PathBuf,
    /// The directory that holds its files.
    pub directory: PathBuf,
    /// Its file of leases, as its arguments name it.
    pub leases: PathBuf,
}

/// What became of the process since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noticed {
    /// It has ended.
    Dead,
    /// It doesn't do its work; it has been killed.
    Hung(&'static str),
}

/// The DHCP server of a host.
#[derive(Debug)]
pub(crate) struct Server {
    settings: Settings,
    running: Option<Running>,
    /// It remembers what its files don't say any more.
    forgetful: bool,
    reread: Option<Instant>,
    rereads: u64,
    log: Option<File>,
    /// The end of a line that isn't whole yet.
    line: String,
}

#[derive(Debug)]
struct Running {
    process: Process,
    /// Absent if another agent has started it.
    child: Option<Child>,
    arguments: Arc<[String]>,
    /// Its sockets, once it has its DHCP socket.
    sockets: Vec<u64>,
    /// Since when a packet waits, and the processor time it had used then.
    stuck: Option<(Instant, Duration)>,
}

impl Running {
    fn new(process: Process, child: Option<Child>, arguments: Arc<[String]>) -> Self {
        Self {
            process,
            child,
            arguments,
            sockets: Vec::new(),
            stuck: None,
        }
    }

    /// Ends it, and sees to it that nothing is left of it.
    fn end(&mut self, gently: bool) {
        if gently && self.process.signal(Signal::SIGTERM) {
            process::gone_within(self.process, FAREWELL);
        }
        self.process.signal(Signal::SIGKILL);
        process::gone_within(self.process, FAREWELL);
        if let Some(child) = &mut self.child {
            // Its exit status is of no use, but stays until somebody takes it.
            let _ = child.try_wait();
        }
    }
}

impl Server {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            running: None,
            forgetful: false,
            reread: None,
            rereads: 0,
            log: None,
            line: String::new(),
        }
    }

    /// The process, if there is one.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.running.as_ref().map(|running| running.process.pid)
    }

    /// What is there now: with which arguments it runs.
    pub(crate) fn observe(&mut self) -> Option<Value> {
        if self.running.is_none() {
            self.adopt();
        }
        let running = self.running.as_ref()?;
        if running.process.doing().is_none() {
            self.running = None;
            return None;
        }
        Some(Value::Arguments(Arc::clone(&running.arguments)))
    }

    /// Finds one that an earlier agent has started.
    fn adopt(&mut self) {
        let argument = format!("--dhcp-leasefile={}", self.settings.leases.display());
        let mut found = process::find(&argument);
        let Some(process) = found.pop() else { return };
        for surplus in found {
            warn!(
                pid = surplus.pid,
                "a second dnsmasq serves from the same directory; ended"
            );
            Running::new(surplus, None, Arc::default()).end(true);
        }
        let arguments: Arc<[String]> = process.arguments().into();
        info!(pid = process.pid, "dnsmasq runs already");
        self.running = Some(Running::new(process, None, arguments));
        // Whether its last agent lived to tell it of all changes isn't known.
        self.forgetful = true;
    }

    /// Starts it with these arguments, in place of what runs.
    pub(crate) fn start(&mut self, arguments: &Arc<[String]>) -> io::Result<()> {
        self.stop();
        let program = &self.settings.program;
        let mut command = Command::new(program);
        command
            .args(arguments.iter())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log_end()?)
            // No signal of a terminal is meant for it.
            .process_group(0);
        let child = command.spawn().map_err(|error| {
            let program = program.display();
            io::Error::new(error.kind(), format!("{program} can't be started ({error}); install dnsmasq-base, or name it with dnsmasq_program"))
        })?;
        let pid = i32::try_from(child.id()).unwrap_or(0);
        let process = Process::of(pid).ok_or_else(|| io::Error::other("dnsmasq ended at once"))?;
        info!(pid, "dnsmasq started");
        self.running = Some(Running::new(process, Some(child), Arc::clone(arguments)));
        self.forgetful = false;
        Ok(())
    }

    /// Ends it. Leases stay in its file.
    pub(crate) fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.end(true);
        }
    }

    /// The writing end of its log: a pipe that is its own reader as well, so
    /// that it never breaks, and that drops what doesn't fit, so that dnsmasq
    /// never waits for an agent that isn't there.
    fn log_end(&self) -> io::Result<File> {
        let path = self.settings.directory.join("log");
        match mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        options.open(path)
    }

    /// A file that it has read said something else before, or it said
    /// something and is gone.
    pub(crate) fn forget(&mut self) {
        self.forgetful = true;
    }

    /// Has it read its files anew, if it has to and it is time.
    pub(crate) fn reread(&mut self, now: Instant, hosts: usize) {
        let Some(running) = self.running.as_ref().filter(|_| self.forgetful) else {
            return;
        };
        if self.reread.is_some_and(|last| last + pause(hosts) > now) {
            return;
        }
        if running.process.signal(Signal::SIGHUP) {
            debug!("dnsmasq reads its files anew");
            self.forgetful = false;
            self.reread = Some(now);
            self.rereads += 1;
        }
    }

    /// When it is to read its files anew, if that has to wait.
    pub(crate) fn reread_due(&self, hosts: usize) -> Option<Instant> {
        self.running.as_ref().filter(|_| self.forgetful)?;
        self.reread.map(|last| last + pause(hosts))
    }

    /// Looks at the process: is it there, and does it do its work?
    pub(crate) fn look(&mut self, now: Instant) -> Option<Noticed> {
        self.read_log();
        let running = self.running.as_mut()?;
        let noticed = match running.process.doing() {
            None => Noticed::Dead,
            Some(doing) if matches!(doing.state, 'T' | 't') => Noticed::Hung("it is stopped"),
            Some(doing) => {
                if running.sockets.is_empty() {
                    running.sockets = running.process.sockets();
                }
                let waiting = process::queued(&running.sockets, leases::SERVER);
                if waiting.is_none() {
                    // Perhaps it hasn't opened it yet.
                    running.sockets.clear();
                }
                if waiting.unwrap_or(0) == 0 {
                    running.stuck = None;
                    // Something to do, by which its life is seen: nothing
                    // that it takes for DHCP, and not from a tap.
                    let _ = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| {
                        socket.send_to(b"?", (Ipv4Addr::LOCALHOST, leases::SERVER))
                    });
                    return None;
                }
                let (since, cpu) = *running.stuck.get_or_insert((now, doing.cpu));
                let waited = now.saturating_duration_since(since);
                let works = doing.cpu.saturating_sub(cpu) >= waited / 2;
                let starved = doing.state == 'R' && !works;
                if waited < if starved { STARVED } else { PATIENCE } {
                    return None;
                }
                Noticed::Hung("packets wait and it doesn't take them")
            }
        };
        if let Some(mut running) = self.running.take() {
            running.end(false);
        }
        Some(noticed)
    }

    /// Passes on what it says. Most of it is that it has read a file.
    fn read_log(&mut self) {
        if self.log.is_none() {
            self.log = self.log_end().ok();
        }
        let mut bytes = vec![0; LOG];
        let read = self.log.as_mut().and_then(|log| log.read(&mut bytes).ok());
        let text = bytes.get(..read.unwrap_or(0)).unwrap_or_default();
        self.line.push_str(&String::from_utf8_lossy(text));
        while let Some((line, rest)) = self.line.split_once('\n') {
            if routine(line) {
                debug!("{line}");
            } else {
                warn!("{line}");
            }
            self.line = rest.to_owned();
        }
        self.line.truncate(LOG);
    }

    /// Leases that keep an address from whom a host line names.
    pub(crate) fn stale_leases(&self, files: &Objects) -> io::Result<Vec<Key>> {
        let hosts = files.iter().filter_map(|(key, value)| match (key, value) {
            (Key::File(Service::Hosts, _), Value::Content(line)) => leases::host(line),
            _ => None,
        });
        let hosts: BTreeMap<Ipv4Addr, Mac> = hosts.collect();
        let leases = leases::read(&self.settings.leases)?;
        let stale = |(address, holder): (Ipv4Addr, Mac)| {
            let wanted = hosts.get(&address)?;
            (*wanted != holder).then_some(Key::StaleLease(address, holder))
        };
        Ok(leases.into_iter().filter_map(stale).collect())
    }

    /// Releases such a lease by way of a tap.
    pub(crate) fn release(
        &self,
        address: Ipv4Addr,
        mac: Mac,
        tap: IfName,
        servers: &[Ipv4Addr],
    ) -> io::Result<()> {
        leases::release(address, mac, tap, servers)
    }

    /// How many leases it holds.
    pub(crate) fn leases(&self) -> usize {
        leases::read(&self.settings.leases).map_or(0, |leases| leases.len())
    }

    pub(crate) fn rereads(&self) -> u64 {
        self.rereads
    }
}

/// Between two SIGHUPs.
fn pause(hosts: usize) -> Duration {
    REREAD + REREAD_EACH * u32::try_from(hosts).unwrap_or(u32::MAX)
}

/// A line that says nothing new.
fn routine(line: &str) -> bool {
    const ROUTINE: &[&str] = &[
        ": read ",
        ": inotify: ",
        ": started, version",
        ": compile time options",
        ": DHCP, static leases only",
        ": exiting on receipt of SIGTERM",
        // Of a file that is gone.
        ": cannot read ",
        // Of a line that it takes when it reads its files anew.
        "duplicate dhcp-host IP address",
        // The lease is released when that is seen.
        "not using configured address",
        "log entries lost",
        "DHCP packet received on",
        // No tap is there yet.
        "does not currently exist",
    ];
    line.trim().is_empty() || ROUTINE.iter().any(|part| line.contains(part))
}

/// What the program says that it knows of options (`--help dhcp`).
///
/// # Errors
/// It can't be run.
pub fn known_options(program: &Path) -> io::Result<String> {
    let output = Command::new(program)
        .args(["--help", "dhcp"])
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a directory that dnsmasq's user can pass through.
///
/// # Errors
/// It can't be made.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

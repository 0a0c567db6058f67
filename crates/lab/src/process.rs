//! Processes of a lab: start, recognise, end; and the signals that end a run of
//! the lab itself.
//!
//! A process is the lab's own if its network namespace is one of the lab's.
//! No list is needed for that, so it also holds after a crash; nothing is ever
//! ended by name.

use std::{
    collections::{HashMap, HashSet},
    fs::OpenOptions,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{Error, Result, netns};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Makes SIGHUP, SIGINT and SIGTERM set a flag that long work looks at, so that
/// a lab half made is taken down in order. A second signal ends the process at once.
///
/// # Errors
/// The handlers can't be installed.
pub fn watch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let what = || Error::io(format!("handling signal {signal}"));
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(flag))
            .map_err(what())?;
        signal_hook::flag::register(signal, Arc::clone(flag)).map_err(what())?;
    }
    Ok(())
}

/// Whether one of these signals has come.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Sleeps, but not past a signal.
///
/// # Errors
/// A signal has come.
pub fn sleep(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        if interrupted() {
            return Err(Error::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// Starts a program that outlives the lab's own process; both its outputs are
/// appended to `log`. While the lab's process lives, it reaps the program.
///
/// # Errors
/// The log can't be opened or the program can't be started.
pub fn start(mut command: Command, log: &Path) -> Result<u32> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .map_err(Error::file(log))?;
    let second = file.try_clone().map_err(Error::file(log))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(second)
        // A group of its own: the terminal's Ctrl-C is for the lab alone.
        .process_group(0)
        .spawn()
        .map_err(Error::io(format!("starting {command:?}")))?;
    let pid = child.id();
    thread::Builder::new()
        .name(format!("reap {pid}"))
        .stack_size(64 * 1024)
        .spawn(move || child.wait())
        .map_err(Error::io("starting a thread"))?;
    Ok(pid)
}

/// A process that can't be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of /proc/PID/stat).
    pub started: u64,
}

impl Identity {
    /// The process `pid`, if it lives.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        // `rest` starts with field 3; one is taken: field 20, then field 22.
        let threads = fields.nth(16)?;
        let started = fields.nth(1)?.parse().ok()?;
        // While other threads of it are still ending, so are its open sockets.
        if state == "Z" && matches!(threads, "0" | "1") {
            return None;
        }
        Some(Self { pid, started })
    }

    /// This process.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether it still lives.
    #[must_use]
    pub fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it still lives.
    pub fn signal(self, signal: Signal) {
        if let (true, Ok(pid)) = (self.lives(), i32::try_from(self.pid)) {
            // It may have gone in between: then there is nothing to end.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Its name (at most 15 bytes), as the kernel has it.
    #[must_use]
    pub fn name(self) -> String {
        std::fs::read_to_string(format!("/proc/{}/comm", self.pid))
            .map(|name| name.trim_end().to_owned())
            .unwrap_or_default()
    }
}

/// All living processes in the given namespaces.
///
/// # Errors
/// /proc can't be read.
pub fn in_namespaces(namespaces: &[String]) -> Result<HashMap<String, Vec<Identity>>> {
    let by_identity: HashMap<netns::Identity, &String> = namespaces
        .iter()
        .filter_map(|name| Some((netns::identity(name).ok()?, name)))
        .collect();
    let mut found: HashMap<String, Vec<Identity>> = HashMap::new();
    let entries = std::fs::read_dir("/proc").map_err(Error::file(Path::new("/proc")))?;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse().ok()) else {
            continue;
        };
        // A process that ends meanwhile has no namespace left to read.
        let Ok(meta) = std::fs::metadata(entry.path().join("ns/net")) else {
            continue;
        };
        let namespace = by_identity.get(&(meta.dev(), meta.ino()));
        if let (Some(name), Some(identity)) = (namespace, Identity::of(pid)) {
            found.entry((*name).clone()).or_default().push(identity);
        }
    }
    Ok(found)
}

/// Ends processes: SIGTERM, and SIGKILL for those that live on after `grace`.
/// False if even that leaves some.
#[must_use]
pub fn end(processes: &[Identity], grace: Duration) -> bool {
    for process in processes {
        process.signal(Signal::SIGTERM);
    }
    if wait_gone(processes, grace) {
        return true;
    }
    for process in processes {
        process.signal(Signal::SIGKILL);
    }
    wait_gone(processes, grace)
}

/// Waits until all of `processes` have ended; false if some live on.
#[must_use]
pub fn wait_gone(processes: &[Identity], limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let mut left: HashSet<u32> = processes.iter().map(|p| p.pid).collect();
    loop {
        left.retain(|pid| {
            processes
                .iter()
                .any(|process| process.pid == *pid && process.lives())
        });
        if left.is_empty() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

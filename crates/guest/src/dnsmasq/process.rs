//! A process that may be somebody else's child: what /proc says of it.
//!
//! It outlives the agent that started it, and the next agent finds it by its
//! arguments, so no record can be wrong about it.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

/// A process: its id, and when it began, since ids come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    began: u64,
}

/// What a process is doing (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doing {
    /// R, S, D, T, Z …
    pub(super) state: char,
    /// Processor time until now.
    pub(super) cpu: Duration,
}

impl Process {
    pub(super) fn of(pid: i32) -> Option<Self> {
        let (_, began) = stat(pid)?;
        Some(Self { pid, began })
    }

    /// What it does; `None`: it is gone, or all that is left is its exit status.
    pub(super) fn doing(self) -> Option<Doing> {
        let (doing, began) = stat(self.pid)?;
        (began == self.began && !matches!(doing.state, 'Z' | 'X')).then_some(doing)
    }

    /// Sends a signal; says whether the process is there.
    pub(super) fn signal(self, signal: Signal) -> bool {
        self.doing().is_some() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }

    /// The inodes of its sockets.
    pub(super) fn sockets(self) -> Vec<u64> {
        let inode = |entry: io::Result<fs::DirEntry>| {
            let link = fs::read_link(entry.ok()?.path()).ok()?;
            let text = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            text.parse().ok()
        };
        let entries = fs::read_dir(path(self.pid, "fd"));
        entries.into_iter().flatten().filter_map(inode).collect()
    }

    /// Its arguments, without the program's own name.
    pub(super) fn arguments(self) -> Vec<String> {
        let mut all = command_line(self.pid);
        if !all.is_empty() {
            all.remove(0);
        }
        all
    }
}

/// The processes in this thread's network namespace that have an argument.
pub(super) fn find(argument: &str) -> Vec<Process> {
    let own = namespace(Path::new("/proc/thread-self/ns/net"));
    let fits = |entry: io::Result<fs::DirEntry>| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let named = command_line(pid).iter().skip(1).any(|a| a == argument);
        if !named || namespace(&path(pid, "ns/net")) != own {
            return None;
        }
        Process::of(pid).filter(|process| process.doing().is_some())
    };
    let entries = fs::read_dir("/proc");
    entries.into_iter().flatten().filter_map(fits).collect()
}

fn path(pid: i32, what: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(what)
}

fn namespace(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

fn command_line(pid: i32) -> Vec<String> {
    let bytes = fs::read(path(pid, "cmdline")).unwrap_or_default();
    let mut parts: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .map(|part| {
            OsString::from_vec(part.to_vec())
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    // Each argument ends with a zero.
    parts.pop();
    parts
}

/// State, processor time, and when it began in ticks since boot.
fn stat(pid: i32) -> Option<(Doing, u64)> {
    let text = fs::read_to_string(path(pid, "stat")).ok()?;
    // The name before it, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    // Counted from the state, which is field 3.
    let (user, system, began) = (number(11)?, number(12)?, number(19)?);
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let ticks = ticks
        .and_then(|n| u64::try_from(n).ok())
        .unwrap_or(100)
        .max(1);
    let doing = Doing {
        state: fields.first()?.chars().next()?,
        cpu: Duration::from_millis((user + system) * 1000 / ticks),
    };
    Some((doing, began))
}

/// Waits until a process is gone, for so long.
pub(super) fn gone_within(process: Process, longest: Duration) -> bool {
    let end = std::time::Instant::now() + longest;
    while process.doing().is_some() {
        if std::time::Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// What waits in the receive queue of one of these sockets on an IPv4 UDP
/// port, in bytes; `None`: none of them is there.
pub(super) fn queued(sockets: &[u64], port: u16) -> Option<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/udp").ok()?;
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local) = fields.get(1)?.split_once(':')?;
        let inode: u64 = fields.get(9)?.parse().ok()?;
        let ours = u16::from_str_radix(local, 16) == Ok(port) && sockets.contains(&inode);
        let (_, waiting) = fields.get(4)?.split_once(':')?;
        ours.then(|| u64::from_str_radix(waiting, 16).ok())?
    };
    table.lines().find_map(line)
}

//! Network namespaces by name, through iproute2 and setns(2).
//!
//! Owns the namespaces whose names it is given; every command runs inside one
//! of them, or names both ends when it creates a link, so that nothing ever
//! appears in the machine's own network.
//!
//! What can break it: `ip -batch`'s grammar, and the place where iproute2
//! keeps named namespaces.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::{Error, Result};

/// Where iproute2 keeps named namespaces.
const DIRECTORY: &str = "/run/netns";
/// Threads that work on namespaces side by side; the kernel serialises most of
/// it by the rtnl lock anyway.
const WORKERS: usize = 4;

fn path(namespace: &str) -> PathBuf {
    Path::new(DIRECTORY).join(namespace)
}

/// Makes namespaces.
///
/// # Errors
/// One exists already, or the caller isn't root.
pub fn create(names: &[String]) -> Result<()> {
    let lines: String = names.iter().map(|n| format!("netns add {n}\n")).collect();
    batch(None, &lines)
}

/// Removes namespaces; what lived in them goes with them.
///
/// # Errors
/// One can't be removed.
pub fn delete(names: &[String]) -> Result<()> {
    let lines: String = names.iter().map(|n| format!("netns del {n}\n")).collect();
    batch(None, &lines)
}

/// Names of all namespaces that start with `prefix`.
///
/// # Errors
/// The directory can't be read.
pub fn list(prefix: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::file(Path::new(DIRECTORY))(e)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    Ok(names)
}

/// Device and inode, by which the kernel tells namespaces apart.
pub type Identity = (u64, u64);

/// The identity of a named namespace.
///
/// # Errors
/// There is none of that name.
pub fn identity(name: &str) -> Result<Identity> {
    let path = path(name);
    let meta = std::fs::metadata(&path).map_err(Error::file(&path))?;
    Ok((meta.dev(), meta.ino()))
}

/// Runs `work` on a thread of its own inside the namespace. Sockets made there
/// stay there; /proc/sys/net is the namespace's.
///
/// # Errors
/// The namespace can't be entered.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = path(namespace);
    let file = File::open(&path).map_err(Error::file(&path))?;
    let what = format!("entering namespace {namespace}");
    let run = || {
        setns(file, CloneFlags::CLONE_NEWNET).map_err(Error::errno(what))?;
        Ok(work())
    };
    thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A command that runs inside the namespace, with /sys showing it. The process
/// id stays the same from start to end, since `ip` executes it in place.
pub fn command(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// Feeds lines to `ip -batch`, inside a namespace or, to make namespaces and
/// links between them, outside.
///
/// # Errors
/// A line fails; the message is ip's.
pub fn batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    // Killed itself if this process is: nothing shall go on making namespaces
    // while another run already removes what is left of this one.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "ip"]);
    if let Some(name) = namespace {
        command.args(["-netns", name]);
    }
    command.args(["-batch", "-"]);
    let what = || format!("ip -batch {}", namespace.unwrap_or_default());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io(what()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe is ip's early end; its message tells more.
        let _ = stdin.write_all(lines.as_bytes());
    }
    let output = child.wait_with_output().map_err(Error::io(what()))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(Error::Command {
        command: what(),
        reason: reason.trim().replace('\n', "; "),
    })
}

/// Output of an `ip` command inside a namespace.
///
/// # Errors
/// The command fails.
pub fn ip(namespace: &str, args: &[&str]) -> Result<String> {
    let what = || format!("ip -netns {namespace} {}", args.join(" "));
    let output = Command::new("ip")
        .args(["-netns", namespace])
        .args(args)
        .output()
        .map_err(Error::io(what()))?;
    if !output.status.success() {
        return Err(Error::Command {
            command: what(),
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes network settings of one namespace; keys as in sysctl(8), below net.
///
/// # Errors
/// A setting can't be written.
pub fn sysctl(namespace: &str, settings: &[(&str, &str)]) -> Result<()> {
    inside(namespace, || {
        for (key, value) in settings {
            let path = Path::new("/proc/sys/net").join(key.replace('.', "/"));
            std::fs::write(&path, value).map_err(Error::io(format!(
                "{} = {value} in namespace {namespace}",
                path.display()
            )))?;
        }
        Ok(())
    })?
}

/// Does `work` for each item, several at a time; stops at the first failure.
///
/// # Errors
/// The first failure.
pub fn each<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let result = if crate::process::interrupted() {
                        Err(Error::Interrupted)
                    } else {
                        work(item)
                    };
                    if let Err(error) = result {
                        next.store(items.len(), std::sync::atomic::Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(|e| e.into_inner());
                        failed.get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

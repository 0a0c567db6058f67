//! Network namespaces for tests (feature `testing`).
//!
//! Each test gets a thread of its own in a namespace of its own, which goes
//! with the thread: no names, nothing to clean up, and the machine's own
//! network is never touched. Programs that are started there live there as
//! well. Needs root.

pub mod decoders;

use std::{fs, panic, process::Command, thread};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};

/// Runs `test` in a new network namespace, with lo up. Panics of the test go
/// through.
///
/// # Panics
/// Without root, since a test that didn't run must not look like one that did.
#[allow(clippy::panic, clippy::expect_used, reason = "tests fail by panics")]
pub fn in_new_netns<R: Send>(test: impl FnOnce() -> R + Send) -> R {
    assert!(
        Uid::effective().is_root(),
        "this test makes a network namespace and needs root; run the tests as root"
    );
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
        ip("link set lo up");
        test()
    };
    thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(result) => result,
        Err(panic) => panic::resume_unwind(panic),
    })
}

/// Runs `ip` with arguments as on a command line, and gives what it prints.
///
/// # Panics
/// If it fails.
#[allow(clippy::panic, clippy::expect_used, reason = "tests fail by panics")]
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("ip, from iproute2, can be started");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Runs many lines by one `ip -batch`.
///
/// # Panics
/// If one fails.
#[allow(clippy::panic, clippy::expect_used, reason = "tests fail by panics")]
pub fn ip_batch(lines: impl IntoIterator<Item = String>) {
    use std::io::Write as _;
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("ip, from iproute2, can be started");
    let mut input = child.stdin.take().expect("its input is a pipe");
    for line in lines {
        writeln!(input, "{line}").expect("ip reads its input");
    }
    drop(input);
    assert!(child.wait().expect("ip ends").success(), "ip -batch failed");
}

/// Makes a tap that is up, with its guest's end open: a veth pair whose other
/// end is called `peer` and stays here. This kernel says nothing there of its own
/// accord (no MLD, no router solicitations), so what arrives is what a test sent.
///
/// # Panics
/// If it can't be made.
pub fn tap(name: &str, peer: &str) {
    ip(&format!("link add {name} type veth peer name {peer}"));
    set_sysctl(&format!("ipv6/conf/{peer}/disable_ipv6"), "1");
    ip(&format!("link set {peer} up"));
    ip(&format!("link set {name} up"));
}

/// Reads a file below /proc/sys/net, of the namespace of this thread.
///
/// # Panics
/// If it can't be read.
#[allow(clippy::panic, reason = "tests fail by panics")]
#[must_use]
pub fn sysctl(path: &str) -> String {
    match fs::read_to_string(format!("/proc/sys/net/{path}")) {
        Ok(text) => text.trim().to_owned(),
        Err(error) => panic!("reading net/{path}: {error}"),
    }
}

/// Writes a file below /proc/sys/net, of the namespace of this thread.
///
/// # Panics
/// If it can't be written.
#[allow(clippy::panic, reason = "tests fail by panics")]
pub fn set_sysctl(path: &str, value: &str) {
    if let Err(error) = fs::write(format!("/proc/sys/net/{path}"), value) {
        panic!("writing {value} to net/{path}: {error}");
    }
}

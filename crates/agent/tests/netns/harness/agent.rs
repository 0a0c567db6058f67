//! The agent as a process in the hypervisor's namespace.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use l2isolate_lab::netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_l2isolate");

/// A running agent; dropping it kills it.
pub(crate) struct Agent {
    child: Child,
}

impl Agent {
    /// Starts one; what it logs is appended to `log`.
    /// `release`: what it shall read as the kernel's release. `privileges`: what
    /// it may, as options of setpriv(1).
    pub(super) fn start(
        namespace: &str,
        config: &Path,
        log: &Path,
        release: Option<&Path>,
        privileges: &[String],
    ) -> Self {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        // `ip netns exec` and `setpriv` execute in place: the process is the
        // agent in the end, and it doesn't outlive the test.
        let mut command = netns::command(namespace, "setpriv");
        command.args(privileges).args(["--pdeathsig", "KILL"]);
        if let Some(release) = release {
            // In the mount namespace that `ip netns exec` has made.
            let bind = "mount --bind \"$0\" /proc/sys/kernel/osrelease && exec \"$@\"";
            command.args(["sh", "-c", bind]).arg(release);
        }
        let child = command
            .args([PROGRAM, "agent", "--config-file"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Its process.
    pub(super) fn process(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Asks it to end, and waits for that.
    pub(super) fn end(mut self) {
        kill(self.process(), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the agent ended with {status}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It fails only if the agent has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command of the program, to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Asks the agent; `None` if it doesn't answer.
pub(super) fn ask(socket: &Path, verb: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream
        .write_all(format!("{{\"verb\":\"{verb}\"}}\n").as_bytes())
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let mut answer: Value = serde_json::from_str(&answer).ok()?;
    Some(answer["ok"].take())
}

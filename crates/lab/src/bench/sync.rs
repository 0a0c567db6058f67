//! The agent's own word that it is done.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Error, Result, process};

/// Pause between two questions to the agent's socket.
const ASK: Duration = Duration::from_millis(2);
/// Longest wait.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks the agent until it says that it is in sync, with so many ports wired.
///
/// # Errors
/// It never does.
pub(super) fn wait(socket: &Path, ports: usize) -> Result<Instant> {
    let end = Instant::now() + LIMIT;
    let wanted = u64::try_from(ports).unwrap_or(u64::MAX);
    loop {
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        let status = ask(socket).unwrap_or_default();
        let status = status.get("ok").unwrap_or(&Value::Null);
        // States that no port has aren't named.
        let wired = status.pointer("/ports/wired").and_then(Value::as_u64);
        let wired = wired.unwrap_or_default();
        if status.get("in_sync") == Some(&Value::Bool(true)) && wired == wanted {
            return Ok(Instant::now());
        }
        if Instant::now() > end {
            return Err(Error::Timeout {
                what: "the agent being in sync",
                seconds: LIMIT.as_secs(),
                missing: status.to_string(),
            });
        }
        thread::sleep(ASK);
    }
}

/// `status` over the agent's socket; none if it doesn't answer yet.
fn ask(socket: &Path) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(b"{\"verb\":\"status\"}\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(&answer).ok()
}

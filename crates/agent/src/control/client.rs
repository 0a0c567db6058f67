//! The commands' side of the socket.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

use super::{Answer, Request};

/// How long to wait for the agent.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the agent at `socket`.
///
/// # Errors
/// No agent answers there, or it can't; the message says what to look at.
pub(crate) fn ask<T: DeserializeOwned>(socket: &Path, request: Request) -> anyhow::Result<T> {
    let place = socket.display();
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!("no agent answers at {place}: is it running, and may you open the socket?")
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_string(&request)?;
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("the agent at {place} didn't answer"))?;
    match serde_json::from_str(&answer)
        .with_context(|| format!("the agent at {place} broke off"))?
    {
        Answer::Ok(value) => Ok(serde_json::from_value(value)?),
        Answer::Error(reason) => bail!("the agent at {place} says: {reason}"),
    }
}

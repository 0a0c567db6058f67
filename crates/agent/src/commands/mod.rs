//! The verbs of the command line, one per file. Each prints its answer on
//! standard output and returns the exit code: 0 all is well, 1 the command
//! failed, 2 it worked and what it found isn't well.

pub(crate) mod agent;
pub(crate) mod base_filter;
pub(crate) mod check_config;
pub(crate) mod diff;
pub(crate) mod drain;
pub(crate) mod guest;
pub(crate) mod metadata;
pub(crate) mod ports;
pub(crate) mod release;
pub(crate) mod render_bgp;
pub(crate) mod show_nft;
pub(crate) mod status;
pub(crate) mod verify;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde::Serialize;

/// The command worked, and what it found needs somebody's attention.
const ATTENTION: u8 = 2;

/// Prints an answer as JSON, or as text made by `text`.
fn print<T: Serialize>(
    answer: &T,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string_pretty(answer)? + "\n"
    } else {
        text(answer)
    };
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn well(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(ATTENTION)
    }
}

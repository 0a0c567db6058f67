//! `l2isolate agent`: run the agent in the foreground.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;

use crate::{config, logging, run::Agent};

/// Runs until a signal ends it.
///
/// # Errors
/// The configuration is wrong, or something the agent can't be without is
/// missing.
pub(crate) fn run(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let loaded = config::load(files)?;
    if !loaded.problems.is_empty() {
        let all: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
        bail!("the configuration is wrong:\n{}", all.join("\n"));
    }
    logging::init(&loaded.config)?;
    Agent::start(loaded.config)?.run()?;
    Ok(ExitCode::SUCCESS)
}

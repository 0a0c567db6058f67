//! `l2isolate agent`: run the agent in the foreground.

use std::{path::PathBuf, process::ExitCode};

use crate::{config, logging, run::Agent};

/// Runs until a signal ends it.
///
/// # Errors
/// The configuration is wrong, or something the agent can't be without is
/// missing.
pub(crate) fn run(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let config = config::load_sound(files)?;
    logging::init(&config)?;
    Agent::start(config)?.run()?;
    Ok(ExitCode::SUCCESS)
}

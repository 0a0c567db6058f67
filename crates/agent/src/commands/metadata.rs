//! `l2isolate metadata`: answer guests that ask for metadata, in the foreground
//! and without privileges.

use std::{path::PathBuf, process::ExitCode};

use crate::{config, logging};

/// Runs until a signal ends it.
///
/// # Errors
/// The configuration is wrong, or something the proxy can't be without is
/// missing.
pub(crate) fn run(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let config = config::load_sound(files)?;
    let options = config.metadata()?;
    logging::init(&config)?;
    l2isolate_guest::metadata::run(&options)?;
    Ok(ExitCode::SUCCESS)
}

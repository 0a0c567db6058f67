//! Logs: for people on a terminal, as JSON where asked for. Lines about a port
//! carry it in the field `port`.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Config, LogFormat};

/// Sets the process's logging up, to standard error.
///
/// # Errors
/// The level is none, or logging is set up already.
pub(crate) fn init(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("log_level {:?} is no level such as info", config.log_level))?;
    // It logs what it also returns, with whole messages.
    let filter = match config.log_level.contains("lapin") {
        true => filter,
        false => filter.add_directive("lapin=off".parse()?),
    };
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let set = match config.log_format {
        LogFormat::Human => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| anyhow::anyhow!("logging can't be set up: {error}"))
}

//! `l2isolate diff`: what would be written to the kernel now?
//!
//! Asked of the running agent, or, with configuration files, found out without
//! one: what an agent that is started now would do first.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use l2isolate_kernel::Kernel;
use l2isolate_source::{Availability, directory};

use super::{print, well};
use crate::{
    config::{self, Config},
    control::{Request, client},
    engine::Engine,
    firewall::Firewall,
    report::{self, DifferenceReport},
};

/// How long the source may take for its first reading.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks the agent, or looks for itself where configuration files are given.
///
/// # Errors
/// No agent answers; or the files, the kernel or the source can't be read.
pub(crate) fn run(socket: &Path, files: &[PathBuf], json: bool) -> anyhow::Result<ExitCode> {
    let differences: Vec<DifferenceReport> = if files.is_empty() {
        client::ask(socket, Request::Diff)?
    } else {
        without_agent(&config::load_sound(files)?)?
    };
    print(&differences, json, |all| match all.as_slice() {
        [] => "nothing: the kernel is as it shall be\n".to_owned(),
        all => all
            .iter()
            .map(|difference| line(difference) + "\n")
            .collect(),
    })?;
    Ok(well(differences.is_empty()))
}

fn without_agent(config: &Config) -> anyhow::Result<Vec<DifferenceReport>> {
    let kernel = Kernel::open(l2isolate_kernel::Config::new(config.route_protocol))?;
    let engine = Engine::start(kernel, config.plan(), config.migration_pause)?;
    let mut engine = engine.with_uplinks(&config.uplinks.0);
    if config.firewall {
        engine = engine.with_firewall(Firewall::start(config.filter())?);
    }
    // Nothing is known from before, so nothing can have vanished: no grace.
    let options = directory::Options::new(&config.intent_directory);
    let (_source, updates) = directory::spawn(options, Box::new(|| {}))?;
    let update = updates
        .recv_timeout(PATIENCE)
        .context("the source of the intent doesn't answer")?;
    if let Availability::Away { reason, .. } = &update.state.availability {
        bail!(
            "directory {} can't be read: {reason}",
            config.intent_directory.display()
        );
    }
    engine.absorb(update.changes, update.complete);
    engine.plan_dirty();
    Ok(report::differences(&engine))
}

/// One difference on one line.
pub(crate) fn line(difference: &DifferenceReport) -> String {
    let object = &difference.object;
    let mut line = match (&difference.observed, &difference.desired) {
        (None, Some(desired)) => format!("+ {object}: {desired}"),
        (Some(observed), None) => format!("- {object}: {observed}"),
        (observed, desired) => {
            let or_none =
                |value: &Option<String>| value.clone().unwrap_or_else(|| "not there".to_owned());
            format!("~ {object}: {} → {}", or_none(observed), or_none(desired))
        }
    };
    if let Some(port) = &difference.port {
        line += &format!("  (port {port})");
    }
    if difference.contested {
        line += "  [somebody keeps changing it back]";
    }
    if let Some(error) = &difference.error {
        line += &format!("  [tried {} times: {error}]", difference.attempts);
    }
    line
}

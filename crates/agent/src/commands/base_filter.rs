//! `l2isolate base-filter`: the closed firewall, before any machine starts.
//!
//! What is there already stays: it adds what is missing of the base, and knows
//! nothing of ports. The agent takes the tables over.

use std::{path::PathBuf, process::ExitCode};

use l2isolate_plan::filter::FilterConfig;

use crate::{
    config,
    firewall::{Firewall, Stage},
};

/// Installs it.
///
/// # Errors
/// The configuration is wrong, or the kernel refuses some of it.
pub(crate) fn run(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let config = config::load_sound(files)?;
    anyhow::ensure!(config.firewall, "the configuration says firewall = false");
    let filter = FilterConfig {
        // Nobody listens yet, and a kernel that can't log is no reason to fail here.
        strays: None,
        ..config.filter()
    };
    // Deletions stay held: what isn't of the base is a predecessor's.
    let mut firewall = Firewall::start(filter)?;
    firewall.converge(Stage::BeforeWiring);
    let left = firewall.reconciler().differences();
    let missing: Vec<String> = left
        .filter(|difference| difference.desired.is_some())
        .map(|difference| difference.key.to_string())
        .collect();
    anyhow::ensure!(missing.is_empty(), "not in place: {}", missing.join(", "));
    Ok(ExitCode::SUCCESS)
}

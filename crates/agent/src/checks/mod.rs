//! Co-tenants of the host that would fight the agent.
//!
//! Found by their configuration and by what they have put into the kernel;
//! nothing is changed. Each finding says what will happen and what to do.

mod connections;
mod firewall;
mod systemd;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Serialize;

use crate::config::Config;

/// Something on the host that will work against the agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Finding {
    /// Who it is, such as `systemd-networkd`.
    pub(crate) service: String,
    /// The file, or the kernel object, it was seen in.
    pub(crate) seen_in: String,
    /// What will happen.
    pub(crate) effect: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// The host as the checks see it; tests show them another one.
pub(crate) trait Host {
    /// Where `/etc/…` really is.
    fn path(&self, absolute: &str) -> PathBuf;
    /// Standard output of a program, if it is there and ends well.
    fn output(&self, program: &str, arguments: &[&str]) -> Option<String>;
}

/// The machine that we are on.
pub(crate) struct ThisHost;

impl Host for ThisHost {
    fn path(&self, absolute: &str) -> PathBuf {
        absolute.into()
    }

    fn output(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let output = Command::new(program).args(arguments).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// All that was found.
pub(crate) fn co_tenants(host: &dyn Host) -> Vec<Finding> {
    let mut findings: Vec<Finding> = systemd::foreign_routes(host).into_iter().collect();
    findings.extend(systemd::mac_address_policy(host));
    findings.extend(firewall::dropped_forwarding(host));
    findings.extend(firewall::firewalld(host));
    findings
}

/// Limits of the configuration that the host can't hold.
pub(crate) fn limits(host: &dyn Host, config: &Config) -> Option<Finding> {
    connections::small_table(host, config)
}

/// Names of the files in a directory that end so; none if there is no such
/// directory.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let paths = entries
        .unwrap_or_default()
        .into_iter()
        .map(|entry| entry.path());
    paths
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect()
}

//! `bench guest`: what guests get from their own hypervisor, and how soon.
//!
//! * [`dhcp`]: all of them boot at once; a new port is served.
//! * [`metadata`]: all of them ask the proxy for what a stub of Nova says.

mod dhcp;
mod metadata;

use std::path::Path;

use serde::Serialize;

use super::site::Site;
use crate::{Result, topology::Mix};

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// DHCP's figures.
    #[serde(flatten)]
    pub dhcp: dhcp::Report,
    /// The metadata proxy's figures.
    #[serde(flatten)]
    pub metadata: metadata::Report,
}

/// Measures with so many ports.
///
/// # Errors
/// A lab can't be built, or a guest doesn't get what it shall.
pub fn run(agent: &Path, ports: usize) -> Result<Report> {
    // Each VM's end of its tap waits in one namespace; no probe is needed.
    let all = ports + dhcp::NEW;
    let site = Site::up(Mix::Bird, agent.to_owned(), all, |_| false)?;
    let dhcp = dhcp::measure(&site, ports)?;
    site.lab.down()?;
    let metadata = metadata::run(agent)?;
    Ok(Report { dhcp, metadata })
}

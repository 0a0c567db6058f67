//! `bench guest`: what guests get from their own hypervisor, and how fast.

mod metadata;

use std::path::Path;

use serde::Serialize;

use crate::Result;

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The metadata proxy's part.
    #[serde(flatten)]
    pub metadata: metadata::Report,
}

/// Measures all of it.
///
/// # Errors
/// A lab can't be built, or guests don't get what they ask for.
pub fn run(agent: &Path) -> Result<Report> {
    let metadata = metadata::run(agent)?;
    Ok(Report { metadata })
}

//! Whether the host is drained, on disk: an operator's word outlives the agent.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::Context;
use jiff::Timestamp;
use l2isolate_advertise::replace_durably;
use serde::{Deserialize, Serialize};

/// The host is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drained {
    /// How often the own AS is prepended.
    pub(crate) prepend: u8,
    /// Since when.
    pub(crate) since: Timestamp,
}

/// The file; it isn't there while the host isn't drained.
pub(crate) struct DrainFile(PathBuf);

impl DrainFile {
    pub(crate) fn below(directory: &Path) -> Self {
        Self(directory.join("drained.json"))
    }

    /// What it says.
    ///
    /// # Errors
    /// It can't be read, or says something else.
    pub(crate) fn read(&self) -> anyhow::Result<Option<Drained>> {
        let place = || format!("{}: remove it or run `l2isolate drain`", self.0.display());
        match fs::read(&self.0) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(place)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(place),
        }
    }

    /// Has it say so, whole or not at all, also after a power failure.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn write(&self, drained: Option<&Drained>) -> anyhow::Result<()> {
        let place = || self.0.display().to_string();
        match drained {
            Some(drained) => {
                if let Some(directory) = self.0.parent() {
                    fs::create_dir_all(directory).with_context(place)?;
                }
                replace_durably(&self.0, &serde_json::to_vec(drained)?).with_context(place)
            }
            None => match fs::remove_file(&self.0) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(place),
                _ => Ok(()),
            },
        }
    }
}

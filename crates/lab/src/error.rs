//! The one error type of the lab: each message names the object.

use std::{io, path::Path};

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The topology file has a mistake.
    #[error("{place}: {reason}")]
    Topology {
        /// File and line, as far as known.
        place: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file, socket or system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the object's name.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program that the lab needs refused to do its work.
    #[error("{command}: {reason}")]
    Command {
        /// The command.
        command: String,
        /// What it wrote to its standard error.
        reason: String,
    },
    /// A name that can't be a lab's.
    #[error(
        "`{0}` can't be a lab's name: 1 to 16 lower-case letters and digits, no hyphen \
         (hyphens part the names of namespaces)"
    )]
    LabName(String),
    /// There is no such lab.
    #[error("no lab named `{0}` is up; `l2isolate-lab up --name {0}` makes it")]
    NoLab(String),
    /// The name is taken.
    #[error(
        "a lab named `{0}` exists; take it down with `l2isolate-lab down --name {0}` \
         or choose another --name"
    )]
    LabExists(String),
    /// A node that the lab doesn't have.
    #[error("`{name}` is not {wanted} of this lab; there are: {known}")]
    UnknownNode {
        /// What was asked for.
        name: String,
        /// What kind of node was expected, with article.
        wanted: &'static str,
        /// The names that would do.
        known: String,
    },
    /// What was waited for didn't come.
    #[error("{what} did not happen within {seconds} s: {missing}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
        /// What was still missing.
        missing: String,
    },
    /// A program of the lab or its output isn't as expected.
    #[error("{0}")]
    Program(String),
    /// SIGHUP, SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// For `map_err`: an I/O failure with what was being done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `map_err`: the same for nix's error numbers.
    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |errno| Self::Io {
            what,
            source: errno.into(),
        }
    }

    /// For `map_err`: an I/O failure on a file.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(path.display().to_string())
    }
}

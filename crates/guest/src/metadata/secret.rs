//! The secret that Nova and the proxy share.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

/// Longest secret that is read from a file, in bytes.
const MAX_LEN: u64 = 4096;

/// A secret. It has no `Display`, and `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

/// Why a file isn't taken for a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It can't be read.
    #[error("the secret's file {path} can't be read: {cause}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Others can read it, or write it.
    #[error(
        "the secret's file {path} has mode {mode:o} and owner {owner}: others have a way to it; give it to the user of the proxy (or root) and run chmod 600 {path}",
        path = path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// There is nothing in it.
    #[error("the secret's file {path} is empty", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// From a configuration file.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// From a file of its own, which nobody else may read or write. White space
    /// at its end, such as a line's end, is no part of the secret.
    ///
    /// # Errors
    /// The file can't be read, is open to others, or empty.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let unreadable = |cause| SecretError::Unreadable {
            path: path.to_owned(),
            cause,
        };
        let file = File::open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        let mode = meta.mode() & 0o7777;
        let own = meta.uid() == 0 || meta.uid() == geteuid().as_raw();
        if mode & 0o077 != 0 || !own {
            return Err(SecretError::Open {
                path: path.to_owned(),
                mode,
                owner: meta.uid(),
            });
        }
        let mut text = String::new();
        file.take(MAX_LEN)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        match text.trim_end() {
            "" => Err(SecretError::Empty {
                path: path.to_owned(),
            }),
            secret => Ok(Self::new(secret)),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "no secret" } else { "…" })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// A secret that others can read is none: it is refused rather than used.
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, "s3cret\n").unwrap();
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match Secret::read(&path) {
                Ok(secret) => assert!(good && secret == Secret::new("s3cret"), "{mode:o}"),
                Err(error) => assert!(!good && error.to_string().contains("chmod"), "{error}"),
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "\n").unwrap();
        assert!(matches!(
            Secret::read(&path),
            Err(SecretError::Empty { .. })
        ));
    }

    #[test]
    fn nothing_prints_it() {
        assert_eq!(format!("{:?}", Secret::new("s3cret")), "…");
    }
}

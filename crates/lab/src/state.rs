//! What a lab leaves on disk: one directory for each lab, with its state and
//! the files of its nodes.
//!
//! The state is written before the first namespace is made, so that whatever
//! happens later, `down` knows the lab.

use std::{
    fs::{File, Metadata},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, fabric::Fabric, process::Identity};

/// Where labs keep their directories. On tmpfs: a lab doesn't outlive a boot.
const ROOT: &str = "/run/l2isolate-lab";
const FILE: &str = "state.json";
const NAME_MAX: usize = 16;

/// A lab's memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The process without which the lab shall not be: a demo, a test, an `up`
    /// not yet done. None once `up` has handed the lab over.
    pub owner: Option<Identity>,
    /// The agent's binary; None in labs whose agents somebody else starts.
    pub agent: Option<PathBuf>,
    /// What was built.
    pub fabric: Fabric,
}

/// A lab's directory.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory of lab `name`, which may not exist.
    ///
    /// # Errors
    /// No lab can have that name.
    pub fn of(name: &str) -> Result<Self> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
            return Err(Error::LabName(name.to_owned()));
        }
        Ok(Self {
            path: Path::new(ROOT).join(name),
        })
    }

    /// Makes the directory, with `state` in it.
    ///
    /// # Errors
    /// It exists already, or can't be made.
    pub fn create(&self, name: &str, state: &State) -> Result<()> {
        let _lock = lock()?;
        match std::fs::create_dir(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::LabExists(name.to_owned()));
            }
            result => result.map_err(Error::file(&self.path))?,
        }
        self.save(state)
    }

    /// Replaces the state as a whole.
    ///
    /// # Errors
    /// It can't be written.
    pub fn save(&self, state: &State) -> Result<()> {
        let text = serde_json::to_string_pretty(state)
            .map_err(|e| Error::Program(format!("the lab's state has no JSON form: {e}")))?;
        replace(&self.path.join(FILE), &text)
    }

    /// The state; None where the lab stopped before it was written.
    ///
    /// # Errors
    /// There is no such lab, or its state can't be understood.
    pub fn load(&self, name: &str) -> Result<Option<State>> {
        let file = self.path.join(FILE);
        match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| {
                Error::Program(format!(
                    "{}: {e}; was it made by another version? \
                     `l2isolate-lab down --name {name}` removes the lab",
                    file.display()
                ))
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.path.is_dir() => Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::NoLab(name.to_owned()))
            }
            Err(e) => Err(Error::file(&file)(e)),
        }
    }

    /// Removes the directory and all in it, if there, with what is common to
    /// all labs if this was the last.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn remove(&self, _lock: &Lock) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file(&self.path)(e));
            }
            _ => {}
        }
        // The last lab takes the common directory with it; others keep it.
        let _ = std::fs::remove_dir(ROOT);
        Ok(())
    }

    /// The directory of one node's files.
    #[must_use]
    pub fn node(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Held while labs are made and removed: one at a time.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its end")] Flock<File>);

/// Waits for the lock.
///
/// # Errors
/// The common directory can't be made or locked.
pub fn lock() -> Result<Lock> {
    let root = Path::new(ROOT);
    loop {
        std::fs::create_dir_all(root).map_err(Error::file(root))?;
        let Ok(directory) = File::open(root) else {
            continue; // removed by another run in between
        };
        let flock = Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::errno(format!("locking {ROOT}"))(errno))?;
        // The run before may have removed the directory that is now locked.
        let identity = |meta: Metadata| (meta.dev(), meta.ino());
        let locked = flock.metadata().map_err(Error::file(root))?;
        let there = std::fs::metadata(root).ok();
        if there.map(identity) == Some(identity(locked)) {
            return Ok(Lock(flock));
        }
    }
}

/// Names of all labs, also of those half made or half gone.
///
/// # Errors
/// The common directory can't be read.
pub fn labs() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(ROOT) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::file(Path::new(ROOT))(e)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Writes a file aside and renames it in, readable for all (the daemons don't
/// run as root).
///
/// # Errors
/// It can't be written.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).map_err(Error::file(&aside))?;
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&aside, mode).map_err(Error::file(&aside))?;
    std::fs::rename(&aside, path).map_err(Error::file(path))
}

//! The last intent on disk, from which an agent works whose source is away.
//!
//! One file per object, `intent/<kind>/<id>.json` below the state directory, in
//! the same schema as everywhere, and with what the source knows the version by
//! ([`Stamp`]) where it has such a thing; `synced` beside them has the time of the
//! last update from the source. Each is written aside and renamed, so that a crash
//! leaves the old version or the new one. Nothing is flushed to the medium:
//! after a power cut no guest runs any more that would need it.
//!
//! Files are readable by their owner alone. What can break it: a full or
//! read-only file system; every error names its file, and what was there stays.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use l2isolate_model::{
    document::{self, Object, ObjectId},
    intent::Change,
    problem::Problem,
};
use serde_json::Value;

use crate::{
    Stamp,
    directory::scan::{is_document, is_hidden, problem},
};

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Fields of an object beside the schema's.
const DIGEST: &str = "digest";
const READ_AT: &str = "read_at";
/// Ends the names of files that are being written; they begin with a dot.
const ASIDE: &str = ".tmp";

/// What could not be done with a file of the cache.
#[derive(Debug, thiserror::Error)]
#[error("the last intent can't be kept: {path}: {cause}", path = path.display())]
pub struct Error {
    /// The file or directory.
    pub path: PathBuf,
    /// Why.
    pub cause: io::Error,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
}

/// What a cache held when it was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The objects. One whose file can't be used is [`Change::Bad`], so that
    /// its id is known and the file goes with it.
    pub changes: Vec<(ObjectId, Change)>,
    /// By what the source knows the versions of those that could be read.
    pub stamps: Vec<(ObjectId, Stamp)>,
    /// What else is wrong there.
    pub problems: Vec<Problem>,
    /// When the last update came from the source; `None`: never.
    pub synced: Option<Timestamp>,
}

impl Cache {
    /// Opens the cache in a state directory, which is made if it isn't there,
    /// and reads what it holds. What a crash left half-written is removed.
    ///
    /// # Errors
    /// If a directory can't be made, listed or closed to others. A file that
    /// can't be used is no error: it is in [`Loaded`].
    pub fn open(state_directory: &Path) -> Result<(Self, Loaded), Error> {
        let root = state_directory.join("intent");
        let mut loaded = Loaded::default();
        make_private(&root)?;
        remove_leftovers(&root)?;
        for kind in document::LISTS {
            let directory = root.join(kind);
            make_private(&directory)?;
            remove_leftovers(&directory)?;
            load(&directory, kind, &mut loaded)?;
        }
        loaded
            .changes
            .sort_by(|(one, _), (other, _)| one.cmp(other));
        let synced = root.join("synced");
        match fs::read_to_string(&synced) {
            Ok(text) => match text.trim().parse() {
                Ok(time) => loaded.synced = Some(time),
                Err(error) => {
                    let reason = format!("is not a time: {error}");
                    loaded.problems.push(problem(&synced, reason));
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let reason = format!("can't be read: {error}");
                loaded.problems.push(problem(&synced, reason));
            }
        }
        Ok((Self { root }, loaded))
    }

    /// Keeps these objects, with their stamps if there are any, and returns those
    /// files that could not be written; they are as before.
    #[must_use]
    pub fn store<'a>(
        &self,
        objects: impl IntoIterator<Item = &'a Object>,
        stamps: &BTreeMap<ObjectId, Stamp>,
    ) -> Vec<Error> {
        let store = |object: &Object| {
            let id = object.id();
            let stamp = stamps.get(&id).map(|stamp| {
                let read_at = stamp.read_at.to_string();
                [(DIGEST, stamp.digest.clone()), (READ_AT, read_at)]
                    .map(|(key, text)| (key, Value::String(text)))
            });
            let more = stamp.as_ref().map_or(&[][..], |stamp| &stamp[..]);
            let text = object.to_document(more).map_err(|error| Error {
                path: self.path(&id),
                cause: error.into(),
            })?;
            self.write(&self.path(&id), text.as_bytes())
        };
        objects
            .into_iter()
            .filter_map(|object| store(object).err())
            .collect()
    }

    /// Forgets these objects, and returns those files that could not be
    /// removed.
    #[must_use]
    pub fn remove<'a>(&self, ids: impl IntoIterator<Item = &'a ObjectId>) -> Vec<Error> {
        let remove = |id: &ObjectId| {
            let path = self.path(id);
            match fs::remove_file(&path) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    Some(Error { path, cause })
                }
                _ => None,
            }
        };
        ids.into_iter().filter_map(remove).collect()
    }

    /// Notes that the source was heard at `time`.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn set_synced(&self, time: Timestamp) -> Result<(), Error> {
        self.write(&self.root.join("synced"), format!("{time}\n").as_bytes())
    }

    fn path(&self, id: &ObjectId) -> PathBuf {
        self.root
            .join(id.list())
            .join(format!("{}.json", id.as_str()))
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let aside = path.with_file_name(format!(".{name}{ASIDE}"));
            let result = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(FILE_MODE)
                .open(&aside)
                .and_then(|mut file| file.write_all(content))
                .and_then(|()| fs::rename(&aside, path));
            if result.is_err() {
                // Most often the medium is full: leave nothing behind.
                let _ = fs::remove_file(&aside);
            }
            result
        };
        write().map_err(|cause| Error {
            path: path.to_owned(),
            cause,
        })
    }
}

fn make_private(directory: &Path) -> Result<(), Error> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE);
    builder
        .create(directory)
        .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE)))
        .map_err(|cause| Error {
            path: directory.to_owned(),
            cause,
        })
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    match entries {
        Ok(entries) => Ok(entries.iter().map(fs::DirEntry::path).collect()),
        Err(cause) => Err(Error {
            path: directory.to_owned(),
            cause,
        }),
    }
}

fn remove_leftovers(directory: &Path) -> Result<(), Error> {
    for path in list(directory)? {
        let name = path.file_name().unwrap_or_default();
        if is_hidden(name) && name.to_string_lossy().ends_with(ASIDE) {
            fs::remove_file(&path).map_err(|cause| Error { path, cause })?;
        }
    }
    Ok(())
}

fn load(directory: &Path, kind: &str, loaded: &mut Loaded) -> Result<(), Error> {
    for path in list(directory)? {
        let name = path.file_name().unwrap_or_default();
        if !is_document(name) {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let Some(id) = ObjectId::in_list(kind, &stem) else {
            let reason = "is not named after an object; remove it".to_owned();
            loaded.problems.push(problem(&path, reason));
            continue;
        };
        let change = match read(&path, &id) {
            Ok((change, stamp)) => {
                loaded.stamps.extend(stamp.map(|stamp| (id.clone(), stamp)));
                change
            }
            Err(problem) => Change::Bad(Problem {
                object: id.to_string(),
                ..problem
            }),
        };
        loaded.changes.push((id, change));
    }
    Ok(())
}

/// Reads a file that holds one object, `id`.
fn read(path: &Path, id: &ObjectId) -> Result<(Change, Option<Stamp>), Problem> {
    let text = fs::read(path).map_err(|error| problem(path, format!("can't be read: {error}")))?;
    let value: Value = serde_json::from_slice(&text)
        .map_err(|error| problem(path, format!("is not JSON: {error}")))?;
    let stamp = stamp(&value, id);
    let mut document = document::from_value(value, &path.display().to_string())?;
    if let Some(problem) = document.unidentified.pop() {
        return Err(problem);
    }
    match (document.objects.pop(), document.objects.pop()) {
        (Some((found, Change::Bad(problem))), None) if found == *id => Err(problem),
        (Some((found, change)), None) if found == *id => Ok((change, stamp)),
        _ => Err(problem(path, format!("doesn't hold {id} and nothing else"))),
    }
}

/// An object without one counts as another than the source's.
fn stamp(document: &Value, id: &ObjectId) -> Option<Stamp> {
    let object = document.get(id.list())?.get(0)?;
    let text = |key| object.get(key).and_then(Value::as_str);
    Some(Stamp {
        digest: text(DIGEST)?.to_owned(),
        read_at: text(READ_AT)?.parse().ok()?,
    })
}

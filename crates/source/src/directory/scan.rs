//! What lies below a directory: documents, directories to be watched, and
//! places that can't be seen into. Reads no document.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use l2isolate_model::problem::Problem;

/// What changes when a file's content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The result of a look at all of it.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Documents, not hidden, by path.
    pub(crate) files: BTreeMap<Arc<Path>, Stamp>,
    /// Places that are there but can't be seen, and why. What was known from
    /// there, or below, stays.
    pub(crate) blind: BTreeMap<Arc<Path>, Problem>,
}

/// Looks at everything below `root`. `visit` is called with each directory
/// before it is listed, so that a watch set there misses nothing. Links are
/// followed; no directory is visited twice, which bounds loops.
///
/// # Errors
/// If `root` itself can't be listed.
pub(crate) fn scan(
    root: &Path,
    depth: usize,
    visit: &mut dyn FnMut(&Path),
) -> Result<Scan, io::Error> {
    let mut scan = Scan::default();
    let mut visited = BTreeSet::new();
    let top = fs::metadata(root)?;
    if !top.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    visited.insert((top.dev(), top.ino()));
    let mut queue: Vec<(PathBuf, usize)> = Vec::new();
    scan.list(root, 0, &mut visited, &mut queue, visit)?;
    while let Some((directory, level)) = queue.pop() {
        if level > depth {
            let reason = format!("is more than {depth} directories deep and isn't read");
            scan.set_blind(&directory, reason);
            continue;
        }
        match scan.list(&directory, level, &mut visited, &mut queue, visit) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                scan.set_blind(&directory, format!("can't be listed: {error}"));
            }
            _ => {}
        }
    }
    Ok(scan)
}

impl Scan {
    fn list(
        &mut self,
        directory: &Path,
        level: usize,
        visited: &mut BTreeSet<(u64, u64)>,
        queue: &mut Vec<(PathBuf, usize)>,
        visit: &mut dyn FnMut(&Path),
    ) -> Result<(), io::Error> {
        visit(directory);
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_hidden(&name) {
                continue;
            }
            let path = entry.path();
            match fs::metadata(&path) {
                Ok(meta) if meta.is_dir() => {
                    if visited.insert((meta.dev(), meta.ino())) {
                        queue.push((path, level + 1));
                    }
                }
                Ok(meta) if is_document(&name) => {
                    self.files.insert(path.into(), Stamp::of(&meta));
                }
                Ok(_) => {}
                Err(error) => {
                    // Not found: just removed, or a link to nothing.
                    if fs::symlink_metadata(&path).is_ok() {
                        self.set_blind(&path, format!("can't be read: {error}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn set_blind(&mut self, path: &Path, reason: String) {
        self.blind.insert(path.into(), problem(path, reason));
    }
}

/// A problem of a file or directory as such.
pub(crate) fn problem(path: &Path, reason: String) -> Problem {
    Problem {
        origin: path.display().to_string(),
        object: String::new(),
        field: String::new(),
        reason,
    }
}

/// Whether a file of this name is none of ours: half-written files are made
/// under such names by well-behaved writers.
pub(crate) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().first() == Some(&b'.')
}

/// Whether a file of this name is a document.
pub(crate) fn is_document(name: &OsStr) -> bool {
    !is_hidden(name) && Path::new(name).extension() == Some(OsStr::new("json"))
}

/// Whether `path`, which can't be found, was removed: as opposed to a link on
/// the way to it, or a directory, that can't be looked through.
pub(crate) fn is_removed(root: &Path, path: &Path) -> bool {
    for place in path.ancestors().take_while(|place| *place != root) {
        match fs::symlink_metadata(place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return false,
            // The nearest that is there: can one look into it?
            Ok(_) => return place != path && fs::metadata(place).is_ok_and(|meta| meta.is_dir()),
        }
    }
    fs::metadata(root).is_ok_and(|meta| meta.is_dir())
}

//! What the documents below a directory say, file by file and object by
//! object.
//!
//! A file is looked at when the kernel hints at it; the whole directory only
//! when something else happened. The cost of a change depends on the file it
//! is in, not on how many others there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use l2isolate_model::{document::ObjectId, problem::Problem};

use super::{
    Options,
    file::{self, File, Named, Unread},
    scan::{self, problem},
    watch::Watch,
};

/// The documents of a directory.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    settle: Duration,
    file_size: u64,
    depth: usize,
    files: BTreeMap<Arc<Path>, File>,
    /// Which files name an object.
    namers: BTreeMap<ObjectId, BTreeSet<Arc<Path>>>,
    /// Places that could not be seen at the last scan.
    blind: BTreeMap<Arc<Path>, Problem>,
    /// Files to look at again, and when: missing, or being written.
    pending: BTreeMap<Arc<Path>, Pending>,
    /// Files that were never understood in full.
    opaque: BTreeSet<Arc<Path>>,
    /// Objects of which something else may be said now.
    dirty: BTreeSet<ObjectId>,
    /// What is wrong with files as such.
    problems: BTreeMap<Arc<Path>, Vec<Problem>>,
    /// What is said of objects beside the version that is used.
    surplus: BTreeMap<ObjectId, Vec<Problem>>,
    /// Whether a file system was mounted at the root when it was read.
    mounted: bool,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    due: Instant,
    missing: bool,
}

/// Why the directory can't be read.
pub(crate) type Away = String;

impl Tree {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            root: options.directory.clone(),
            settle: options.settle,
            file_size: options.file_size,
            depth: options.depth,
            files: BTreeMap::new(),
            namers: BTreeMap::new(),
            blind: BTreeMap::new(),
            pending: BTreeMap::new(),
            opaque: BTreeSet::new(),
            dirty: BTreeSet::new(),
            problems: BTreeMap::new(),
            surplus: BTreeMap::new(),
            mounted: false,
        }
    }

    /// Looks at everything, and reads what isn't as it was when it was read.
    ///
    /// # Errors
    /// If the directory is away; all that it said stays.
    pub(crate) fn scan(&mut self, now: Instant, watch: &mut Watch) -> Result<(), Away> {
        watch.begin();
        let scan = scan::scan(&self.root, self.depth, &mut |path| watch.visit(path))
            .map_err(|error| error.to_string())?;
        watch.end();
        let mounted = is_mount_point(&self.root);
        if self.mounted && !mounted && scan.files.is_empty() {
            return Err("was a mount point and is none now".to_owned());
        }
        self.mounted = mounted;
        self.blind = scan.blind;
        for (path, stamp) in &scan.files {
            if self.files.get(path).is_none_or(|f| f.stamp != Some(*stamp)) {
                self.look(path, now);
            }
        }
        let blind = &self.blind;
        let is_seen = |path: &Path| {
            scan.files.contains_key(path) || is_below(path, |p| blind.contains_key(p))
        };
        let missing: Vec<Arc<Path>> = self
            .files
            .keys()
            .chain(&self.opaque)
            .filter(|path| !is_seen(path))
            .cloned()
            .collect();
        for path in missing {
            self.look(&path, now);
        }
        Ok(())
    }

    /// Looks at one file.
    pub(crate) fn look(&mut self, path: &Arc<Path>, now: Instant) {
        let read = file::read(path, self.file_size);
        let known = self.files.contains_key(path);
        if matches!(read, Err(Unread::Missing)) && !known {
            self.opaque.remove(path);
            self.pending.remove(path);
            return;
        }
        match read {
            Ok((text, stamp)) => {
                self.pending.remove(path);
                self.change(path, |file| file.take(path, &text, stamp));
            }
            Err(Unread::Failed(reason)) => {
                self.pending.remove(path);
                self.change(path, |file| file.fail(path, reason));
            }
            Err(Unread::Busy) => {
                self.opaque.insert(Arc::clone(path));
                self.postpone(path, now, false);
            }
            Err(Unread::Missing) => match self.pending.get(path) {
                Some(pending) if pending.missing && pending.due <= now => {
                    self.pending.remove(path);
                    if scan::is_removed(&self.root, path) {
                        self.forget(path);
                    } else {
                        let reason = "can't be found, but the way to it is blocked".to_owned();
                        self.change(path, |file| file.fail(path, reason));
                    }
                }
                Some(pending) if pending.missing => {}
                _ => self.postpone(path, now, true),
            },
        }
    }

    /// Looks again at the files whose time has come.
    ///
    /// # Errors
    /// If the directory is away; then none of them is gone.
    pub(crate) fn look_again(&mut self, now: Instant) -> Result<(), Away> {
        let due: Vec<Arc<Path>> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.due <= now)
            .map(|(path, _)| Arc::clone(path))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        if let Err(error) = fs::read_dir(&self.root) {
            return Err(error.to_string());
        }
        if self.mounted && !is_mount_point(&self.root) {
            return Err("was a mount point and is none now".to_owned());
        }
        for path in due {
            self.look(&path, now);
        }
        Ok(())
    }

    /// The directory is away: what is missing isn't gone.
    pub(crate) fn pause(&mut self) {
        self.pending.clear();
    }

    /// When [`Tree::look_again`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.due).min()
    }

    /// Objects of which something else may be said than at the last call.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<ObjectId> {
        std::mem::take(&mut self.dirty)
    }

    /// Whether any file names an object.
    pub(crate) fn names(&self, id: &ObjectId) -> bool {
        self.namers.contains_key(id)
    }

    /// Whether every file was understood in full at least once.
    pub(crate) fn is_understood(&self) -> bool {
        self.opaque.is_empty() && self.blind.is_empty()
    }

    /// What is said of an object. Of several files the one with the highest
    /// revision has the word, ties go to the first by path; the others become
    /// problems.
    pub(crate) fn say(&mut self, id: &ObjectId) -> Option<Named> {
        self.surplus.remove(id);
        let namers = self.namers.get(id)?;
        let said = |path: &Arc<Path>| self.files.get(path)?.objects.get(id);
        let mut best: Option<(&Arc<Path>, &Named)> = None;
        for path in namers {
            let Some(named) = said(path) else { continue };
            if best.is_none_or(|(_, best)| best.revision() < named.revision()) {
                best = Some((path, named));
            }
        }
        let (winner, named) = best?;
        let named = named.clone();
        let surplus: Vec<Problem> = namers
            .iter()
            .filter(|path| *path != winner)
            .map(|path| {
                said(path).and_then(|n| n.bad.clone()).unwrap_or_else(|| {
                    let reason = format!(
                        "is in {} as well, with a revision that is not lower; that one is used",
                        winner.display()
                    );
                    Problem {
                        object: id.to_string(),
                        ..problem(path, reason)
                    }
                })
            })
            .collect();
        if !surplus.is_empty() {
            self.surplus.insert(id.clone(), surplus);
        }
        Some(named)
    }

    /// Whether something is there that couldn't be seen.
    pub(crate) fn is_blind(&self, path: &Path) -> bool {
        self.blind.contains_key(path)
    }

    /// What is wrong with files, and with objects that several files name.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        // A file that can't be seen is both: once is enough.
        let blind = self
            .blind
            .iter()
            .filter(|(path, _)| !self.problems.contains_key(*path))
            .map(|(_, problem)| problem);
        let files = self.problems.values().flatten();
        blind.chain(files).chain(self.surplus.values().flatten())
    }

    fn postpone(&mut self, path: &Arc<Path>, now: Instant, missing: bool) {
        let due = now + self.settle;
        self.pending
            .insert(Arc::clone(path), Pending { due, missing });
    }

    /// Changes a file, and notes what this may change of objects.
    fn change(&mut self, path: &Arc<Path>, change: impl FnOnce(&mut File)) {
        let mut file = self.files.remove(path).unwrap_or_default();
        let before: Vec<(ObjectId, Named)> = file
            .objects
            .iter()
            .map(|(id, named)| (id.clone(), named.clone()))
            .collect();
        change(&mut file);
        for (id, named) in before {
            match file.objects.get(&id) {
                Some(now) if *now == named => {}
                Some(_) => {
                    self.dirty.insert(id);
                }
                None => self.unname(path, id),
            }
        }
        for id in file.objects.keys() {
            let namers = self.namers.entry(id.clone()).or_default();
            if namers.insert(Arc::clone(path)) {
                self.dirty.insert(id.clone());
            }
        }
        if file.understood {
            self.opaque.remove(path);
        } else {
            self.opaque.insert(Arc::clone(path));
        }
        if file.problems.is_empty() {
            self.problems.remove(path);
        } else {
            self.problems
                .insert(Arc::clone(path), file.problems.clone());
        }
        self.files.insert(Arc::clone(path), file);
    }

    fn forget(&mut self, path: &Arc<Path>) {
        let Some(file) = self.files.remove(path) else {
            return;
        };
        for id in file.objects.into_keys() {
            self.unname(path, id);
        }
        self.opaque.remove(path);
        self.problems.remove(path);
    }

    fn unname(&mut self, path: &Arc<Path>, id: ObjectId) {
        if let Some(namers) = self.namers.get_mut(&id) {
            namers.remove(path);
            if namers.is_empty() {
                self.namers.remove(&id);
            }
        }
        self.dirty.insert(id);
    }
}

/// Whether `path` or a directory above it is one of `places`.
fn is_below(path: &Path, places: impl Fn(&Path) -> bool) -> bool {
    path.ancestors().any(places)
}

/// Whether another file system begins at `path` than at its parent.
fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
    match (device(path), device(&path.join(".."))) {
        (Ok(own), Ok(parent)) => own != parent,
        _ => false,
    }
}

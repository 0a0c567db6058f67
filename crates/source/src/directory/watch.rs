//! inotify on all directories of a tree: hints where to look again.
//!
//! Events are only hints; reading decides. What they miss (other hosts writing
//! to a network file system, targets of links that lie elsewhere) is found by
//! the periodic comparison.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};

use super::scan::{is_document, is_hidden};

/// Where to look again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    /// These files.
    pub(crate) files: BTreeSet<Arc<Path>>,
    /// Everywhere.
    pub(crate) all: bool,
}

/// The watched directories.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: Option<Inotify>,
    paths: BTreeMap<WatchDescriptor, Arc<Path>>,
    visited: BTreeSet<WatchDescriptor>,
    /// Why not everything can be watched.
    error: Option<String>,
}

impl Watch {
    /// Without inotify it watches nothing and says why.
    pub(crate) fn new() -> Self {
        let made = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        let error = made.as_ref().err().map(|errno| reason(*errno));
        Self {
            inotify: made.ok(),
            paths: BTreeMap::new(),
            visited: BTreeSet::new(),
            error,
        }
    }

    /// Before the directories of a tree are visited one by one.
    pub(crate) fn begin(&mut self) {
        self.visited.clear();
        if self.inotify.is_some() {
            self.error = None;
        }
    }

    /// Watches one directory; if it was watched under another path, under this
    /// one from now on.
    pub(crate) fn visit(&mut self, directory: &Path) {
        let Some(inotify) = &self.inotify else { return };
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        match inotify.add_watch(directory, flags) {
            Ok(wd) => {
                self.paths.insert(wd, directory.into());
                self.visited.insert(wd);
            }
            // Removed just now, or closed to us: the scan finds out itself.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {}
            Err(errno) => self.error = Some(reason(errno)),
        }
    }

    /// After all directories were visited: the others are forgotten.
    pub(crate) fn end(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let visited = &self.visited;
        self.paths.retain(|wd, _| {
            let keep = visited.contains(wd);
            if !keep {
                // Fails if the directory is gone, and its watch with it.
                let _ = inotify.rm_watch(*wd);
            }
            keep
        });
    }

    /// Why not everything can be watched.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Becomes readable when there are events.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// All events since, as hints. `is_blind` says of which places it is known
    /// that they couldn't be seen: whatever happens there, the scan must tell.
    pub(crate) fn drain(&mut self, is_blind: &dyn Fn(&Path) -> bool) -> Hints {
        let mut hints = Hints::default();
        let Some(inotify) = &self.inotify else {
            return hints;
        };
        loop {
            let events = match inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return hints,
                Err(_) => {
                    hints.all = true;
                    return hints;
                }
            };
            for event in events {
                let Some(directory) = self.paths.get(&event.wd) else {
                    hints.all |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                    continue;
                };
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.paths.remove(&event.wd);
                    hints.all = true;
                    continue;
                }
                match (event.name, event.mask.contains(AddWatchFlags::IN_ISDIR)) {
                    (Some(name), false) => {
                        hints.all |= is_blind(&directory.join(&name));
                        self.hint(directory, &name, event.mask, &mut hints);
                    }
                    // A directory came or went, or may be read now, or not.
                    (Some(name), true) => hints.all |= !is_hidden(&name),
                    // The watched directory itself.
                    (None, _) => hints.all = true,
                }
            }
        }
    }

    /// What an event on something that isn't a directory means.
    fn hint(&self, directory: &Path, name: &OsStr, mask: AddWatchFlags, hints: &mut Hints) {
        let path = directory.join(name);
        let appeared = mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        let meta = if appeared {
            std::fs::symlink_metadata(&path).ok()
        } else {
            None
        };
        // A link may stand for a directory, and a hidden one for the version
        // that others go through.
        if meta.as_ref().is_some_and(std::fs::Metadata::is_symlink) {
            hints.all = true;
        } else if is_document(name) {
            // A file just created is empty until its writer closes it; one
            // with a second name came by link(2) and is complete.
            let awaits_close = mask.contains(AddWatchFlags::IN_CREATE)
                && meta.is_some_and(|meta| meta.nlink() == 1);
            if !awaits_close {
                hints.files.insert(path.into());
            }
        } else if !appeared && self.paths.values().any(|known| **known == *path) {
            // A link to a directory went.
            hints.all = true;
        }
    }
}

fn reason(errno: Errno) -> String {
    let hint = match errno {
        Errno::ENOSPC => "; raise fs.inotify.max_user_watches",
        Errno::EMFILE => "; raise fs.inotify.max_user_instances or the limit of open files",
        _ => "",
    };
    format!(
        "can't be watched, and is compared every second instead: {}{hint}",
        errno.desc()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The kernel drops events past fs.inotify.max_queued_events: then all has
    /// to be looked at, and later events come again.
    #[test]
    fn an_overflow_means_everywhere() {
        let directory = tempfile::tempdir().unwrap();
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        let mut watch = Watch::new();
        watch.visit(directory.path());
        let (one, two) = (
            directory.path().join("1.json"),
            directory.path().join("2.json"),
        );
        // Equal events in a row are merged; these alternate.
        for _ in 0..=limit / 2 {
            fs::write(&one, "").unwrap();
            fs::write(&two, "").unwrap();
        }
        assert!(watch.drain(&|_| false).all);
        assert_eq!(watch.drain(&|_| false), Hints::default());
        fs::write(&one, "").unwrap();
        let hints = watch.drain(&|_| false);
        assert_eq!(hints.files, BTreeSet::from([one.into()]));
        assert!(!hints.all);
    }
}

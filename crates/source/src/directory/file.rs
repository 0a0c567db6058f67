//! One document file: read whole or not at all, and what it says.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use l2isolate_model::{
    document::{self, Object, ObjectId},
    intent::Change,
    problem::Problem,
};

use super::scan::{Stamp, problem};

/// Clocks of file systems are this coarse at worst: a file changed more
/// recently may be changed again without another stamp.
const RACY: Duration = Duration::from_secs(2);

/// What is said of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// The last version that could be read, and its file.
    pub(crate) good: Option<(Object, Arc<str>)>,
    /// Why a newer one can't be.
    pub(crate) bad: Option<Problem>,
}

/// What one file says, and what it said before where it can't be read now.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// As it was when it was read; `None`: to be read at the next occasion.
    pub(crate) stamp: Option<Stamp>,
    /// Its objects.
    pub(crate) objects: BTreeMap<ObjectId, Named>,
    /// What is wrong with the file.
    pub(crate) problems: Vec<Problem>,
    /// Whether it was understood in full at least once: until then nobody
    /// knows which objects it may hold.
    pub(crate) understood: bool,
}

/// Why a file gave no text.
pub(crate) enum Unread {
    /// It isn't there.
    Missing,
    /// It is being written.
    Busy,
    /// It can't be read.
    Failed(String),
}

/// Reads the text of a file with its stamp, which is `None` if the file was
/// changed so recently that an equal stamp would mean nothing.
pub(crate) fn read(path: &Path, limit: u64) -> Result<(Vec<u8>, Option<Stamp>), Unread> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unread::Missing,
        _ => Unread::Failed(format!("can't be read: {error}")),
    };
    // Without O_NONBLOCK, opening a FIFO would wait for its writer.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(Unread::Failed("is not a regular file".to_owned()));
    }
    let before = Stamp::of(&meta);
    let mut text = Vec::new();
    (&file)
        .take(limit.saturating_add(1))
        .read_to_end(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > limit {
        let reason = format!("is larger than {limit} bytes and isn't read; split it");
        return Err(Unread::Failed(reason));
    }
    let after = file.metadata().map_err(failed)?;
    if Stamp::of(&after) != before {
        return Err(Unread::Busy);
    }
    let old = after
        .modified()
        .is_ok_and(|at| SystemTime::now().duration_since(at).unwrap_or_default() > RACY);
    Ok((text, old.then_some(before)))
}

impl File {
    /// Takes in a new text.
    pub(crate) fn take(&mut self, path: &Path, text: &[u8], stamp: Option<Stamp>) {
        self.stamp = stamp;
        self.problems.clear();
        let document = match document::parse(text, path) {
            Ok(document) => document,
            Err(problem) => {
                self.problems.push(problem);
                return;
            }
        };
        let mut before = std::mem::take(&mut self.objects);
        for (id, change) in document.objects {
            if let Some(named) = self.objects.get_mut(&id) {
                let reason = "is there twice in this file; the higher revision is used".to_owned();
                self.problems.push(Problem {
                    object: id.to_string(),
                    ..problem(path, reason)
                });
                named.merge(change);
            } else {
                self.objects.entry(id).or_default().merge(change);
            }
        }
        // What can't be read now keeps what was good.
        for (id, named) in &mut self.objects {
            if named.good.is_none() {
                named.good = before.get_mut(id).and_then(|old| old.good.take());
            }
        }
        if document.unidentified.is_empty() {
            self.understood = true;
        } else {
            // Any that isn't named now may be one of those without an id.
            self.problems.extend(document.unidentified);
            before.retain(|id, _| !self.objects.contains_key(id));
            self.objects.append(&mut before);
        }
    }

    /// Notes that the file is there but gives no text: what it said stays.
    pub(crate) fn fail(&mut self, path: &Path, reason: String) {
        self.stamp = None;
        self.problems = vec![problem(path, reason)];
    }
}

impl Named {
    pub(crate) fn revision(&self) -> Option<u64> {
        self.good.as_ref().map(|(object, _)| object.revision())
    }

    fn merge(&mut self, change: Change) {
        match change {
            Change::Set { object, origin } => {
                if self.revision().is_none_or(|own| own < object.revision()) {
                    self.good = Some((object, origin));
                }
            }
            Change::Bad(problem) => self.bad = Some(problem),
            // Documents don't say what is gone; leaving it out does.
            Change::Gone => {}
        }
    }
}

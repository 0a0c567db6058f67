//! The directory source on a real file system, seen from downstream.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

mod away;
mod changes;
mod files;
mod guard;
mod property;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use l2isolate_model::{
    PortId,
    document::{self, Object, ObjectId},
    intent::Change,
};
use l2isolate_source::{
    Availability, State, Update,
    directory::{Handle, Options, spawn},
};
use tempfile::TempDir;

/// Nothing takes that long; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(20);
/// After which what was to come would have come.
const QUIET: Duration = Duration::from_millis(400);

/// A source and what its updates come to.
struct Rig {
    directory: PathBuf,
    handle: Handle,
    updates: Receiver<Update>,
    objects: BTreeMap<ObjectId, Object>,
    bad: BTreeSet<ObjectId>,
    complete: bool,
    state: State,
    /// Every change, in order.
    log: Vec<(ObjectId, Change)>,
    /// Keeps the directory, if the rig made it.
    _temporary: Option<TempDir>,
}

impl Rig {
    /// A source on an empty directory.
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut rig = Self::start(options(temporary.path()));
        rig._temporary = Some(temporary);
        rig
    }

    fn start(options: Options) -> Self {
        let directory = options.directory.clone();
        let (handle, updates) = spawn(options, Box::new(|| ())).unwrap();
        let mut rig = Self {
            directory,
            handle,
            updates,
            objects: BTreeMap::new(),
            bad: BTreeSet::new(),
            complete: false,
            state: State::default(),
            log: Vec::new(),
            _temporary: None,
        };
        rig.next();
        rig
    }

    /// Takes the next update in.
    fn next(&mut self) {
        let update = self.updates.recv_timeout(LONG).unwrap();
        self.take(update);
    }

    fn take(&mut self, update: Update) {
        assert!(update.complete || !self.complete, "complete is for good");
        self.complete = update.complete;
        self.state = update.state;
        for (id, change) in update.changes {
            match &change {
                Change::Set { object, .. } => {
                    assert_eq!(object.id(), id);
                    self.objects.insert(id.clone(), object.clone());
                    self.bad.remove(&id);
                }
                Change::Bad(_) => {
                    self.bad.insert(id.clone());
                }
                Change::Gone => {
                    self.objects.remove(&id);
                    self.bad.remove(&id);
                }
            }
            self.log.push((id, change));
        }
    }

    /// Takes updates in until something holds.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LONG;
        while !holds(self) {
            let left = end.saturating_duration_since(Instant::now());
            match self.updates.recv_timeout(left) {
                Ok(update) => self.take(update),
                Err(_) => panic!("{what} never came; last state {:?}", self.state),
            }
        }
    }

    /// Takes updates in until none comes any more.
    fn settle(&mut self) {
        while let Ok(update) = self.updates.recv_timeout(QUIET) {
            self.take(update);
        }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.directory.join(name)).unwrap();
    }

    fn has(&self, port: usize) -> bool {
        self.objects.contains_key(&port_id(port))
    }

    fn revision(&self, port: usize) -> Option<u64> {
        self.objects.get(&port_id(port)).map(Object::revision)
    }

    fn ports(&self) -> usize {
        self.objects.len()
    }

    fn is_away(&self) -> bool {
        matches!(self.state.availability, Availability::Away { .. })
    }

    fn is_available(&self) -> bool {
        matches!(self.state.availability, Availability::Available { .. })
    }

    fn has_problem(&self, words: &str) -> bool {
        let all = &self.state.problems;
        all.iter()
            .any(|problem| problem.to_string().contains(words))
    }

    /// Reading the directory anew gives what is known downstream.
    fn assert_in_sync(&self) {
        assert_eq!(self.objects, fresh(&self.directory));
    }
}

/// Options that make tests quick without changing what is tested.
fn options(directory: &Path) -> Options {
    Options {
        settle: Duration::from_millis(30),
        ..Options::new(directory)
    }
}

fn id(port: usize) -> PortId {
    format!("port-{port:04}").parse().unwrap()
}

fn port_id(port: usize) -> ObjectId {
    ObjectId::Port(id(port))
}

/// A port's entry.
fn entry(port: usize, revision: u64) -> String {
    format!(
        r#"{{"id":"{}","revision":{revision},"mac":"fa:16:3e:00:{:02x}:{:02x}"}}"#,
        id(port),
        port / 256,
        port % 256
    )
}

/// A document with ports of a revision.
fn ports(which: &[usize], revision: u64) -> String {
    let entries: Vec<String> = which.iter().map(|port| entry(*port, revision)).collect();
    format!(r#"{{"version":1,"ports":[{}]}}"#, entries.join(","))
}

/// What a directory says, read in the plainest way.
fn fresh(directory: &Path) -> BTreeMap<ObjectId, Object> {
    let mut found: BTreeMap<ObjectId, (u64, PathBuf, Object)> = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else if name.ends_with(".json") {
                let document = document::parse(&fs::read(&path).unwrap(), &path).unwrap();
                for (id, change) in document.objects {
                    let Change::Set { object, .. } = change else {
                        continue;
                    };
                    let revision = object.revision();
                    let better = found.get(&id).is_none_or(|(old, other, _)| {
                        *old < revision || (*old == revision && path < *other)
                    });
                    if better {
                        found.insert(id, (revision, path.clone(), object));
                    }
                }
            }
        }
    }
    let objects = found.into_iter();
    objects.map(|(id, (_, _, object))| (id, object)).collect()
}

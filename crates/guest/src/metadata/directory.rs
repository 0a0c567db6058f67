//! The port map: a directory with a file for each tap, written by the agent,
//! followed by inotify.
//!
//! A file that can't be read changes nothing: what was known of its tap stays.
//! So does everything while the directory itself is away. Events are hints;
//! reading decides, and a look at all files now and then finds what they
//! missed.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use l2isolate_model::metadata::entry::{Entry, SUFFIX};
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

/// Between two looks at all files.
const LOOK: Duration = Duration::from_secs(30);
/// Between two looks whether the directory has come back.
const RETRY: Duration = Duration::from_secs(1);
/// Largest file that is read, in bytes: user data in base64 and more.
const MAX_FILE: u64 = 1024 * 1024;

/// What has become of a tap's file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is new, or another.
    Entry(Arc<Entry>),
    /// It is gone; this is what it said.
    Gone(Arc<Entry>),
}

/// The directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    events: AsyncFd<Events>,
    /// While the directory is there.
    watch: Option<WatchDescriptor>,
    known: BTreeMap<String, Arc<Entry>>,
    /// Files that can't be used, with the reason that was logged.
    broken: BTreeMap<String, String>,
    look: Instant,
    /// It has been said that the directory is away.
    said: bool,
}

#[derive(Debug)]
struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Directory {
    /// Follows a directory, which may come later. Inside a runtime.
    ///
    /// # Errors
    /// There is no inotify left for this user.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, and asks for what holds here: the descriptor is owned, and never another"
        )]
        let events = AsyncFd::with_interest(Events(inotify), Interest::READABLE)?;
        Ok(Self {
            path: path.to_owned(),
            events,
            watch: None,
            known: BTreeMap::new(),
            broken: BTreeMap::new(),
            look: Instant::now(),
            said: false,
        })
    }

    /// Waits for news. Dropped and called again, nothing is lost.
    pub(super) async fn news(&mut self) -> Vec<News> {
        loop {
            tokio::select! {
                ready = self.events.readable() => {
                    // It fails only where the runtime ends.
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                }
                () = sleep_until(self.look) => self.look = Instant::now(),
            }
            let news = self.look();
            if !news.is_empty() {
                return news;
            }
        }
    }

    /// What is new by now: of files of which events told, or of all.
    pub(super) fn look(&mut self) -> Vec<News> {
        let names = self.drain();
        if self.watch.is_none() || Instant::now() >= self.look {
            return self.look_at_all();
        }
        match names {
            Some(names) => names
                .into_iter()
                .filter_map(|name| self.look_at(&name))
                .collect(),
            None => self.look_at_all(),
        }
    }

    /// The files that events name; none: they could be any.
    fn drain(&mut self) -> Option<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        let mut all = false;
        loop {
            let events = match self.events.get_ref().0.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => break,
                Err(_) => return None,
            };
            for event in events {
                match event.name {
                    Some(name) => names.extend(name.into_string()),
                    // An overflow, or the directory itself was moved or removed.
                    None => {
                        all = true;
                        self.unwatch();
                    }
                }
            }
        }
        names.sort();
        names.dedup();
        (!all).then_some(names)
    }

    fn unwatch(&mut self) {
        if let Some(watch) = self.watch.take() {
            // It fails if the directory is gone, and its watch with it.
            let _ = self.events.get_ref().0.rm_watch(watch);
        }
    }

    fn look_at_all(&mut self) -> Vec<News> {
        if self.watch.is_none() {
            let flags = AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_MOVE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF
                | AddWatchFlags::IN_ONLYDIR;
            let inotify = &self.events.get_ref().0;
            self.watch = inotify.add_watch(&self.path, flags).ok();
        }
        let wait = if self.watch.is_some() { LOOK } else { RETRY };
        self.look = Instant::now() + wait;
        let mut found = match names(&self.path) {
            Ok(found) => found,
            Err(error) => {
                self.unwatch();
                self.look = Instant::now() + RETRY;
                if !std::mem::replace(&mut self.said, true) {
                    let path = self.path.display();
                    let known = self.known.len();
                    warn!(%path, %error, known, "the port map can't be read; what is known of taps stays in force");
                }
                return Vec::new();
            }
        };
        if std::mem::take(&mut self.said) {
            info!(path = %self.path.display(), "the port map is back");
        }
        // Those that are gone as well.
        found.extend(self.known.keys().cloned());
        found.extend(self.broken.keys().cloned());
        found.sort();
        found.dedup();
        found
            .into_iter()
            .filter_map(|name| self.look_at(&name))
            .collect()
    }

    fn look_at(&mut self, name: &str) -> Option<News> {
        if !is_entry(name) {
            return None;
        }
        let entry = match read(&self.path.join(name)) {
            Ok(Some(text)) => Entry::parse(name, &text),
            Ok(None) => {
                self.broken.remove(name);
                return self.known.remove(name).map(News::Gone);
            }
            Err(error) => Err(error.to_string()),
        };
        match entry {
            Ok(entry) => {
                self.broken.remove(name);
                let same = |known: &Arc<Entry>| **known == entry;
                if self.known.get(name).is_some_and(same) {
                    return None;
                }
                let entry = Arc::new(entry);
                self.known.insert(name.to_owned(), Arc::clone(&entry));
                Some(News::Entry(entry))
            }
            Err(reason) => {
                if self.broken.get(name) != Some(&reason) {
                    let file = self.path.join(name);
                    warn!(file = %file.display(), %reason, "can't be used; what was known of its tap stays in force");
                    self.broken.insert(name.to_owned(), reason);
                }
                None
            }
        }
    }
}

/// Whether a file's name is that of an entry, and not of one being written.
fn is_entry(name: &str) -> bool {
    name.ends_with(SUFFIX) && !name.starts_with('.')
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let names = entries
        .into_iter()
        .filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| is_entry(name)).collect())
}

/// A file's content; none if there is no such file.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    use io::Read as _;
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("has more than {MAX_FILE} bytes")));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::testing;

    fn write(directory: &Path, name: &str, text: &str) {
        let aside = directory.join(format!(".{name}.tmp"));
        fs::write(&aside, text).unwrap();
        fs::rename(aside, directory.join(name)).unwrap();
    }

    fn put(directory: &Path, tap: &str, address: &str) {
        let text = testing::entry(tap, &[address]).to_json().unwrap();
        write(directory, &format!("{tap}.json"), &text);
    }

    fn shown(news: Vec<News>) -> Vec<String> {
        let show = |news| match news {
            News::Entry(entry) => format!("{} {}", entry.tap, entry.networks[0].address),
            News::Gone(entry) => format!("{} gone", entry.tap),
        };
        news.into_iter().map(show).collect()
    }

    #[tokio::test]
    async fn follows_the_agent() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("map");
        fs::create_dir(&path).unwrap();
        put(&path, "tap1", "10.0.0.1");
        let mut directory = Directory::open(&path).unwrap();
        assert_eq!(shown(directory.look()), ["tap1 10.0.0.1"]);
        put(&path, "tap1", "10.0.0.9");
        assert_eq!(shown(directory.news().await), ["tap1 10.0.0.9"]);
        put(&path, "tap2", "10.0.0.2");
        assert_eq!(shown(directory.news().await), ["tap2 10.0.0.2"]);
        fs::remove_file(path.join("tap1.json")).unwrap();
        assert_eq!(shown(directory.news().await), ["tap1 gone"]);
    }

    /// A half-written file, or one of a newer agent, must not cost a guest its
    /// metadata; nor must a directory that is away for a while.
    #[tokio::test]
    async fn what_is_known_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("map");
        fs::create_dir(&path).unwrap();
        put(&path, "tap1", "10.0.0.1");
        let mut directory = Directory::open(&path).unwrap();
        directory.look();
        let newer = testing::entry("tap1", &["10.0.0.2"]).to_json().unwrap();
        let newer = newer.replace("\"version\": 1", "\"version\": 2");
        for text in ["{", "", "[]", &newer] {
            write(&path, "tap1.json", text);
            assert_eq!(directory.look(), [], "{text}");
        }
        put(&path, "tap1", "10.0.0.3");
        assert_eq!(shown(directory.news().await), ["tap1 10.0.0.3"]);

        fs::rename(&path, root.path().join("elsewhere")).unwrap();
        assert_eq!(directory.look(), []);
        fs::create_dir(&path).unwrap();
        put(&path, "tap2", "10.0.0.2");
        assert_eq!(
            shown(directory.news().await),
            ["tap1 gone", "tap2 10.0.0.2"]
        );
        put(&path, "tap2", "10.0.0.4");
        assert_eq!(shown(directory.news().await), ["tap2 10.0.0.4"]);
    }

    /// It may come after the proxy: the agent makes it.
    #[tokio::test]
    async fn waits_for_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("map");
        let mut directory = Directory::open(&path).unwrap();
        assert_eq!(directory.look(), []);
        fs::create_dir(&path).unwrap();
        put(&path, "tap1", "10.0.0.1");
        assert_eq!(shown(directory.news().await), ["tap1 10.0.0.1"]);
    }

    /// Names of other tools' files are not read, nor is what is being written.
    #[tokio::test]
    async fn only_entries_are_read() {
        let root = tempfile::tempdir().unwrap();
        let text = testing::entry("tap1", &["10.0.0.1"]).to_json().unwrap();
        for name in [".tap1.json", "tap1.json~", "tap1", "tap2.json"] {
            fs::write(root.path().join(name), &text).unwrap();
        }
        let mut directory = Directory::open(root.path()).unwrap();
        assert_eq!(directory.look(), []);
        assert_eq!(directory.broken.keys().collect::<Vec<_>>(), ["tap2.json"]);
    }
}

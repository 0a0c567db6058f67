//! The thread that follows a directory.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use l2isolate_model::problem::Problem;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use super::{
    Options,
    ledger::Ledger,
    scan::problem,
    tree::{Away, Tree},
    watch::Watch,
};
use crate::update::{Availability, Held, State, Update};

/// How often a directory is tried that is away or can't be watched.
const RETRY: Duration = Duration::from_secs(1);

/// Why a source can't be started.
#[derive(Debug, thiserror::Error)]
#[error("the source of intent can't be started: {what}: {cause}")]
pub struct Error {
    what: &'static str,
    cause: std::io::Error,
}

/// A running source; it ends when this is dropped.
#[derive(Debug)]
pub struct Handle {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Control {
    wake: EventFd,
    stop: AtomicBool,
    release: AtomicBool,
}

impl Handle {
    /// Lets the deletions go that are held now.
    pub fn release(&self) {
        self.control.release.store(true, Ordering::Release);
        self.control.wake();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Release);
        self.control.wake();
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked, which was reported then.
            let _ = thread.join();
        }
    }
}

impl Control {
    fn wake(&self) {
        // Fails only when the counter is full: then it is awake.
        let _ = self.wake.write(1);
    }
}

/// Starts to follow a directory. The first [`Update`] comes after the first
/// attempt to read it, further ones when something differs. `wake` is called
/// after each, on the source's own thread.
///
/// # Errors
/// If the thread or its descriptor can't be made. A directory that can't be
/// read is no error: the source is away, and tries again.
pub fn spawn(
    options: Options,
    wake: Box<dyn Fn() + Send>,
) -> Result<(Handle, Receiver<Update>), Error> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let fd = EventFd::from_value_and_flags(0, flags).map_err(|errno| Error {
        what: "an event descriptor",
        cause: errno.into(),
    })?;
    let control = Arc::new(Control {
        wake: fd,
        stop: AtomicBool::new(false),
        release: AtomicBool::new(false),
    });
    let (sender, receiver) = channel();
    let worker = Worker {
        tree: Tree::new(&options),
        ledger: Ledger::new(&options),
        watch: Watch::new(),
        cached: !options.known.is_empty(),
        first_read: None,
        complete: false,
        availability: Availability::Starting,
        last: None,
        scan_at: Instant::now(),
        epoch: (Instant::now(), Timestamp::now()),
        control: Arc::clone(&control),
        sender,
        wake,
        options,
    };
    let thread = std::thread::Builder::new()
        .name("intent".to_owned())
        .spawn(move || worker.run())
        .map_err(|cause| Error {
            what: "its thread",
            cause,
        })?;
    let thread = Some(thread);
    Ok((Handle { control, thread }, receiver))
}

struct Worker {
    options: Options,
    tree: Tree,
    ledger: Ledger,
    watch: Watch,
    /// Whether the cache knew anything.
    cached: bool,
    /// When the directory could be read for the first time.
    first_read: Option<Instant>,
    complete: bool,
    availability: Availability,
    last: Option<State>,
    scan_at: Instant,
    /// One moment on both clocks: the guard counts on the monotonic one,
    /// people read the other.
    epoch: (Instant, Timestamp),
    control: Arc<Control>,
    sender: Sender<Update>,
    wake: Box<dyn Fn() + Send>,
}

impl Worker {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            if now >= self.scan_at {
                let result = self.tree.scan(now, &mut self.watch);
                self.set_availability(result, now);
            }
            if self.is_available() {
                let result = self.tree.look_again(now);
                if result.is_err() {
                    self.set_availability(result, now);
                }
            }
            if !self.report(now) {
                return;
            }
            self.wait();
            if self.control.stop.load(Ordering::Acquire) {
                return;
            }
            let now = Instant::now();
            if self.control.release.swap(false, Ordering::AcqRel) {
                let (ports, objects) = self.ledger.guard.held();
                tracing::warn!(ports, objects, "held deletions are released");
                self.ledger.guard.release(now);
            }
            let hints = self.watch.drain(&|path| self.tree.is_blind(path));
            if hints.all {
                self.scan_at = now;
            } else if self.is_available() {
                for path in &hints.files {
                    self.tree.look(path, now);
                }
            }
        }
    }

    fn is_available(&self) -> bool {
        matches!(self.availability, Availability::Available { .. })
    }

    fn set_availability(&mut self, result: Result<(), Away>, now: Instant) {
        let since = Timestamp::now();
        match result {
            Ok(()) => {
                self.first_read.get_or_insert(now);
                if !self.is_available() {
                    self.availability = Availability::Available { since };
                }
                let unwatched = self.watch.error().is_some();
                let pause = if unwatched {
                    RETRY.min(self.options.rescan)
                } else {
                    self.options.rescan
                };
                self.scan_at = now + pause;
            }
            Err(reason) => {
                self.tree.pause();
                self.scan_at = now + RETRY;
                match &mut self.availability {
                    Availability::Away { reason: old, .. } => *old = reason,
                    other => *other = Availability::Away { since, reason },
                }
            }
        }
    }

    /// Sends what differs. Returns whether anybody still listens.
    fn report(&mut self, now: Instant) -> bool {
        let changes = if self.is_available() {
            self.ledger.settle(now, &mut self.tree)
        } else {
            Vec::new()
        };
        let was_complete = self.complete;
        self.complete |= self.is_complete(now);
        let state = State {
            availability: self.availability.clone(),
            problems: self.problems(),
            held: self.held(),
            contact: None,
        };
        if changes.is_empty() && self.complete == was_complete && self.last.as_ref() == Some(&state)
        {
            return true;
        }
        self.log(&state);
        self.last = Some(state.clone());
        let update = Update {
            changes,
            stamps: Vec::new(),
            complete: self.complete,
            state,
        };
        let heard = self.sender.send(update).is_ok();
        (self.wake)();
        heard
    }

    /// A reading is complete if every file was understood. One that isn't is
    /// made up for by the cache, which has what such a file held; without a
    /// cache it is waited for, but not forever.
    fn is_complete(&self, now: Instant) -> bool {
        self.first_read.is_some_and(|first| {
            self.cached || self.tree.is_understood() || now >= first + self.options.grace
        })
    }

    fn problems(&self) -> Vec<Problem> {
        let watch = self
            .watch
            .error()
            .map(|error| problem(&self.options.directory, error.to_owned()));
        self.tree.problems().cloned().chain(watch).collect()
    }

    fn held(&self) -> Option<Held> {
        let until = self.ledger.guard.until()?;
        let (ports, objects) = self.ledger.guard.held();
        let (instant, timestamp) = self.epoch;
        let until = timestamp
            .checked_add(until.saturating_duration_since(instant))
            .unwrap_or(Timestamp::MAX);
        Some(Held {
            ports,
            objects,
            until,
        })
    }

    /// Held deletions are said aloud here; all else of a state is for whoever
    /// gets it.
    fn log(&self, state: &State) {
        let held_before = self.last.as_ref().and_then(|last| last.held.as_ref());
        match (&state.held, held_before) {
            (Some(held), old) if old.is_none_or(|old| old.ports < held.ports) => {
                tracing::error!(
                    ports = held.ports,
                    objects = held.objects,
                    until = %held.until,
                    "more than half of the ports vanished at once; their deletion is held"
                );
            }
            (None, Some(_)) => tracing::info!("no deletion is held any more"),
            _ => {}
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self) {
        let mut deadline = self.scan_at;
        if self.is_available() {
            let until = self.ledger.guard.due();
            let complete = self
                .first_read
                .filter(|_| !self.complete)
                .map(|first| first + self.options.grace);
            for at in [until, self.tree.due(), complete].into_iter().flatten() {
                deadline = deadline.min(at);
            }
        }
        // One more millisecond, or it would wake before the time has come.
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = if left.is_zero() {
            0
        } else {
            left.as_millis().saturating_add(1)
        };
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(self.control.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.watch.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // EINTR: somebody's signal; the loop looks around and comes back.
        let _ = poll(&mut fds, timeout);
        let _ = self.control.wake.read();
    }
}

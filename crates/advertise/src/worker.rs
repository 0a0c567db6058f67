//! Threads that speak with a daemon, so that nobody else waits for it.
//!
//! One writes and one reads back, each with a driver of its own: a prefix isn't
//! announced later because everything is being read. A third listens, where the
//! daemon tells of changes. They only do what they are told and hand over what
//! came of it; what follows is decided elsewhere.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use crate::driver::{Change, Driver, Events, Failure, Observed, Reader};

/// Between two tries to listen to a daemon.
const PAUSE: Duration = Duration::from_secs(1);

/// What came of an order.
#[derive(Debug)]
pub enum Report {
    /// Changes were made, or not.
    Applied {
        /// Each with its result, in the order in which they were given.
        results: Vec<(Change, Result<(), Failure>)>,
        /// How long it took.
        took: Duration,
    },
    /// Everything was read back, or not.
    Observed {
        /// What there is.
        result: Result<Observed, Failure>,
        /// How long it took.
        took: Duration,
    },
    /// A peer was sent everything once more, or not.
    Resent {
        /// Which.
        peer: String,
        /// Whether the daemon was told.
        result: Result<(), Failure>,
    },
    /// The daemon tells that something has changed.
    Changed,
}

enum Read {
    All,
    Resend(String),
}

/// The threads, and the ways to and from them. They end when it is dropped and
/// they have done what they are at; the one that listens, with the next thing
/// that it hears.
pub struct Worker {
    writer: Option<Sender<Vec<Change>>>,
    reader: Sender<Read>,
    reports: Receiver<Report>,
}

type Wake = Arc<dyn Fn() + Send + Sync>;

impl Worker {
    /// Starts them; `wake` is called after each report. Without a driver to
    /// write with, changes are dropped.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(
        writer: Option<Box<dyn Driver>>,
        reader: Box<dyn Reader>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (report, reports) = mpsc::channel();
        let wake: Wake = Arc::new(wake);
        if let Some(events) = reader.events() {
            listen(events, report.clone(), Arc::clone(&wake))?;
        }
        let writer = match writer {
            Some(driver) => Some(write(driver, report.clone(), Arc::clone(&wake))?),
            None => None,
        };
        Ok(Self {
            writer,
            reader: read(reader, report, wake)?,
            reports,
        })
    }

    /// Has changes made. Whether they were comes as a report.
    pub fn apply(&self, changes: Vec<Change>) {
        if let Some(writer) = &self.writer {
            // A thread that has ended panicked, which drivers don't.
            let _ = writer.send(changes);
        }
    }

    /// Has a peer sent everything once more.
    pub fn resend(&self, peer: &str) {
        let _ = self.reader.send(Read::Resend(peer.to_owned()));
    }

    /// Has everything read back.
    pub fn observe(&self) {
        let _ = self.reader.send(Read::All);
    }

    /// What came of orders, if something did.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }
}

fn write(
    mut driver: Box<dyn Driver>,
    report: Sender<Report>,
    wake: Wake,
) -> std::io::Result<Sender<Vec<Change>>> {
    let (orders, taken) = mpsc::channel::<Vec<Change>>();
    thread::Builder::new()
        .name("announce".to_owned())
        .spawn(move || {
            for changes in taken {
                let started = Instant::now();
                let results = driver.apply(&changes);
                let done = Report::Applied {
                    results: changes.into_iter().zip(results).collect(),
                    took: started.elapsed(),
                };
                if report.send(done).is_err() {
                    return;
                }
                wake();
            }
        })?;
    Ok(orders)
}

fn read(
    mut reader: Box<dyn Reader>,
    report: Sender<Report>,
    wake: Wake,
) -> std::io::Result<Sender<Read>> {
    let (orders, taken) = mpsc::channel();
    thread::Builder::new()
        .name("announce-read".to_owned())
        .spawn(move || {
            for order in taken {
                let started = Instant::now();
                let done = match order {
                    Read::All => Report::Observed {
                        result: reader.observe(),
                        took: started.elapsed(),
                    },
                    Read::Resend(peer) => Report::Resent {
                        result: reader.resend(&peer),
                        peer,
                    },
                };
                if report.send(done).is_err() {
                    return;
                }
                wake();
            }
        })?;
    Ok(orders)
}

fn listen(mut events: Box<dyn Events>, report: Sender<Report>, wake: Wake) -> std::io::Result<()> {
    thread::Builder::new()
        .name("announce-events".to_owned())
        .spawn(move || {
            loop {
                // Why it can't be listened to, reading it back will say.
                if events.next().is_err() {
                    thread::sleep(PAUSE);
                }
                if report.send(Report::Changed).is_err() {
                    return;
                }
                wake();
            }
        })?;
    Ok(())
}

//! Threads that speak with a daemon, so that nobody else waits for it.
//!
//! One writes and one reads back, each with a driver of its own: a prefix isn't
//! announced later because everything is being read. Both only do what they
//! are told and hand over what came of it; what follows is decided elsewhere.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use crate::driver::{Change, Driver, Failure, Observed};

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
}

enum Write {
    Apply(Vec<Change>),
    Resend(String),
}

/// The threads, and the ways to and from them. They end when it is dropped and
/// they have done what they are at.
pub struct Worker {
    writer: Option<Sender<Write>>,
    reader: Sender<()>,
    reports: Receiver<Report>,
}

impl Worker {
    /// Starts them; `wake` is called after each report. Without a driver to
    /// write with, changes are dropped.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(
        writer: Option<Box<dyn Driver>>,
        mut reader: Box<dyn Driver>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (report, reports) = mpsc::channel();
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
        let writer = match writer {
            Some(driver) => {
                let (report, wake) = (report.clone(), Arc::clone(&wake));
                Some(write(driver, report, wake)?)
            }
            None => None,
        };
        let (orders, taken) = mpsc::channel::<()>();
        thread::Builder::new()
            .name("announce-read".to_owned())
            .spawn(move || {
                for () in taken {
                    let started = Instant::now();
                    let result = reader.observe();
                    let took = started.elapsed();
                    if report.send(Report::Observed { result, took }).is_err() {
                        return;
                    }
                    wake();
                }
            })?;
        Ok(Self {
            writer,
            reader: orders,
            reports,
        })
    }

    /// Has changes made. Whether they were comes as a report.
    pub fn apply(&self, changes: Vec<Change>) {
        self.write(Write::Apply(changes));
    }

    /// Has a peer sent everything once more.
    pub fn resend(&self, peer: &str) {
        self.write(Write::Resend(peer.to_owned()));
    }

    fn write(&self, order: Write) {
        if let Some(writer) = &self.writer {
            // A thread that has ended panicked, which drivers don't.
            let _ = writer.send(order);
        }
    }

    /// Has everything read back.
    pub fn observe(&self) {
        let _ = self.reader.send(());
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
    wake: Arc<dyn Fn() + Send + Sync>,
) -> std::io::Result<Sender<Write>> {
    let (orders, taken) = mpsc::channel();
    thread::Builder::new()
        .name("announce".to_owned())
        .spawn(move || {
            for order in taken {
                let started = Instant::now();
                let done = match order {
                    Write::Apply(changes) => {
                        let results = driver.apply(&changes);
                        Report::Applied {
                            results: changes.into_iter().zip(results).collect(),
                            took: started.elapsed(),
                        }
                    }
                    Write::Resend(peer) => Report::Resent {
                        result: driver.resend(&peer),
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

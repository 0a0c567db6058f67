//! The handle of the thread that talks to Neutron.

use std::{
    sync::mpsc::{Receiver, channel},
    thread::JoinHandle,
};

use l2isolate_model::IfName;
use serde_json::{Map, Value};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{Options, devices::TapState, worker::Worker};
use crate::update::Update;

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
    words: UnboundedSender<Word>,
    thread: Option<JoinHandle<()>>,
}

/// What the worker is told.
#[derive(Debug)]
pub(super) enum Word {
    Taps(Vec<(IfName, Option<TapState>)>),
    Figures(Map<String, Value>),
    Release,
    Stop,
}

impl Handle {
    /// What has become of taps: gone, or there. The first time, all that are
    /// there, be it none.
    pub fn tell_taps(&self, news: Vec<(IfName, Option<TapState>)>) {
        self.tell(Word::Taps(news));
    }

    /// What an operator sees in `openstack network agent show`, from now on.
    pub fn tell_figures(&self, figures: Map<String, Value>) {
        self.tell(Word::Figures(figures));
    }

    /// Lets the deletions go that are held now.
    pub fn release(&self) {
        self.tell(Word::Release);
    }

    fn tell(&self, word: Word) {
        // It only fails if the thread panicked, which was reported then.
        let _ = self.words.send(word);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.tell(Word::Stop);
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked, which was reported then.
            let _ = thread.join();
        }
    }
}

/// Starts to talk to Neutron. The first [`Update`] comes at once, further ones
/// when something differs. `wake` is called after each, on the source's own
/// thread.
///
/// # Errors
/// If the thread or its runtime can't be made. A broker or server that is away
/// is no error.
pub fn spawn(
    options: Options,
    wake: Box<dyn Fn() + Send>,
) -> Result<(Handle, Receiver<Update>), Error> {
    let (words, heard) = unbounded_channel();
    let (sender, receiver) = channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| Error {
            what: "its runtime",
            cause,
        })?;
    let thread = std::thread::Builder::new()
        .name("neutron".to_owned())
        .spawn(move || {
            let work = async { Worker::new(options, heard, sender, wake).run().await };
            runtime.block_on(work);
        })
        .map_err(|cause| Error {
            what: "its thread",
            cause,
        })?;
    let thread = Some(thread);
    Ok((Handle { words, thread }, receiver))
}

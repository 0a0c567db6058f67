//! A broker for one test, with a namespace and a directory of its own.

use std::{ops::Deref, path::PathBuf, time::Duration};

use super::{Broker, Options};
use crate::{
    Error, Result,
    lab::{progress, unique_name},
    netns, process,
};

const GRACE: Duration = Duration::from_secs(5);

/// A broker that goes with its holder: when this is dropped, and also when the
/// thread that made it is killed.
#[derive(Debug)]
pub struct Alone {
    broker: Broker,
    directory: PathBuf,
}

impl Alone {
    /// Makes a namespace, and starts a broker in it.
    ///
    /// # Errors
    /// As [`Broker::configure`] and [`Broker::start`], or the namespace can't
    /// be made.
    pub fn start(options: Options) -> Result<Self> {
        let name = unique_name("broker");
        let directory = std::env::temp_dir().join(format!("l2i-{name}"));
        std::fs::create_dir(&directory).map_err(Error::file(&directory))?;
        let namespace = format!("l2i-{name}");
        let options = Options {
            ends_with_caller: true,
            ..options
        };
        // From here on, dropping cleans up.
        let mut alone = Self {
            broker: Broker::open(&namespace, &directory, options.clone()),
            directory,
        };
        netns::create(std::slice::from_ref(&namespace))?;
        netns::ip(&namespace, &["link", "set", "lo", "up"])?;
        alone.broker = Broker::configure(&namespace, &alone.directory, options)?;
        alone.broker.start()?;
        Ok(alone)
    }
}

impl Deref for Alone {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.broker
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let namespace = self.broker.namespace().to_owned();
        let namespaces = std::slice::from_ref(&namespace);
        let end = || -> Result<()> {
            // Nothing in it is worth an end in order.
            self.broker.kill()?;
            let own = std::process::id();
            let mut processes: Vec<_> = process::in_namespaces(namespaces)?
                .into_values()
                .flatten()
                .collect();
            // This process may have threads or sockets there.
            processes.retain(|process| process.pid != own);
            if !process::end(&processes, GRACE) {
                return Err(Error::Program("some processes live on".to_owned()));
            }
            if netns::identity(&namespace).is_ok() {
                netns::delete(namespaces)?;
            }
            std::fs::remove_dir_all(&self.directory).map_err(Error::file(&self.directory))
        };
        if let Err(error) = end() {
            progress(&format!("removing broker {namespace}: {error}"));
        }
    }
}

//! The metadata proxy: `l2isolate metadata`.
//!
//! ```text
//!   agent ── a file for each tap ──▶ directory ──▶ map ┐
//!   guest ── tap ──▶ socket of the tap ──▶ connection ─┴▶ proxy ──▶ Nova, Neutron,
//!                                                              or the intent itself
//! ```
//!
//! A process of its own, since what tenants send doesn't belong into one that
//! may change the network: it has no privilege but that of listening on port
//! 80. It goes on while the agent restarts, and its sockets outlive it in the
//! service manager's keeping.
//!
//! * [`directory`] follows the port map, [`map`] has what is known.
//! * [`socket`] and [`keeping`] are about listening, [`connection`] and
//!   [`limits`] about who is served how long.
//! * [`caller`] says who asks; [`upstream`] asks Nova or Neutron, [`headers`]
//!   and [`body`] are what passes; [`local`] answers from the intent.
//!
//! One thread: it never takes more than one processor from the guests. What can
//! break it: another program on port 80 of all addresses; a directory that its
//! user can't read.

mod body;
mod caller;
mod connection;
mod directory;
mod headers;
mod keeping;
mod limits;
mod local;
mod map;
mod privileges;
mod proxy;
mod secret;
mod service;
mod socket;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod throttle;
mod upstream;

use std::{io, path::PathBuf};

use l2isolate_model::metadata::PORT;

pub use limits::Limits;
pub use secret::{Secret, SecretError};
pub use upstream::{Address, Tls, TlsError};

use proxy::Answers;
use upstream::Upstreams;

/// What the proxy is told by its operator.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port map.
    pub directory: PathBuf,
    /// Where answers come from.
    pub source: Source,
    /// What guests may use.
    pub limits: Limits,
    /// Whom to become if this is root.
    pub user: String,
}

/// Where answers come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// From the intent: there is no Nova.
    Intent,
    /// From Nova's metadata API.
    Nova {
        /// Where it is; several are asked in turn.
        servers: Vec<Address>,
        /// Absent: plain HTTP.
        tls: Option<Tls>,
        /// What it shares with us.
        secret: SecretSource,
    },
    /// From neutron-metadata-agent, by its socket.
    Neutron(PathBuf),
}

/// Where a secret is.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// It was in the configuration.
    Given(Secret),
    /// In a file of its own.
    File(PathBuf),
}

/// Why the proxy can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret's file can't be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// There is no secret.
    #[error(
        "Nova's metadata API wants a secret: set metadata_proxy_shared_secret, or name a file with it by metadata_secret_file"
    )]
    NoSecret,
    /// Certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A server's address can't be one.
    #[error("{0}")]
    Address(String),
    /// Privileges can't be dropped.
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    /// The system refuses what every process needs.
    #[error("{what}: {cause}")]
    System {
        /// What it was about.
        what: &'static str,
        /// Why.
        cause: io::Error,
    },
}

impl Error {
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::System { what, cause }
    }
}

/// Runs the proxy until SIGTERM or SIGINT. The process must have one thread.
///
/// # Errors
/// It can't start; see [`Error`].
pub fn run(options: &Options) -> Result<(), Error> {
    let kept = keeping::take();
    // What only root can read is read before root is given up.
    let answers = answers(&options.source, &options.limits)?;
    privileges::drop(&options.user, PORT)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Names of servers are looked up there.
        .max_blocking_threads(4)
        .build()
        .map_err(Error::system("starting the runtime"))?
        .block_on(service::run(options, answers, kept))
}

fn answers(source: &Source, limits: &Limits) -> Result<Answers, Error> {
    match source {
        Source::Intent => Ok(Answers::Intent),
        Source::Neutron(path) => {
            let servers = Upstreams::neutron(Address::Unix(path.clone()), limits)?;
            Ok(Answers::Servers(Box::new(servers)))
        }
        Source::Nova {
            servers,
            tls,
            secret,
        } => {
            let secret = match secret {
                SecretSource::Given(secret) => secret.clone(),
                SecretSource::File(path) => Secret::read(path)?,
            };
            if secret.is_empty() {
                return Err(Error::NoSecret);
            }
            let servers = Upstreams::nova(servers, tls.as_ref(), &secret, limits)?;
            Ok(Answers::Servers(Box::new(servers)))
        }
    }
}

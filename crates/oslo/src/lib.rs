//! oslo.messaging's RPC over RabbitMQ, as OpenStack's services speak it, in Rust.
//!
//! A program that uses it can call services written in Python, be called by
//! them, and take part in their casts and fanouts: the wire format, the names of
//! exchanges and queues and the rules of versions are those of oslo.messaging's
//! driver `rabbit` (releases 10 to 18).
//!
//! ```no_run
//! use l2isolate_oslo::{Context, Options, Target, Transport};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut options = Options::new("rabbit://openstack:secret@broker1,broker2/".parse()?);
//! options.exchange = "neutron".to_owned();
//! let transport = Transport::start(options);
//! let plugin = transport.client(Target::new("q-plugin").version(1, 0));
//! let filters = serde_json::json!({"filters": {"binding:host_id": ["hv1"]}});
//! let arguments = filters.as_object().cloned().unwrap_or_default();
//! let ports = plugin.call(&Context::admin(), "get_ports", arguments).await?;
//! # Ok(())
//! # }
//! ```
//!
//! * [`Options`]: `transport_url` and `[oslo_messaging_rabbit]`, read as
//!   oslo.messaging reads them.
//! * [`Transport`]: one connection, made anew whenever it is lost; [`Status`]
//!   tells how it is.
//! * [`Client`]: calls, casts, fanouts; [`Backoff`]: time-outs that spare an
//!   overloaded server.
//! * [`Inbox`]: casts by routing keys that change, one queue for all of them.
//! * [`Server`]: [`Endpoint`]s with methods, found by a [`Dispatcher`].
//!
//! What it does otherwise than Python, and why:
//!
//! * Its own queues (replies, directed, fanout) are exclusive: they end with the
//!   connection, and RabbitMQ 4.3 refuses the ones that Python makes by default.
//!   A call whose connection is lost fails at once, since its reply couldn't
//!   come any more.
//! * Exchanges are taken as they are, whoever declared them with which options.
//! * Calls are published as mandatory: that nobody serves a topic is known at
//!   once, not after a time-out.
//!
//! It runs in tasks of the caller's tokio runtime; a current-thread runtime will
//! do. Under it is [lapin](https://docs.rs/lapin), without its own recovery.

#![allow(
    clippy::result_large_err,
    clippy::manual_async_fn,
    reason = "failures carry what the other end said; the form of lapin's trait is kept"
)]

mod backoff;
mod client;
mod connection;
mod context;
mod declare;
mod dispatch;
mod error;
mod failure;
mod inbox;
mod message;
pub mod options;
mod publisher;
mod server;
mod stream;
mod tls;
mod transport;
mod unique;
mod url;

pub use backoff::Backoff;
pub use client::{Client, Target};
pub use context::Context;
pub use dispatch::{Dispatcher, Endpoint, Request};
pub use error::{ConnectError, Error};
pub use failure::RemoteError;
pub use inbox::{Bound, Cast, Inbox};
pub use message::{MessageError, Version};
pub use options::{OptionError, Options};
pub use server::{Listen, Server};
pub use transport::{State, Status, Transport};
pub use url::{Host, TransportUrl, UrlError};

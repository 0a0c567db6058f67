//! Serves clients of oslo.messaging, such as `python/client.py` beside this file:
//!
//! ```text
//! cargo run -p l2isolate-oslo --example serve -- rabbit://guest:guest@127.0.0.1/ demo one &
//! /usr/bin/python3 crates/oslo/examples/python/client.py rabbit://guest:guest@127.0.0.1/ demo \
//!     call echo '{"text": "hello"}'
//! ```
//!
//! Methods of version 1.1: `echo` returns its arguments, `fail` raises, `slow`
//! takes some seconds, `count` says how many casts (`note`) came so far.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use l2isolate_oslo::{
    Dispatcher, Endpoint, Listen, Options, RemoteError, Request, Transport, Version,
};
use serde_json::Value;

/// Serves a topic.
#[derive(Parser)]
struct Arguments {
    /// rabbit://user:password@host:port/vhost
    transport_url: String,
    topic: String,
    /// This server's name among those of the topic.
    server: String,
    /// The exchange (control_exchange).
    #[arg(long, default_value = "openstack")]
    exchange: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("info,lapin=off")
        .init();
    let arguments = Arguments::parse();
    let mut options = Options::read(&arguments.transport_url, |_| None)?;
    options.exchange = arguments.exchange;
    let transport = Transport::start(options);
    let listen = Listen::new(&arguments.topic, &arguments.server);
    let server = transport.serve(listen, dispatcher());
    server.listening().await;
    tracing::info!(topic = arguments.topic, "serving");
    std::future::pending().await
}

fn dispatcher() -> Dispatcher {
    let notes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&notes);
    let endpoint = Endpoint::new(Version::new(1, 1))
        .method("echo", async |request: Request| {
            Ok(Value::Object(request.arguments))
        })
        .method("fail", async |request: Request| {
            let text = request.arguments.get("text").and_then(Value::as_str);
            Err(RemoteError::value(text.unwrap_or("no text")))
        })
        .method("slow", async |request: Request| {
            let seconds = request.arguments.get("seconds").and_then(Value::as_f64);
            let seconds = seconds
                .filter(|s| (0.0..60.0).contains(s))
                .ok_or_else(|| RemoteError::value("seconds is no number from 0 to 60"))?;
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(seconds.into())
        })
        .method("note", move |_| {
            notes.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok(Value::Null))
        })
        .method("count", move |_| {
            std::future::ready(Ok(counted.load(Ordering::Relaxed).into()))
        });
    Dispatcher::new().endpoint(endpoint)
}

//! Calls a method of an oslo.messaging server, such as `python/server.py` beside
//! this file, and prints its result:
//!
//! ```text
//! /usr/bin/python3 crates/oslo/examples/python/server.py rabbit://guest:guest@127.0.0.1/ demo &
//! cargo run -p l2isolate-oslo --example call -- \
//!     rabbit://guest:guest@127.0.0.1/ demo echo '{"text": "hello"}'
//! ```

use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use l2isolate_oslo::{Context, Options, Target, Transport, Version};
use serde_json::{Map, Value};

/// Calls a method of an oslo.messaging server.
#[derive(Parser)]
struct Arguments {
    /// rabbit://user:password@host:port/vhost
    transport_url: String,
    topic: String,
    method: String,
    /// The arguments, as a JSON object.
    #[arg(default_value = "{}")]
    arguments: String,
    /// The exchange (control_exchange).
    #[arg(long, default_value = "openstack")]
    exchange: String,
    /// The interface's version.
    #[arg(long, default_value = "1.0")]
    version: Version,
    /// One server alone.
    #[arg(long)]
    server: Option<String>,
    /// Don't wait for a result.
    #[arg(long)]
    cast: bool,
    /// Cast to all servers.
    #[arg(long)]
    fanout: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("warn,lapin=off")
        .init();
    let arguments = Arguments::parse();
    let mut options = Options::read(&arguments.transport_url, |_| None)?;
    options.exchange = arguments.exchange;
    let transport = Transport::start(options);
    let target = Target {
        server: arguments.server,
        version: arguments.version,
        ..Target::new(&arguments.topic)
    };
    let client = transport
        .client(target)
        .timeout(Duration::from_secs(arguments.timeout));
    let keywords: Map<String, Value> =
        serde_json::from_str(&arguments.arguments).context("the arguments are no JSON object")?;
    let (context, method) = (Context::admin(), &arguments.method);
    if arguments.fanout {
        client.fanout(&context, method, keywords).await?;
    } else if arguments.cast {
        client.cast(&context, method, keywords).await?;
    } else {
        let result = client.call(&context, method, keywords).await?;
        #[expect(clippy::print_stdout, reason = "this is its work")]
        {
            println!("{result}");
        }
    }
    transport.close().await;
    Ok(())
}

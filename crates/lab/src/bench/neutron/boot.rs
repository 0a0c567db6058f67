//! What agents hear of one machine that boots: many played agents listen, each
//! with a queue of its own, as real ones do.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use l2isolate_oslo::{Cast, Client, Context, Inbox, Options, Target, Transport};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::Receiver;

use super::{super::stats, Cloud, firehose::Firehose};
use crate::{Error, Result, netns};

/// So many of the agents have ports in the group.
const IN_GROUP: usize = 10;
/// How many machines boot, one after the other.
const BOOTS: usize = 10;
/// After this without a message all have come.
const QUIET: Duration = Duration::from_millis(1500);

/// Messages of one boot, on average.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Messages {
    /// To the machine's host, of whatever kind.
    pub own: f64,
    /// To another host with ports in its group.
    pub group: f64,
    /// To all hosts that have nothing to do with it together.
    pub uninvolved: f64,
    /// Bytes of all of them, bodies only.
    pub bytes: f64,
    /// How many agents listened.
    pub agents: usize,
    /// What stock Neutron says of the same boot to every agent of the cloud, by
    /// fanouts to which nobody here listens.
    pub stock: Stock,
}

/// Fanouts of one boot, on average: each reaches all agents.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stock {
    /// Messages to each agent.
    pub each: f64,
    /// Bytes of their bodies.
    pub bytes: f64,
}

/// Somebody who listens.
pub(super) type Listener = (Inbox, Receiver<Cast>);

/// Measures.
pub(super) fn run(cloud: &Cloud<'_>, agents: usize) -> Result<Messages> {
    let group = cloud.group()?;
    netns::inside(cloud.rig.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("a tokio runtime"))?;
        runtime.block_on(listen(cloud, &group, agents))
    })?
}

/// A connection as agents have one.
pub(super) fn connect(url: &str) -> Result<Transport> {
    let mut options = Options::read(url, |_| None).map_err(|e| Error::Program(e.to_string()))?;
    options.exchange = "neutron".to_owned();
    Ok(Transport::start(options))
}

/// Says that an agent lives.
pub(super) async fn report(transport: &Transport, host: &str) -> Result<()> {
    let client = transport.client(Target::new("q-reports-plugin").version(1, 2));
    call(&client, "report_state", state(host)).await.map(|_| ())
}

/// What an agent reports.
pub(super) fn state(host: &str) -> Value {
    let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6f");
    let state = json!({
        "agent_type": "L2 isolate agent", "binary": "l2isolate", "host": host,
        "topic": "N/A", "configurations": {},
    });
    json!({"agent_state": {"agent_state": state}, "time": time.to_string()})
}

/// Calls.
pub(super) async fn call(client: &Client, method: &str, arguments: Value) -> Result<Value> {
    let arguments: Map<String, Value> = match arguments {
        Value::Object(arguments) => arguments,
        _ => Map::new(),
    };
    client
        .call(&Context::admin(), method, arguments)
        .await
        .map_err(|error| Error::Program(format!("{method}: {error}")))
}

async fn listen(cloud: &Cloud<'_>, group: &str, agents: usize) -> Result<Messages> {
    let transport = connect(&cloud.rig.transport_url())?;
    let mut listeners: Vec<Listener> = (0..agents)
        .map(|number| {
            let mut keys = BTreeSet::from([format!("l2isolate-agent.listener{number}")]);
            if number < IN_GROUP {
                keys.insert(format!("l2isolate-group.{group}"));
            }
            transport.inbox("l2isolate-agent", 1000, keys)
        })
        .collect();
    for (inbox, _) in &listeners {
        let mut bound = inbox.bound();
        let bound = bound.wait_for(Option::is_some);
        tokio::time::timeout(Duration::from_secs(60), bound)
            .await
            .map_err(|_| Error::Program("no queue can be had".to_owned()))?
            .map_err(|e| Error::Program(e.to_string()))?;
    }
    report(&transport, "listener0").await?;
    let mut firehose = Firehose::open(cloud).await?;
    let plugin = transport.client(Target::new("q-plugin").version(1, 5));
    let mut all = Messages {
        agents,
        ..Messages::default()
    };
    for _ in 0..BOOTS {
        let port = cloud.create(
            "port",
            json!({
                "network_id": cloud.network, "binding:host_id": "listener0",
                "device_owner": "compute:nova", "device_id": "vm", "security_groups": [group],
            }),
        )?;
        // Its tap is there by now.
        let up = json!({"devices_up": [port], "devices_down": [], "agent_id": "a",
                        "host": "listener0"});
        call(&plugin, "update_device_list", up).await?;
        count(&mut listeners, &mut all).await;
        for published in firehose.drain().await? {
            if published.exchange.ends_with("_fanout") {
                all.stock.each += 1.0;
                all.stock.bytes += float(published.bytes);
            }
        }
    }
    let boots = f64::from(u32::try_from(BOOTS).unwrap_or(1));
    let others = f64::from(u32::try_from(IN_GROUP - 1).unwrap_or(1));
    let average = |sum: f64| stats::rounded(sum / boots);
    Ok(Messages {
        own: average(all.own),
        group: average(all.group / others),
        uninvolved: average(all.uninvolved),
        bytes: average(all.bytes),
        agents,
        stock: Stock {
            each: average(all.stock.each),
            bytes: average(all.stock.bytes),
        },
    })
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Counts what has come, until nothing comes any more.
async fn count(listeners: &mut [Listener], all: &mut Messages) {
    let mut last = Instant::now();
    while last.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for (number, (_, casts)) in listeners.iter_mut().enumerate() {
            while let Ok(cast) = casts.try_recv() {
                last = Instant::now();
                let kind = match number {
                    0 => &mut all.own,
                    _ if number < IN_GROUP => &mut all.group,
                    _ => &mut all.uninvolved,
                };
                *kind += 1.0;
                all.bytes += float(cast.bytes);
            }
        }
    }
}

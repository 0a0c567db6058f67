//! All agents of a cloud at once: the broker is killed and started, and they ask
//! for what differs; a group that all of them use gets a rule; many ports are made.
//!
//! The ports that are there before are written into the database as Neutron
//! would, since making them by its API takes hours. The agents are played: each
//! has a queue of its own and asks as real ones do after a broker's restart,
//! within five seconds, by chance, with one call at a time.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use l2isolate_oslo::{Bound, Inbox, Target, Transport};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::{
    super::stats,
    Cloud,
    boot::{Listener, call, connect},
    crowd, restart,
};
use crate::{Error, Result, lab::progress, netns, process};

/// Ports of an agent.
const PORTS: usize = 20;
/// Ports of a group.
const IN_GROUP: usize = 200;
/// So many agents share a connection: a socket for each would say more of this
/// machine than of the server.
const SHARED: usize = 50;
/// Within which agents come back, as in the agent.
const SPREAD: Duration = Duration::from_secs(5);
/// After a call that failed, as in the agent.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// Longest wait for a queue.
const LIMIT: Duration = Duration::from_secs(300);

/// What many agents ask for, and hear.
#[derive(Debug, Clone, Serialize)]
pub struct Storms {
    /// All agents at once.
    pub sync_storm: Storm,
    /// The servers end, and come back.
    pub server_restart: restart::Restart,
    /// A rule more in a group that they all use.
    pub rule_storm: crowd::Rule,
    /// Many ports at once.
    pub port_storm: crowd::Ports,
}

/// All agents ask.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Storm {
    /// How many agents.
    pub agents: usize,
    /// Processor time of all of Neutron's processes.
    pub server_cpu_s: f64,
    /// From the broker's return until the last has its answer.
    pub all_synced_s: f64,
    /// Of that, until the last has its queue again.
    pub all_bound_s: f64,
    /// Calls that had to be made again.
    pub failed_calls: usize,
    /// Bytes of answers, as JSON.
    pub bytes: usize,
    /// The same of agents that know nothing yet: their processor time,
    pub first_server_cpu_s: f64,
    /// and until the last has everything.
    pub first_all_synced_s: f64,
}

/// One round of all agents.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) failed: usize,
    pub(super) bytes: usize,
    /// When the last had its queue.
    bound: Option<Instant>,
}

/// Agents that are played.
pub(super) struct Crowd {
    transports: Vec<Transport>,
    pub(super) listeners: Vec<Listener>,
    /// What each knows.
    pub(super) known: Vec<Value>,
}

/// One of them.
pub(super) struct Agent {
    pub(super) transport: Transport,
    pub(super) host: String,
    number: usize,
    known: Value,
}

impl Agent {
    /// From 0 to 1, another one for each.
    pub(super) fn chance(&self) -> f64 {
        f64::from(u32::try_from(self.number * 7919 % 1000).unwrap_or_default()) / 1000.0
    }
}

/// Measures.
pub(super) fn run(cloud: &Cloud<'_>, agents: usize, more_ports: usize) -> Result<Storms> {
    fill(cloud, agents)?;
    let group = cloud.group()?;
    netns::inside(cloud.rig.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("a tokio runtime"))?;
        runtime.block_on(async {
            let mut crowd = Crowd::start(&cloud.rig.transport_url(), agents, &group).await?;
            let storms = Storms {
                sync_storm: crowd.storm(cloud).await?,
                server_restart: restart::run(&crowd, cloud).await?,
                rule_storm: crowd::rule(&mut crowd, cloud, &group).await?,
                port_storm: crowd::ports(&mut crowd, cloud, more_ports).await?,
            };
            crowd.end().await;
            Ok(storms)
        })
    })?
}

impl Crowd {
    async fn start(url: &str, agents: usize, group: &str) -> Result<Self> {
        let transports: Vec<Transport> = (0..agents.div_ceil(SHARED))
            .map(|_| connect(url))
            .collect::<Result<_>>()?;
        let listeners = (0..agents).filter_map(|number| {
            let keys = [
                format!("l2isolate-agent.storm{number}"),
                format!("l2isolate-group.{group}"),
            ];
            let transport = transports.get(number / SHARED)?;
            Some(transport.inbox("l2isolate-agent", 20_000, keys.into()))
        });
        let crowd = Self {
            listeners: listeners.collect(),
            transports,
            known: vec![json!({}); agents],
        };
        for (inbox, _) in &crowd.listeners {
            bound(inbox, 0).await?;
        }
        Ok(crowd)
    }

    /// One of them, as it is now.
    pub(super) fn agent(&self, number: usize) -> Result<Agent> {
        let transport = self.transports.get(number / SHARED).cloned();
        let known = self.known.get(number).cloned();
        match (transport, known) {
            (Some(transport), Some(known)) => Ok(Agent {
                transport,
                host: format!("storm{number}"),
                number,
                known,
            }),
            _ => Err(Error::Program(format!("no agent {number}"))),
        }
    }

    async fn end(self) {
        for transport in &self.transports {
            transport.close().await;
        }
    }

    /// All agents ask, knowing nothing; and again after the broker was killed.
    async fn storm(&mut self, cloud: &Cloud<'_>) -> Result<Storm> {
        let (before, start) = (cloud.server_cpu()?, Instant::now());
        let first = self.all(0).await?;
        let first_s = start.elapsed().as_secs_f64();
        let first_cpu = cloud.server_cpu()? - before;
        progress(&format!(
            "  first time: {first_s:.1} s, {first_cpu:.1} s of processor time, {first:?}"
        ));
        let broker = cloud.rig.broker();
        blocking(move || broker.kill().and_then(|()| broker.start())).await?;
        let (before, start) = (cloud.server_cpu()?, Instant::now());
        let again = self.all(1).await?;
        let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        let storm = Storm {
            agents: self.known.len(),
            server_cpu_s: stats::rounded(cloud.server_cpu()? - before),
            all_synced_s: stats::rounded(start.elapsed().as_secs_f64()),
            all_bound_s: stats::rounded(again.bound.map_or(0.0, since)),
            failed_calls: again.failed,
            bytes: again.bytes,
            first_server_cpu_s: stats::rounded(first_cpu),
            first_all_synced_s: stats::rounded(first_s),
        };
        progress(&format!("  {storm:?}"));
        Ok(storm)
    }

    /// Each agent waits for a queue after that one, and asks.
    async fn all(&mut self, queue: u64) -> Result<Round> {
        let round = Arc::new(Mutex::new(Round::default()));
        let mut tasks = tokio::task::JoinSet::new();
        for (number, (inbox, _)) in self.listeners.iter().enumerate() {
            let (agent, round) = (self.agent(number)?, Arc::clone(&round));
            let queue = wait(inbox.bound(), queue);
            tasks.spawn(async move {
                queue.await?;
                round.lock().unwrap_or_else(PoisonError::into_inner).bound = Some(Instant::now());
                tokio::time::sleep(SPREAD.mul_f64(agent.chance())).await;
                let known = sync(&agent, &round).await?;
                Ok::<_, Error>((number, known))
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (number, learnt) = done.map_err(|e| Error::Program(e.to_string()))??;
            if let Some(known) = self.known.get_mut(number) {
                *known = learnt;
            }
        }
        let mut round = round.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *round))
    }
}

/// Until there is a queue after that one.
pub(super) fn bound(inbox: &Inbox, after: u64) -> impl Future<Output = Result<()>> + use<> {
    wait(inbox.bound(), after)
}

async fn wait(mut bound: watch::Receiver<Option<Bound>>, after: u64) -> Result<()> {
    let newer = |bound: &Option<Bound>| bound.as_ref().is_some_and(|b| b.queue > after);
    let waited = tokio::time::timeout(LIMIT, bound.wait_for(newer)).await;
    match waited {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Error::Program("no queue can be had".to_owned())),
    }
}

/// Does what would keep the played agents from hearing.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::Program(e.to_string()))?
}

/// Writes ports into the database.
fn fill(cloud: &Cloud<'_>, agents: usize) -> Result<()> {
    let ports = agents * PORTS;
    let groups = ports.div_ceil(IN_GROUP);
    let (network, subnet) = (&cloud.network, &cloud.subnet);
    let mut sql = String::from("set @first = (select max(id) + 1 from standardattributes);\n");
    let last = ports + groups;
    // Numbers from 1: ports first, then groups. What an id is made from says so.
    let _ = writeln!(
        sql,
        "insert into standardattributes (id, resource_type, created_at, updated_at,
            revision_number)
         select @first + seq, if(seq <= {ports}, 'ports', 'securitygroups'), now(), now(), 3
         from seq_1_to_{last};
         insert into securitygroups (id, project_id, name, standard_attr_id, stateful)
         select concat('0000beef-0000-4000-8000-', lpad(hex(seq), 12, '0')), 'p', 'storm',
            @first + {ports} + seq, 1 from seq_1_to_{groups};
         insert into securitygrouprules (id, project_id, security_group_id, direction,
            ethertype, protocol, port_range_min, port_range_max, standard_attr_id)
         select concat('0000f00d-0000-4000-8000-', lpad(hex(seq), 12, '0')), 'p',
            concat('0000beef-0000-4000-8000-', lpad(hex(seq), 12, '0')), 'ingress', 'IPv4',
            'tcp', 22, 22, @first + {ports} + seq from seq_1_to_{groups};
         insert into ports (id, project_id, network_id, name, mac_address, admin_state_up,
            status, device_id, device_owner, standard_attr_id)
         select concat(lpad(hex(seq), 8, '0'), '-0000-4000-8000-00000000cafe'), 'p', '{network}',
            '', concat('fa:17:', insert(insert(insert(lpad(hex(seq), 8, '0'), 7, 0, ':'), 5, 0,
            ':'), 3, 0, ':')), 1, 'ACTIVE', 'vm', 'compute:nova', @first + seq
         from seq_1_to_{ports};
         insert into ipallocations (port_id, ip_address, subnet_id, network_id)
         select concat(lpad(hex(seq), 8, '0'), '-0000-4000-8000-00000000cafe'),
            inet_ntoa(inet_aton('10.253.0.0') + seq), '{subnet}', '{network}'
         from seq_1_to_{ports};
         insert into ml2_port_bindings (port_id, host, vif_type, vnic_type, profile,
            vif_details, status)
         select concat(lpad(hex(seq), 8, '0'), '-0000-4000-8000-00000000cafe'),
            concat('storm', (seq - 1) div {PORTS}), 'tap', 'normal', '', '', 'ACTIVE'
         from seq_1_to_{ports};
         insert into securitygroupportbindings (port_id, security_group_id)
         select concat(lpad(hex(seq), 8, '0'), '-0000-4000-8000-00000000cafe'),
            concat('0000beef-0000-4000-8000-',
            lpad(hex((seq - 1) div {IN_GROUP} + 1), 12, '0')) from seq_1_to_{ports};"
    );
    cloud.rig.sql(&sql)?;
    let made = cloud.count("select count(*) from ml2_port_bindings where host like 'storm%'")?;
    if made == ports {
        return Ok(());
    }
    Err(Error::Program(format!("{made} ports of {ports} are there")))
}

/// One agent asks, until it has everything. Returns what it knows then.
pub(super) async fn sync(agent: &Agent, round: &Mutex<Round>) -> Result<Value> {
    let client = agent.transport.client(Target::new("l2isolate"));
    let Agent { host, known, .. } = agent;
    for tried in 0..10 {
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        if tried > 0 {
            // As in the agent: doubling, and not all at once.
            let pause = RETRY.saturating_mul(1 << (tried - 1)).min(RETRY_MOST);
            tokio::time::sleep(pause.mul_f64(0.5 + agent.chance())).await;
        }
        let arguments = json!({"host": host, "digests": known});
        let reply = call(&client, "sync", arguments).await;
        let mut round = round.lock().unwrap_or_else(PoisonError::into_inner);
        match reply {
            Ok(reply) => {
                round.bytes += reply.to_string().len();
                return learn(host, known.clone(), &reply);
            }
            Err(_) => round.failed += 1,
        }
    }
    Err(Error::Program(format!("{host} is never answered")))
}

/// What it knows by an answer.
fn learn(host: &str, mut digests: Value, reply: &Value) -> Result<Value> {
    for list in ["ports", "subnets", "groups", "address_groups"] {
        let objects = reply.get(list).and_then(Value::as_array);
        for object in objects.into_iter().flatten() {
            let text = |key| {
                object
                    .get(key)
                    .and_then(Value::as_str)
                    .map(ToOwned::to_owned)
            };
            let kinds = digests.as_object_mut();
            let kind = kinds.map(|k| k.entry(list).or_insert_with(|| Map::new().into()));
            if let (Some(Value::Object(kind)), Some(id), Some(digest)) =
                (kind, text("id"), text("digest"))
            {
                kind.insert(id, digest.into());
            }
        }
    }
    let ports = digests.get("ports").and_then(Value::as_object);
    if ports.map(Map::len) == Some(PORTS) {
        return Ok(digests);
    }
    Err(Error::Program(format!("{host} was told {reply}")))
}

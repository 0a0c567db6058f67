//! All agents of a cloud lose the broker and ask for everything at once.
//!
//! The ports are written into the database as Neutron would, since making them
//! by its API takes hours. The agents ask as real ones do after a broker's
//! restart: within five seconds, by chance, each with one call at a time; they
//! know what they had.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use l2isolate_oslo::{Target, Transport};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    super::stats,
    Cloud,
    boot::{call, connect},
};
use crate::{Error, Result, lab::progress, netns};

/// Ports of an agent.
const PORTS: usize = 20;
/// Ports of a group.
const IN_GROUP: usize = 200;
/// So many agents share a connection: a socket for each would say more of this
/// machine than of the server.
const SHARED: usize = 50;
/// Within which agents come back, as in the agent.
const SPREAD: Duration = Duration::from_secs(5);

/// The outcome.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Storm {
    /// How many agents.
    pub agents: usize,
    /// Processor time of all of Neutron's processes.
    pub server_cpu_s: f64,
    /// From the broker's return until the last has its answer.
    pub all_synced_s: f64,
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
struct Round {
    failed: usize,
    bytes: usize,
}

/// Measures.
pub(super) fn run(cloud: &Cloud<'_>, agents: usize) -> Result<Storm> {
    fill(cloud, agents)?;
    let known: Vec<Value> = vec![json!({}); agents];
    let (first, known, first_s, first_cpu) = measure(cloud, known)?;
    progress(&format!(
        "  first time: {first_s:.1} s, {first_cpu:.1} s of processor time, {first:?}"
    ));
    let (again, _, again_s, again_cpu) = measure(cloud, known)?;
    Ok(Storm {
        agents,
        server_cpu_s: stats::rounded(again_cpu),
        all_synced_s: stats::rounded(again_s),
        failed_calls: again.failed,
        bytes: again.bytes,
        first_server_cpu_s: stats::rounded(first_cpu),
        first_all_synced_s: stats::rounded(first_s),
    })
}

/// What came of a round, what each agent knows afterwards, and what it took.
fn measure(cloud: &Cloud<'_>, known: Vec<Value>) -> Result<(Round, Vec<Value>, f64, f64)> {
    let before = cloud.server_cpu()?;
    let start = Instant::now();
    let (round, known) = netns::inside(cloud.rig.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("a tokio runtime"))?;
        runtime.block_on(all(&cloud.rig.transport_url(), known))
    })??;
    let took = start.elapsed().as_secs_f64();
    Ok((round, known, took, cloud.server_cpu()? - before))
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

async fn all(url: &str, known: Vec<Value>) -> Result<(Round, Vec<Value>)> {
    let connections = known.len().div_ceil(SHARED);
    let transports: Vec<Transport> = (0..connections)
        .map(|_| connect(url))
        .collect::<Result<_>>()?;
    let round = Arc::new(Mutex::new(Round::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for (number, digests) in known.iter().enumerate() {
        let Some(transport) = transports.get(number / SHARED) else {
            continue;
        };
        let (transport, round, digests) = (transport.clone(), Arc::clone(&round), digests.clone());
        tasks.spawn(async move { (number, agent(&transport, number, digests, &round).await) });
    }
    let mut known = known;
    while let Some(done) = tasks.join_next().await {
        let (number, result) = done.map_err(|e| Error::Program(e.to_string()))?;
        if let Some(known) = known.get_mut(number) {
            *known = result?;
        }
    }
    for transport in &transports {
        transport.close().await;
    }
    let round = std::mem::take(&mut *round.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((round, known))
}

/// One agent, until it has everything.
async fn agent(
    transport: &Transport,
    number: usize,
    digests: Value,
    round: &Mutex<Round>,
) -> Result<Value> {
    let chance = f64::from(u32::try_from(number * 7919 % 1000).unwrap_or_default()) / 1000.0;
    tokio::time::sleep(SPREAD.mul_f64(chance)).await;
    let client = transport.client(Target::new("l2isolate"));
    let host = format!("storm{number}");
    for _ in 0..10 {
        let arguments = json!({"host": host, "digests": digests});
        let reply = call(&client, "sync", arguments).await;
        let mut round = round.lock().unwrap_or_else(PoisonError::into_inner);
        match reply {
            Ok(reply) => {
                round.bytes += reply.to_string().len();
                return learn(&host, digests, &reply);
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

//! What many played agents hear when a group that all of them use gets a rule,
//! and when many ports are made at once.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use l2isolate_oslo::Transport;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    super::stats,
    Cloud,
    boot::report,
    storm::{Crowd, blocking},
};
use crate::{Error, Result, lab::progress, neutron::Rig, process};

/// Members of the group that all agents use, if there are so many ports.
const MEMBERS: usize = 10_000;
/// Ports are made for so many of the agents' hosts.
const HOSTS: usize = 50;
/// By so many clients at once,
const CLIENTS: usize = 4;
/// so many with one POST.
const AT_ONCE: usize = 20;
/// After this without a message all have come.
const QUIET: Duration = Duration::from_secs(3);
/// Neutron binds no port to a host whose agent hasn't reported for 75 s; real agents
/// do so every 30.
const REPORT: Duration = Duration::from_secs(20);
/// Longest wait for the first.
const LIMIT: Duration = Duration::from_secs(120);

/// A rule more.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rule {
    /// How many members the group has.
    pub members: usize,
    /// How many agents heard of it.
    pub heard: usize,
    /// From the POST until the last of them did.
    pub all_heard_s: f64,
    /// Processor time of Neutron's processes.
    pub server_cpu_s: f64,
    /// What agents received: messages,
    pub messages: usize,
    /// and bytes of bodies.
    pub bytes: usize,
}

/// Many ports.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ports {
    /// How many.
    pub ports: usize,
    /// How long Neutron's API takes for them.
    pub made_s: f64,
    /// From its last answer until the last message of them came.
    pub told_after_s: f64,
    /// Processor time of Neutron's processes, these hosts' reports among it.
    pub server_cpu_s: f64,
    /// What agents received: messages of their own ports,
    pub own: usize,
    /// and of their groups; agents that have no such port use none of these.
    pub group: usize,
    /// Messages to agents that have nothing to do with these ports.
    pub uninvolved: usize,
    /// Bytes of bodies.
    pub bytes: usize,
}

/// A rule in the group of all, which is filled for it: before, no agent's answer
/// should be as large as this group.
pub(super) async fn rule(crowd: &mut Crowd, cloud: &Cloud<'_>, group: &str) -> Result<Rule> {
    cloud.rig.sql(&format!(
        "insert into securitygroupportbindings (port_id, security_group_id)
         select id, '{group}' from ports where id like '%-00000000cafe' order by id
         limit {MEMBERS};"
    ))?;
    let members = cloud.count(&format!(
        "select count(*) from securitygroupportbindings where security_group_id = '{group}'"
    ))?;
    forget(crowd);
    let before = cloud.server_cpu()?;
    let start = Instant::now();
    let body = json!({"security_group_rule": {
        "security_group_id": group, "direction": "ingress", "ethertype": "IPv4",
        "protocol": "tcp", "port_range_min": 9000, "port_range_max": 9000,
    }});
    let rig = cloud.rig.clone();
    let post = blocking(move || ask(&rig, "security-group-rules", &body));
    let (heard, posted) = tokio::join!(hear(crowd), post);
    posted?;
    let rule = Rule {
        members,
        heard: heard.agents.iter().filter(|count| **count > 0).count(),
        all_heard_s: heard.since(start),
        server_cpu_s: stats::rounded(cloud.server_cpu()? - before),
        messages: heard.agents.iter().sum(),
        bytes: heard.bytes,
    };
    progress(&format!("  {rule:?}"));
    Ok(rule)
}

/// Many ports in a group that nobody else uses.
pub(super) async fn ports(crowd: &mut Crowd, cloud: &Cloud<'_>, count: usize) -> Result<Ports> {
    let hosts = HOSTS.min(crowd.listeners.len());
    let transport = super::boot::connect(&cloud.rig.transport_url())?;
    for host in 0..hosts {
        report(&transport, &format!("storm{host}")).await?;
    }
    let group = cloud.group()?;
    for (inbox, _) in crowd.listeners.iter().take(hosts) {
        let mut keys = inbox.bound().borrow().clone().map(|bound| bound.keys);
        if let Some(keys) = keys.take() {
            let mut keys = (*keys).clone();
            keys.insert(format!("l2isolate-group.{group}"));
            let wanted = std::sync::Arc::new(keys);
            inbox.set_keys(wanted.clone());
            let mut bound = inbox.bound();
            let all = bound.wait_for(|b| b.as_ref().is_some_and(|b| b.keys == wanted));
            let all = tokio::time::timeout(LIMIT, all).await;
            all.map_err(|_| Error::Program("a key can't be bound".to_owned()))?
                .map_err(|e| Error::Program(e.to_string()))?;
        }
    }
    forget(crowd);
    let before = cloud.server_cpu()?;
    let start = Instant::now();
    let made = (0..CLIENTS).map(|client| {
        let (rig, network, group) = (cloud.rig.clone(), cloud.network.clone(), group.clone());
        let numbers: Vec<usize> = (client..count).step_by(CLIENTS).collect();
        blocking(move || make(&rig, &network, &group, hosts, &numbers))
    });
    let mut all = tokio::task::JoinSet::new();
    for client in made {
        all.spawn(client);
    }
    let making = async {
        while let Some(done) = all.join_next().await {
            done.map_err(|e| Error::Program(e.to_string()))??;
        }
        Ok::<_, Error>(Instant::now())
    };
    let (heard, made) = tokio::select! {
        both = async { tokio::join!(hear(crowd), making) } => both,
        never = stay_alive(&transport, hosts) => match never {},
    };
    transport.close().await;
    let made = made?;
    let own = heard.own.iter().take(hosts).sum();
    let involved: usize = heard.agents.iter().take(hosts).sum();
    let ports = Ports {
        ports: count,
        made_s: stats::rounded(made.duration_since(start).as_secs_f64()),
        told_after_s: heard.since(made),
        server_cpu_s: stats::rounded(cloud.server_cpu()? - before),
        own,
        group: involved - own,
        uninvolved: heard.agents.iter().skip(hosts).sum(),
        bytes: heard.bytes,
    };
    progress(&format!("  {ports:?}"));
    Ok(ports)
}

/// The hosts' agents report, side by side as real ones do, which try again later when
/// nobody answers.
async fn stay_alive(transport: &Transport, hosts: usize) -> Infallible {
    loop {
        tokio::time::sleep(REPORT).await;
        let mut reports = tokio::task::JoinSet::new();
        for host in 0..hosts {
            let transport = transport.clone();
            reports.spawn(async move { report(&transport, &format!("storm{host}")).await });
        }
        while reports.join_next().await.is_some() {}
    }
}

fn make(rig: &Rig, network: &str, group: &str, hosts: usize, numbers: &[usize]) -> Result<()> {
    for some in numbers.chunks(AT_ONCE) {
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        let ports: Vec<Value> = some
            .iter()
            .map(|number| {
                json!({
                    "network_id": network, "device_owner": "compute:nova", "device_id": "vm",
                    "binding:host_id": format!("storm{}", number % hosts),
                    "security_groups": [group],
                })
            })
            .collect();
        ask(rig, "ports", &json!({ "ports": ports }))?;
    }
    Ok(())
}

fn ask(rig: &Rig, path: &str, body: &Value) -> Result<()> {
    let answer = rig.ask("POST", path, Some(body))?;
    if answer.status < 300 {
        return Ok(());
    }
    Err(Error::Program(format!("POST {path}: {answer:?}")))
}

/// What was heard, by agent.
struct Heard {
    agents: Vec<usize>,
    /// Of these, messages to the host itself.
    own: Vec<usize>,
    bytes: usize,
    last: Option<Instant>,
}

impl Heard {
    fn since(&self, start: Instant) -> f64 {
        let last = self.last.unwrap_or(start);
        stats::rounded(last.saturating_duration_since(start).as_secs_f64())
    }
}

/// What is on its way from before isn't counted.
fn forget(crowd: &mut Crowd) {
    for (_, casts) in &mut crowd.listeners {
        while casts.try_recv().is_ok() {}
    }
}

/// Hears until nothing comes any more.
async fn hear(crowd: &mut Crowd) -> Heard {
    let start = Instant::now();
    let count = crowd.listeners.len();
    let mut heard = Heard {
        agents: vec![0; count],
        own: vec![0; count],
        bytes: 0,
        last: None,
    };
    loop {
        let before = heard.last;
        for (((_, casts), all), own) in crowd
            .listeners
            .iter_mut()
            .zip(&mut heard.agents)
            .zip(&mut heard.own)
        {
            while let Ok(cast) = casts.try_recv() {
                *all += 1;
                *own += usize::from(cast.key.starts_with("l2isolate-agent."));
                heard.bytes += cast.bytes;
                heard.last = Some(Instant::now());
            }
        }
        let quiet = heard
            .last
            .map_or(start.elapsed() > LIMIT, |last| last.elapsed() > QUIET);
        if quiet || process::interrupted() {
            return heard;
        }
        if before == heard.last {
            tokio::time::sleep(Duration::from_millis(10)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

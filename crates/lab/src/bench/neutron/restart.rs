//! The servers end while many agents are connected, and are away for so long that
//! Neutron takes all of these for dead.
//!
//! Queues and connections of the agents stay: it is their reports that aren't
//! answered. As real ones, they report every 30 s, one call at a time, and wait
//! longer after one that wasn't answered; what Neutron ignores, since it is from
//! before its start, is said again after five seconds; who is told that it was
//! taken for dead asks for what differs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use l2isolate_oslo::Target;
use serde::Serialize;
use serde_json::Value;

use super::{
    super::stats,
    Cloud,
    boot::{call, state},
    storm::{Agent, Crowd, Round, blocking, sync},
};
use crate::{Error, Result, lab::progress, process};

/// How often an agent reports.
const INTERVAL: Duration = Duration::from_secs(30);
/// Until it says again what was ignored, as in the agent.
const IGNORED: Duration = Duration::from_secs(5);
/// So much longer than `agent_down_time` the servers are away.
const LONGER: Duration = Duration::from_secs(15);

/// What comes of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Restart {
    /// How many agents.
    pub agents: usize,
    /// How long no server was there, its start included.
    pub away_s: f64,
    /// From when all its workers serve until the last agent is known as alive
    /// again, and has its answer if it was taken for dead.
    pub all_synced_s: f64,
    /// Processor time of all of Neutron's processes for that.
    pub server_cpu_s: f64,
    /// Reports that were answered,
    pub reports: usize,
    /// of these, with nothing: they were from before the start.
    pub ignored: usize,
    /// Agents that had been taken for dead, and asked.
    pub syncs: usize,
    /// Calls that failed or weren't answered in time.
    pub failed_calls: usize,
    /// Bytes of answers to those that asked, as JSON.
    pub bytes: usize,
}

/// Measures.
pub(super) async fn run(crowd: &Crowd, cloud: &Cloud<'_>) -> Result<Restart> {
    let shared = Arc::new(Shared::default());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..crowd.known.len() {
        let agent = crowd.agent(number)?;
        tasks.spawn(live(agent, Arc::clone(&shared)));
    }
    // All have reported once by then.
    tokio::time::sleep(INTERVAL + INTERVAL).await;
    if let Some(done) = tasks.try_join_next() {
        done.map_err(|e| Error::Program(e.to_string()))??;
    }
    let down = Duration::from_secs(cloud.rig.options().agent_down_time.into()) + LONGER;
    let rig = cloud.rig.clone();
    let gone = Instant::now();
    blocking(move || rig.kill_servers()).await?;
    shared.gone.store(true, Ordering::Relaxed);
    tokio::time::sleep(down).await;
    let rig = cloud.rig.clone();
    blocking(move || rig.start_servers()).await?;
    let (before, back) = (cloud.server_cpu()?, Instant::now());
    while let Some(done) = tasks.join_next().await {
        done.map_err(|e| Error::Program(e.to_string()))??;
    }
    let (round, counts) = shared.take();
    let restart = Restart {
        agents: crowd.known.len(),
        away_s: stats::rounded(back.duration_since(gone).as_secs_f64()),
        all_synced_s: stats::rounded(back.elapsed().as_secs_f64()),
        server_cpu_s: stats::rounded(cloud.server_cpu()? - before),
        failed_calls: counts.failed + round.failed,
        bytes: round.bytes,
        reports: counts.reports,
        ignored: counts.ignored,
        syncs: counts.syncs,
    };
    progress(&format!("  {restart:?}"));
    Ok(restart)
}

/// What the agents have in common.
#[derive(Default)]
struct Shared {
    /// The servers have ended.
    gone: AtomicBool,
    counts: Mutex<Counts>,
    round: Mutex<Round>,
}

/// Since the servers ended.
#[derive(Default)]
struct Counts {
    reports: usize,
    ignored: usize,
    syncs: usize,
    failed: usize,
}

impl Shared {
    fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn take(&self) -> (Round, Counts) {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut *round), std::mem::take(&mut *counts))
    }
}

/// One agent, until the servers have gone and it is known as alive again.
async fn live(agent: Agent, shared: Arc<Shared>) -> Result<()> {
    // Its own, so that it waits longer by itself.
    let client = agent
        .transport
        .client(Target::new("q-reports-plugin").version(1, 2));
    tokio::time::sleep(INTERVAL.mul_f64(agent.chance())).await;
    loop {
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        let sent = tokio::time::Instant::now();
        let answer = call(&client, "report_state", state(&agent.host)).await;
        let mut next = sent + INTERVAL;
        if shared.gone.load(Ordering::Relaxed) {
            match answer.as_ref().map(Value::as_str) {
                Ok(None) => {
                    shared.count(|c| {
                        c.reports += 1;
                        c.ignored += 1;
                    });
                    next = tokio::time::Instant::now() + IGNORED;
                }
                Ok(Some("revived")) => {
                    shared.count(|c| {
                        c.reports += 1;
                        c.syncs += 1;
                    });
                    return sync(&agent, &shared.round).await.map(|_| ());
                }
                Ok(Some(_)) => {
                    shared.count(|c| c.reports += 1);
                    return Ok(());
                }
                Err(_) => shared.count(|c| c.failed += 1),
            }
        }
        tokio::time::sleep_until(next).await;
    }
}

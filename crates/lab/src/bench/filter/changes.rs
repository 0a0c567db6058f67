//! What changes of the intent cost, on a host with few ports and on a full one,
//! by turns.

use std::{path::Path, time::Duration};

use serde_json::Value;

use super::{
    super::stats,
    Change, Changes, Part, Times,
    cloud::{self, Intent},
    generation::Commits,
    host::{self, Host, PAUSE, Spec},
    transaction::{self, Engine},
};
use crate::{Error, Result, lab::progress, process};

/// Ports of the two hosts.
const FEW: usize = 10;
const MANY: usize = 1000;
/// Members of the large group.
const MEMBERS: usize = 10_000;
/// Changes of each kind.
const CHANGES: usize = 100;
/// Rounds with and without the stranger's set, and changes in each.
const ROUNDS: usize = 8;
const TURN: usize = 10;
/// How often all is built from nothing.
const FULL: usize = 3;
/// After a change nothing more comes if nothing came for so long.
const QUIET: Duration = Duration::from_millis(25);

/// A host with a listener to its commits.
struct Watched {
    host: Host,
    commits: Commits,
    /// The same firewall without an agent, in a namespace beside.
    engine: Engine,
    intent: Intent,
    /// How often something was changed here.
    changes: usize,
}

/// Measures what is among `parts`.
pub(super) fn run(agent: &Path, parts: &[Part], sharing: usize) -> Result<Changes> {
    let mut report = Changes::default();
    let spec = |name, ports| Spec { name, ports };
    let (lab, hosts) = host::lab(&[spec("few", FEW), spec("many", MANY)])?;
    let intent = Intent::shared(sharing, 0);
    let mut hosts = hosts.into_iter().map(|host| {
        host.make_taps(None)?;
        host.write_intent(&intent)?;
        host.replace("crowd", &cloud::crowd(1, 2, true))?;
        Ok(Watched {
            commits: Commits::listen(&host.namespace)?,
            engine: Engine::open(&host.namespace_beside("bare")?)?,
            host,
            intent,
            changes: 0,
        })
    });
    let nothing = || Error::Program("the bench has too few hosts".to_owned());
    let mut few = hosts.next().ok_or_else(nothing)??;
    let mut many = hosts.next().ok_or_else(nothing)??;
    few.host.start(agent)?;
    few.host.in_sync()?;
    let full = from_nothing(
        &many,
        agent,
        if parts.contains(&Part::Full) { FULL } else { 1 },
    )?;
    if parts.contains(&Part::Full) {
        report.full_s = stats::percentile(&full, 50).map(|t| stats::rounded(t.as_secs_f64()));
    }
    for watched in [&mut few, &mut many] {
        watched.fill_engine()?;
    }
    if parts.contains(&Part::Change) {
        change(&mut few, &mut many, &mut report)?;
    }
    if parts.contains(&Part::Member) {
        member(&mut few, &mut many, &mut report)?;
    }
    lab.down()?;
    Ok(report)
}

/// From the start of the agent, which finds no rule, to its last commit.
fn from_nothing(watched: &Watched, agent: &Path, times: usize) -> Result<Vec<Duration>> {
    let Watched { host, commits, .. } = watched;
    let mut all = Vec::new();
    for round in 0..times {
        if round > 0 {
            host.forget()?;
            process::sleep(Duration::from_secs(1))?;
        }
        commits.clear()?;
        let started = host.start(agent)?;
        host.in_sync()?;
        let (last, count) = commits.last(Duration::from_millis(200))?;
        all.push(last.saturating_duration_since(started));
        complete(watched)?;
        progress(&format!(
            "  {} ports from nothing: {:.3} s, {count} commits",
            host.vms.len(),
            last.saturating_duration_since(started).as_secs_f64(),
        ));
    }
    Ok(all)
}

/// Whether every port and every group is in the kernel.
fn complete(Watched { host, intent, .. }: &Watched) -> Result<()> {
    let rules = host.ruleset()?;
    let groups = intent.groups(host.vms.len());
    let taps = host.vms.iter().map(|vm| vm.tap.clone());
    let missing = taps
        .chain((0..groups).map(cloud::mark))
        .find(|word| !rules.contains(word));
    missing.map_or(Ok(()), |word| {
        Err(Error::Program(format!(
            "{word} is not in the kernel's rules, so its time says nothing"
        )))
    })
}

fn change(few: &mut Watched, many: &mut Watched, report: &mut Changes) -> Result<()> {
    for watched in [&mut *few, &mut *many] {
        is_felt(watched, next_groups)?;
    }
    let (seen, bare) = in_turns(few, many, next_groups)?;
    seen.show("one port's groups, from the document");
    bare.show("one port's groups, the transaction");
    report.change_ms = Change {
        p50: seen.p50(),
        growth: seen.growth(),
        beside_100k_set: beside(many)?,
    };
    report.besides.change_transaction_ms = bare.figures();
    Ok(())
}

fn member(few: &mut Watched, many: &mut Watched, report: &mut Changes) -> Result<()> {
    for watched in [&mut *few, &mut *many] {
        watched.changes += watched.changes % 2;
        watched.take(next_member)?;
        watched.changes += watched.changes % 2;
        watched.take_bare(next_member)?;
        is_felt(watched, next_member)?;
    }
    let (seen, bare) = in_turns(few, many, next_member)?;
    seen.show("one member, from the document");
    bare.show("one member, the transaction");
    report.member_ms = bare.figures();
    report.besides.member_from_document_ms = seen.figures();
    Ok(())
}

/// Times on both hosts.
#[derive(Default)]
struct Samples {
    few: Vec<Duration>,
    many: Vec<Duration>,
}

impl Samples {
    fn p50(&self) -> Option<f64> {
        stats::percentile(&self.many, 50).map(stats::ms)
    }

    fn growth(&self) -> Option<f64> {
        ratio(&self.many, &self.few)
    }

    fn figures(&self) -> Times {
        Times {
            p50: self.p50(),
            growth: self.growth(),
        }
    }

    fn show(&self, what: &str) {
        progress(&format!(
            "  {what}: p50 {} ms at {FEW} ports, {} ms at {MANY}",
            text(&self.few),
            text(&self.many)
        ));
    }
}

impl Watched {
    /// A revision that is newer than all before.
    fn revision(&mut self) -> u64 {
        self.changes += 1;
        10 + u64::try_from(self.changes).unwrap_or(u64::MAX)
    }

    /// How long from a change's document to the agent's last commit.
    fn take(&mut self, step: Step) -> Result<Duration> {
        let (name, document) = step(self)?;
        std::thread::sleep(PAUSE);
        self.commits.clear()?;
        let at = self.host.replace(&name, &document)?;
        let (last, _) = self.commits.last(QUIET)?;
        Ok(last.saturating_duration_since(at))
    }

    /// Gives the engine what the agent has.
    fn fill_engine(&mut self) -> Result<()> {
        let mut all = transaction::read(&self.host.network())?;
        all.extend(transaction::read(&cloud::crowd(1, 2, true))?);
        for (_, document) in self.intent.documents(&self.host.vms) {
            all.extend(transaction::read(&document)?);
        }
        let took = self.engine.take(all)?;
        progress(&format!(
            "  {} ports from nothing, the transaction: {:.3} s",
            self.host.vms.len(),
            took.as_secs_f64()
        ));
        Ok(())
    }

    /// How long a change takes without the agent around it.
    fn take_bare(&mut self, step: Step) -> Result<Duration> {
        let (_, document) = step(self)?;
        let changes = transaction::read(&document)?;
        std::thread::sleep(PAUSE);
        self.engine.take(changes)
    }
}

/// The next port gets another's group as well, or loses it again: name and
/// document.
fn next_groups(watched: &mut Watched) -> Result<(String, Value)> {
    let revision = watched.revision();
    let ports = watched.host.vms.len();
    let place = watched.changes / 2 % ports;
    let own = watched.intent.group_of(place, ports);
    let mut groups = vec![cloud::own(own)];
    if watched.changes.is_multiple_of(2) {
        groups.push(cloud::own((own + 1) % watched.intent.groups(ports)));
    }
    let vm = watched.host.vms.get(place);
    let vm = vm.ok_or_else(|| Error::Program("a host without ports".to_owned()))?;
    let document = cloud::port(vm, revision, &groups);
    Ok((format!("port-{place}"), document))
}

/// The large group gets a member more, or one less.
fn next_member(watched: &mut Watched) -> Result<(String, Value)> {
    let revision = watched.revision();
    let last = watched.changes.is_multiple_of(2);
    Ok(("crowd".to_owned(), cloud::crowd(revision, MEMBERS, last)))
}

/// The next change on a host.
type Step = fn(&mut Watched) -> Result<(String, Value)>;

/// Holds the change to what it is for: the rules differ, and are the same again
/// when it is taken back.
fn is_felt(watched: &mut Watched, step: Step) -> Result<()> {
    // The next one adds.
    watched.changes += 1 - watched.changes % 2;
    let before = watched.host.ruleset()?;
    watched.take(step)?;
    let changed = watched.host.ruleset()?;
    watched.take(step)?;
    if changed == before || watched.host.ruleset()? != before {
        return Err(Error::Program(
            "the kernel's rules don't follow the intent, so no time says anything".to_owned(),
        ));
    }
    Ok(())
}

/// Changes on both hosts by turns: as seen from outside, and bare.
fn in_turns(few: &mut Watched, many: &mut Watched, step: Step) -> Result<(Samples, Samples)> {
    let (mut seen, mut bare) = (Samples::default(), Samples::default());
    for _ in 0..CHANGES {
        seen.few.push(few.take(step)?);
        seen.many.push(many.take(step)?);
    }
    for _ in 0..CHANGES {
        bare.few.push(few.take_bare(step)?);
        bare.many.push(many.take_bare(step)?);
    }
    Ok((seen, bare))
}

/// Changes while a stranger's table holds a large interval set, over changes
/// while it doesn't, by turns.
fn beside(many: &mut Watched) -> Result<Option<f64>> {
    let elements: Vec<String> = (0..100_000)
        .map(|n| format!("11.{}.{}.{}", n >> 15, n >> 7 & 255, n << 1 & 255))
        .collect();
    let stranger = format!(
        "table inet stranger {{\n set large {{\n type ipv4_addr\n flags interval\n \
         elements = {{ {} }}\n }}\n}}\n",
        elements.join(", ")
    );
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for _ in 0..TURN {
            without.push(many.take(next_groups)?);
        }
        many.host.nft(&["-f", "-"], &stranger)?;
        std::thread::sleep(10 * PAUSE);
        for _ in 0..TURN {
            with.push(many.take(next_groups)?);
        }
        many.host
            .nft(&["delete", "table", "inet", "stranger"], "")?;
        std::thread::sleep(10 * PAUSE);
    }
    progress(&format!(
        "  one port's groups: {} ms without and {} ms beside a set of 100,000",
        text(&without),
        text(&with)
    ));
    Ok(ratio(&with, &without))
}

fn ratio(of: &[Duration], over: &[Duration]) -> Option<f64> {
    let (of, over) = (stats::percentile(of, 50)?, stats::percentile(over, 50)?);
    Some(stats::rounded(of.as_secs_f64() / over.as_secs_f64()))
}

fn text(samples: &[Duration]) -> String {
    let of = |percent| stats::percentile(samples, percent).map_or(0.0, stats::ms);
    format!("{} (p10 {}, p90 {})", of(50), of(10), of(90))
}

//! What is sent to Neutron and what it answers. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use l2isolate_model::{
    PortId,
    document::{self, LISTS, ObjectId},
    intent::Change,
    problem::Problem,
};
use serde_json::{Map, Value, json};

use super::{
    AGENT_TYPE,
    groups::{self, Difference, Groups},
};
use crate::Stamp;

/// Neutron's status of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Active,
    Down,
    Build,
    /// `ERROR`, or one that this agent doesn't know.
    Other,
}

impl Status {
    fn parse(text: &str) -> Self {
        match text {
            "ACTIVE" => Self::Active,
            "DOWN" => Self::Down,
            "BUILD" => Self::Build,
            _ => Self::Other,
        }
    }
}

/// An answer to `sync`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Reply {
    /// When the database was read, by its clock.
    pub(crate) read_at: Timestamp,
    /// What differs from what was named, each with its stamp, also where the
    /// object itself can't be used.
    pub(crate) objects: Vec<(ObjectId, Change, Option<Stamp>)>,
    /// What was named and isn't there.
    pub(crate) gone: BTreeSet<ObjectId>,
    pub(crate) statuses: BTreeMap<PortId, Status>,
    /// It was cut: ask again at once.
    pub(crate) more: bool,
    /// Who else reports under this host's name.
    pub(crate) other_agent: Option<String>,
    /// Entries without a readable id.
    pub(crate) unidentified: Vec<Problem>,
    /// Groups and address groups as they came.
    pub(crate) groups: BTreeMap<ObjectId, Map<String, Value>>,
}

/// What was cast.
#[derive(Debug, PartialEq)]
pub(crate) struct News {
    /// Who sent it, and how many messages it has sent to this key.
    pub(crate) sender: String,
    pub(crate) number: u64,
    pub(crate) objects: Vec<(ObjectId, Change, Option<Stamp>)>,
    /// What isn't there, and when that was read.
    pub(crate) gone: Vec<(ObjectId, Timestamp)>,
    pub(crate) statuses: BTreeMap<PortId, Status>,
    pub(crate) differences: Vec<Difference>,
}

/// Where objects come from, in problems.
const ORIGIN: &str = "neutron";

/// Arguments of `sync`.
pub(crate) fn sync<'a>(
    host: &str,
    process: &str,
    digests: impl Iterator<Item = (&'a ObjectId, &'a str)>,
    only: bool,
) -> Map<String, Value> {
    let mut kinds: BTreeMap<&str, Map<String, Value>> =
        LISTS.iter().map(|list| (*list, Map::new())).collect();
    for (id, digest) in digests {
        if let Some(kind) = kinds.get_mut(id.list()) {
            kind.insert(id.as_str().to_owned(), digest.into());
        }
    }
    let mut arguments = object(json!({ "host": host, "process": process, "digests": kinds }));
    if only {
        arguments.insert("only".to_owned(), true.into());
    }
    arguments
}

/// Reads the answer.
///
/// # Errors
/// Words: why nothing of it can be used.
pub(crate) fn reply(mut value: Value) -> Result<Reply, String> {
    let Value::Object(root) = &mut value else {
        return Err("the answer to sync is no object".to_owned());
    };
    let read_at = moment(root.get("read_at")).ok_or("the answer to sync has no time read_at")?;
    let mut gone = BTreeSet::new();
    let lists = root.remove("gone").unwrap_or_default();
    for list in LISTS {
        let entries = lists.get(list).and_then(Value::as_array);
        let ids = entries.into_iter().flatten();
        let ids = ids.filter_map(|entry| ObjectId::in_list(list, entry.get("id")?.as_str()?));
        gone.extend(ids);
    }
    let mut statuses = BTreeMap::new();
    if let Some(Value::Object(all)) = root.remove("statuses") {
        for (id, status) in all {
            if let (Ok(id), Some(status)) = (id.parse(), status.as_str()) {
                statuses.insert(id, Status::parse(status));
            }
        }
    }
    let more = root.get("more").and_then(Value::as_bool).unwrap_or(false);
    let other_agent = root.remove("other_agent").map(|other| match other {
        Value::String(process) => process,
        other => other.to_string(),
    });
    let stamps = stamps(root);
    let groups = groups(root);
    let document = document::from_value(value, ORIGIN).map_err(|problem| problem.to_string())?;
    let objects = document.objects.into_iter().map(|(id, change)| {
        let stamp = stamps.get(&id).cloned();
        (id, change, stamp)
    });
    Ok(Reply {
        read_at,
        objects: objects.collect(),
        gone,
        statuses,
        more,
        other_agent,
        unidentified: document.unidentified,
        groups,
    })
}

/// Reads what was cast.
///
/// # Errors
/// Words: why nothing of it can be used.
pub(crate) fn news(mut value: Value) -> Result<News, String> {
    let root = value.as_object_mut().ok_or("it is no object")?;
    let sender = root.get("sender").and_then(Value::as_str);
    let sender = sender.ok_or("it has no sender")?.to_owned();
    let number = root.get("number").and_then(Value::as_u64);
    let number = number.ok_or("it has no number")?;
    let gone = root.remove("gone").unwrap_or_default();
    let changed = root.remove("changed").unwrap_or_default();
    let entries = |lists: &Value, list: &'static str| match lists.get(list) {
        Some(Value::Array(entries)) => entries.clone(),
        _ => Vec::new(),
    };
    let mut ended = Vec::new();
    let mut differences = Vec::new();
    for list in LISTS {
        for entry in entries(&gone, list) {
            ended.extend(named(list, &entry).zip(moment(entry.get("read_at"))));
        }
        for entry in entries(&changed, list) {
            differences.extend(difference(list, entry));
        }
    }
    let ports = root.get("ports").and_then(Value::as_array);
    let status = |port: &Value| {
        let status = port.get("status")?.as_str()?;
        Some((
            port.get("id")?.as_str()?.parse().ok()?,
            Status::parse(status),
        ))
    };
    let statuses = ports.into_iter().flatten().filter_map(status).collect();
    let stamps = stamps(root);
    let document = document::from_value(value, ORIGIN).map_err(|problem| problem.to_string())?;
    let objects = document.objects.into_iter().map(|(id, change)| {
        let stamp = stamps.get(&id).cloned();
        (id, change, stamp)
    });
    Ok(News {
        sender,
        number,
        objects: objects.collect(),
        gone: ended,
        statuses,
        differences,
    })
}

/// A single object, as differences made it.
pub(crate) fn object_of(id: &ObjectId, fields: Map<String, Value>) -> Option<Change> {
    let document = json!({ "version": document::VERSION, id.list(): [fields] });
    let document = document::from_value(document, ORIGIN).ok()?;
    document
        .objects
        .into_iter()
        .next()
        .map(|(_, change)| change)
}

fn named(list: &str, entry: &Value) -> Option<ObjectId> {
    ObjectId::in_list(list, entry.get("id")?.as_str()?)
}

fn moment(value: Option<&Value>) -> Option<Timestamp> {
    value?.as_str()?.parse().ok()
}

fn difference(list: &str, entry: Value) -> Option<Difference> {
    let id = named(list, &entry)?;
    Groups::list(&id)?;
    let mut fields = object(entry);
    let stamp = Stamp {
        digest: fields.get("digest")?.as_str()?.to_owned(),
        read_at: moment(fields.get("read_at"))?,
    };
    let mut elements = |key| {
        let elements = fields.remove(key);
        let elements = elements.as_ref().and_then(Value::as_array);
        let texts = elements.into_iter().flatten();
        texts.filter_map(groups::text).collect()
    };
    let (added, removed) = (elements("added"), elements("removed"));
    let whole = fields.remove("whole") == Some(Value::Bool(true));
    Some(Difference {
        id,
        stamp,
        added,
        removed,
        fields: whole.then_some(fields),
    })
}

fn groups(root: &Map<String, Value>) -> BTreeMap<ObjectId, Map<String, Value>> {
    let mut groups = BTreeMap::new();
    for list in ["groups", "address_groups"] {
        let entries = root.get(list).and_then(Value::as_array);
        for entry in entries.into_iter().flatten() {
            if let (Some(id), Value::Object(fields)) = (named(list, entry), entry) {
                groups.insert(id, fields.clone());
            }
        }
    }
    groups
}

fn stamps(root: &Map<String, Value>) -> BTreeMap<ObjectId, Stamp> {
    let mut stamps = BTreeMap::new();
    for list in LISTS {
        let entries = root.get(list).and_then(Value::as_array);
        for entry in entries.into_iter().flatten() {
            let text = |key| entry.get(key).and_then(Value::as_str);
            let stamp = || {
                Some(Stamp {
                    digest: text("digest")?.to_owned(),
                    read_at: text("read_at")?.parse().ok()?,
                })
            };
            let id = text("id").and_then(|id| ObjectId::in_list(list, id));
            if let (Some(id), Some(stamp)) = (id, stamp()) {
                stamps.insert(id, stamp);
            }
        }
    }
    stamps
}

/// Arguments of `report_state`. `time` is in UTC, as the server compares it
/// with its own start.
pub(crate) fn report_state(
    host: &str,
    start: bool,
    configurations: &Map<String, Value>,
    time: Timestamp,
) -> Map<String, Value> {
    let mut state = object(json!({
        "agent_type": AGENT_TYPE,
        "binary": "l2isolate",
        "host": host,
        // What an agent says that isn't talked to by topic.
        "topic": "N/A",
        "configurations": configurations,
        "uuid": format!("{:032x}", fastrand::u128(..)),
    }));
    if start {
        state.insert("start_flag".to_owned(), true.into());
    }
    object(json!({
        "agent_state": { "agent_state": state },
        "time": time.strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string(),
    }))
}

/// Arguments of `update_device_list`.
pub(crate) fn update_device_list<'a>(
    host: &str,
    up: impl Iterator<Item = &'a PortId>,
    down: impl Iterator<Item = &'a PortId>,
) -> Map<String, Value> {
    let up: Vec<&str> = up.map(PortId::as_str).collect();
    let down: Vec<&str> = down.map(PortId::as_str).collect();
    object(json!({
        "devices_up": up,
        "devices_down": down,
        "agent_id": format!("l2isolate-{host}"),
        "host": host,
    }))
}

/// Those that the server couldn't take, from the answer.
pub(crate) fn failed_devices(value: &Value) -> BTreeSet<PortId> {
    let list = |key| value.get(key).and_then(Value::as_array);
    let both = [list("failed_devices_up"), list("failed_devices_down")];
    let ids = both.into_iter().flatten().flatten();
    ids.filter_map(|id| id.as_str()?.parse().ok()).collect()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of docs/neutron-wire.md, shortened.
    #[test]
    fn an_answer_is_read() {
        let answer = json!({
            "version": 1, "read_at": "2026-11-24T16:37:00.123456Z",
            "ports": [{
                "id": "p1", "revision": 7, "mac": "fa:16:3e:5a:10:01", "status": "DOWN",
                "read_at": "2026-11-24T16:37:00.123456Z", "digest": "9f86",
                "addresses": [{"address": "10.252.1.10", "subnet": "s1"}],
            }, {
                "id": "p2", "mac": "nonsense", "read_at": "2026-11-24T16:37:00.123456Z",
                "digest": "aaaa",
            }],
            "subnets": [], "groups": [], "address_groups": [{"addresses": []}],
            "gone": {"ports": [{"id": "p3", "read_at": "2026-11-24T16:37:00.123456Z"}],
                     "subnets": [{"id": "s9"}], "groups": [], "address_groups": []},
            "statuses": {"p1": "DOWN", "p4": "ACTIVE", "p5": "NEW"},
            "more": false, "other_agent": "6f0d", "later": {"unknown": 1},
        });
        let reply = reply(answer).unwrap();
        let [
            (first, Change::Set { .. }, Some(stamp)),
            (second, Change::Bad(problem), Some(bad)),
        ] = &reply.objects[..]
        else {
            panic!("{reply:?}");
        };
        assert_eq!((first.as_str(), second.as_str()), ("p1", "p2"));
        assert_eq!((&*stamp.digest, &*bad.digest), ("9f86", "aaaa"));
        assert_eq!(problem.field, "mac");
        let gone: Vec<_> = reply.gone.iter().map(ToString::to_string).collect();
        assert_eq!(gone, ["subnet s9", "port p3"]);
        let status = |id: &str| reply.statuses.get(&id.parse().unwrap()).copied();
        assert_eq!(status("p4"), Some(Status::Active));
        assert_eq!(status("p5"), Some(Status::Other));
        assert_eq!(reply.other_agent.as_deref(), Some("6f0d"));
        assert_eq!(reply.unidentified.len(), 1);
        assert!(!reply.more);
    }

    #[test]
    fn an_answer_that_is_none_is_named() {
        for (answer, part) in [
            (json!(null), "no object"),
            (json!({"version": 1}), "read_at"),
            (
                json!({"version": 2, "read_at": "2026-11-24T16:37:00Z"}),
                "version",
            ),
            (
                json!({"version": 1, "read_at": "2026-11-24T16:37:00Z", "ports": 1}),
                "ports",
            ),
        ] {
            let reason = reply(answer).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        }
    }

    /// Neutron parses the time with exactly this format, microseconds included.
    #[test]
    fn a_report_looks_like_other_agents() {
        let time = "2026-11-24T16:37:00.5+02:00".parse().unwrap();
        let report = report_state("hv1", true, &Map::new(), time);
        assert_eq!(report["time"], "2026-11-24T14:37:00.500000");
        let state = &report["agent_state"]["agent_state"];
        assert_eq!(state["start_flag"], true);
        assert_eq!(state["topic"], "N/A");
        assert!(state.get("resource_versions").is_none());
        let later = report_state("hv1", false, &Map::new(), time);
        assert!(
            later["agent_state"]["agent_state"]
                .get("start_flag")
                .is_none()
        );
    }
}

//! The chains of a profile: what judges the packets of all ports that have the
//! same security groups.
//!
//! A port's map entries lead to its group's chains, or if it has several, to the
//! chains of its profile, which ask one after the other. So a change of the
//! port's groups changes two entries, and the number of chains depends on how
//! many groups and combinations of groups there are, not on how many ports.

use std::sync::Arc;

use l2isolate_model::{
    GroupId,
    filter::{Chain, Key, Name, Objects, Table, Term, Value},
    group::Direction,
    port::CheckedPort,
};

use super::names;

/// The groups that some ports have together, in order and each once.
pub type Profile = Arc<[GroupId]>;

/// The profile of a port; `None`: groups don't matter for it.
pub(crate) fn of(port: &CheckedPort) -> Option<Profile> {
    let port = &port.port;
    if !port.admin_state_up || !port.port_security {
        return None;
    }
    let mut groups = port.groups.clone();
    groups.sort();
    groups.dedup();
    Some(groups.into())
}

/// What judges a port of this profile; `None`: nobody, so all is refused.
pub(crate) fn judge(profile: &Profile, direction: Direction) -> Option<Name> {
    match profile.as_ref() {
        [] => None,
        [group] => Some(names::group(group, direction)),
        _ => Some(names::profile(profile, direction)),
    }
}

/// Plans a profile's chains, if it needs any.
pub(crate) fn plan(profile: &Profile) -> Objects {
    if profile.len() < 2 {
        return Objects::new();
    }
    let chain = |direction| {
        let ask = |group| vec![Term::Jump(names::group(group, direction))];
        let rules = profile.iter().map(ask).collect();
        let key = Key::Chain(Table::Inet, names::profile(profile, direction));
        (key, Value::Chain(Chain { hook: None, rules }))
    };
    [Direction::Egress, Direction::Ingress]
        .map(chain)
        .into_iter()
        .collect()
}

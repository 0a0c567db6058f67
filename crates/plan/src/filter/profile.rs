//! The chains of a profile: what judges the packets of all ports that have the
//! same security groups.
//!
//! A port's map entries lead to its profile's chains, so that a change of the
//! port's groups changes two entries, and the number of chains depends on how
//! many combinations of groups there are, not on how many ports.

use std::sync::Arc;

use l2isolate_model::{
    GroupId,
    filter::{Chain, Key, Objects, Table, Term, Value},
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

/// Plans a profile's chains. `stateful`: none of its groups is stateless.
pub(crate) fn plan(profile: &Profile, stateful: bool) -> Objects {
    let ways = [
        (Direction::Egress, names::FIRST_FROM, names::REFUSED_FROM),
        (Direction::Ingress, names::FIRST_TO, names::REFUSED_TO),
    ];
    let chain = |(direction, first, refused)| {
        let jump = |chain| vec![Term::Jump(chain)];
        let mut rules = Vec::with_capacity(profile.len() + 3);
        if stateful {
            rules.push(vec![Term::Known, Term::Accept]);
        }
        rules.push(jump(names::fixed(first)));
        rules.extend(
            profile
                .iter()
                .map(|group| jump(names::group(group, direction))),
        );
        rules.push(jump(names::fixed(refused)));
        let key = Key::Chain(Table::Inet, names::profile(profile, direction));
        (key, Value::Chain(Chain { hook: None, rules }))
    };
    ways.map(chain).into_iter().collect()
}

//! Everything the cloud wants on this host, and what of it can be had.
//!
//! The store keeps for each object the last version that passed its checks: a
//! bad change is reported and changes nothing. Two ports that claim the same
//! tap or address are settled here, the same way everywhere: the one created
//! first has it, ties go to the smaller id.
//!
//! The cost of a change depends on what it touches (the port, the ports of the
//! subnet, those it is in conflict with), not on how much else there is.

mod entry;
mod settle;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use entry::Claim;
pub use entry::PortEntry;

use crate::{
    AddressGroupId, GroupId, IfName, PortId, SubnetId,
    document::{Object, ObjectId},
    group::{AddressGroup, Group},
    port::{CheckedPort, Port},
    problem::Problem,
    subnet::Subnet,
};

/// What happened to one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new, or another.
    Set {
        /// The object, whole.
        object: Object,
        /// The file or message it came from.
        origin: Arc<str>,
    },
    /// It is there, but can't be read: what was known of it stays.
    Bad(Problem),
    /// It is gone.
    Gone,
}

/// What an update came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Taps whose plan may be another one now.
    pub taps: BTreeSet<IfName>,
    /// Objects that are now in force in this version.
    pub accepted: Vec<Object>,
    /// Objects that are no longer there.
    pub gone: Vec<ObjectId>,
    /// What has become wrong with objects that could be read.
    pub problems: Vec<Problem>,
}

impl Outcome {
    fn note_gone(&mut self, change: &Change, id: impl FnOnce() -> ObjectId) {
        if *change == Change::Gone {
            self.gone.push(id());
        }
    }
}

/// The store.
#[derive(Debug, Default)]
pub struct Intent {
    subnets: BTreeMap<SubnetId, Entry<Subnet>>,
    groups: BTreeMap<GroupId, Entry<Group>>,
    address_groups: BTreeMap<AddressGroupId, Entry<AddressGroup>>,
    ports: BTreeMap<PortId, PortEntry>,
    /// Ports that want an address from a subnet, known or not.
    users: BTreeMap<SubnetId, BTreeSet<PortId>>,
    claims: BTreeMap<Claim, BTreeSet<PortId>>,
    /// Subnets that are gone at the source, but stay in force for their ports.
    leaving: BTreeMap<SubnetId, Problem>,
}

#[derive(Debug)]
struct Entry<T> {
    /// The version in force.
    good: Option<Arc<T>>,
    /// Why the newest version isn't.
    problem: Option<Problem>,
}
impl Intent {
    /// Takes changes in.
    pub fn update(&mut self, changes: impl IntoIterator<Item = (ObjectId, Change)>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut dirty: BTreeSet<PortId> = BTreeSet::new();
        let mut gone: BTreeSet<PortId> = BTreeSet::new();
        for (id, change) in changes {
            match id {
                ObjectId::Port(id) => {
                    if change == Change::Gone {
                        gone.insert(id.clone());
                        outcome.gone.push(ObjectId::Port(id.clone()));
                    } else {
                        gone.remove(&id);
                    }
                    self.set_port(&id, change);
                    dirty.insert(id);
                }
                ObjectId::Subnet(id) => {
                    if change == Change::Gone {
                        let problem = Problem {
                            object: ObjectId::Subnet(id.clone()).to_string(),
                            reason: "is gone, but ports have addresses of it: it stays in force for them".to_owned(),
                            ..Problem::default()
                        };
                        self.leaving.insert(id, problem);
                        continue;
                    }
                    self.leaving.remove(&id);
                    let object = |o| {
                        if let Object::Subnet(o) = o {
                            Some(o)
                        } else {
                            None
                        }
                    };
                    if let Some(new) = set(&mut self.subnets, &id, change, object) {
                        dirty.extend(self.users.get(&id).into_iter().flatten().cloned());
                        outcome.accepted.push(Object::Subnet(new));
                    }
                }
                ObjectId::Group(id) => {
                    let object = |o| {
                        if let Object::Group(o) = o {
                            Some(o)
                        } else {
                            None
                        }
                    };
                    outcome.note_gone(&change, || ObjectId::Group(id.clone()));
                    let new = set(&mut self.groups, &id, change, object);
                    outcome.accepted.extend(new.map(Object::Group));
                }
                ObjectId::AddressGroup(id) => {
                    let object = |o| {
                        if let Object::AddressGroup(o) = o {
                            Some(o)
                        } else {
                            None
                        }
                    };
                    outcome.note_gone(&change, || ObjectId::AddressGroup(id.clone()));
                    let new = set(&mut self.address_groups, &id, change, object);
                    outcome.accepted.extend(new.map(Object::AddressGroup));
                }
            }
        }
        self.settle(&dirty, &gone, &mut outcome);
        self.release_subnets(&mut outcome);
        outcome
    }

    /// Lets subnets go that are gone at the source and that no port uses.
    fn release_subnets(&mut self, outcome: &mut Outcome) {
        let users = &self.users;
        let idle: Vec<SubnetId> = self
            .leaving
            .keys()
            .filter(|id| !users.contains_key(*id))
            .cloned()
            .collect();
        for id in idle {
            self.leaving.remove(&id);
            self.subnets.remove(&id);
            outcome.gone.push(ObjectId::Subnet(id));
        }
    }

    /// The port that has the tap, if one has.
    #[must_use]
    pub fn on_tap(&self, tap: IfName) -> Option<&Arc<CheckedPort>> {
        let claimants = self.claims.get(&Claim::Tap(tap))?;
        claimants
            .iter()
            .find_map(|id| self.ports.get(id)?.effective())
    }

    /// All ports, by id.
    pub fn ports(&self) -> impl ExactSizeIterator<Item = (&PortId, &PortEntry)> {
        self.ports.iter()
    }

    /// One port.
    #[must_use]
    pub fn port(&self, id: &PortId) -> Option<&PortEntry> {
        self.ports.get(id)
    }

    /// The security group in force.
    #[must_use]
    pub fn group(&self, id: &GroupId) -> Option<&Arc<Group>> {
        self.groups.get(id)?.good.as_ref()
    }

    /// The address group in force.
    #[must_use]
    pub fn address_group(&self, id: &AddressGroupId) -> Option<&Arc<AddressGroup>> {
        self.address_groups.get(id)?.good.as_ref()
    }

    /// The subnet in force.
    #[must_use]
    pub fn subnet(&self, id: &SubnetId) -> Option<&Arc<Subnet>> {
        self.subnets.get(id)?.good.as_ref()
    }

    /// Every object there is, also those that are only known as bad.
    pub fn ids(&self) -> impl Iterator<Item = ObjectId> {
        let subnets = self.subnets.keys().cloned().map(ObjectId::Subnet);
        let groups = self.groups.keys().cloned().map(ObjectId::Group);
        let address_groups = self
            .address_groups
            .keys()
            .cloned()
            .map(ObjectId::AddressGroup);
        let ports = self.ports.keys().cloned().map(ObjectId::Port);
        subnets.chain(groups).chain(address_groups).chain(ports)
    }

    /// What is wrong with the objects.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        let subnets = self.subnets.values().filter_map(|e| e.problem.as_ref());
        let groups = self.groups.values().filter_map(|e| e.problem.as_ref());
        let address_groups = self
            .address_groups
            .values()
            .filter_map(|e| e.problem.as_ref());
        let ports = self.ports.values().flat_map(PortEntry::problems);
        let leaving = self.leaving.values();
        subnets
            .chain(groups)
            .chain(address_groups)
            .chain(ports)
            .chain(leaving)
    }

    /// Notes what is wanted of a port; `settle` judges it.
    fn set_port(&mut self, id: &PortId, change: Change) {
        let entry = self.ports.entry(id.clone()).or_default();
        let (wanted, origin) = match change {
            Change::Set {
                object: Object::Port(port),
                origin,
            } => (Some(port), origin),
            Change::Gone => (None, Arc::default()),
            Change::Bad(problem) => {
                entry.unreadable = Some(problem);
                return;
            }
            // An id of one kind never comes with an object of another.
            Change::Set { .. } => return,
        };
        for subnet in subnets_of(entry.wanted.as_deref()) {
            if let Some(users) = self.users.get_mut(subnet) {
                users.remove(id);
                if users.is_empty() {
                    self.users.remove(subnet);
                }
            }
        }
        for subnet in subnets_of(wanted.as_deref()) {
            self.users
                .entry(subnet.clone())
                .or_default()
                .insert(id.clone());
        }
        entry.wanted = wanted;
        entry.origin = origin;
        entry.unreadable = None;
    }
}

fn subnets_of(port: Option<&Port>) -> impl Iterator<Item = &SubnetId> {
    port.into_iter()
        .flat_map(|port| port.addresses.iter().map(|a| &a.subnet))
}

/// Takes a change into one of the plain maps. Returns the version that is in
/// force now, if that is another one than before.
fn set<K: Ord + Clone, T: PartialEq>(
    map: &mut BTreeMap<K, Entry<T>>,
    id: &K,
    change: Change,
    object: impl Fn(Object) -> Option<Arc<T>>,
) -> Option<Arc<T>> {
    match change {
        Change::Set { object: new, .. } => {
            let new = object(new)?;
            let old = map.insert(
                id.clone(),
                Entry {
                    good: Some(Arc::clone(&new)),
                    problem: None,
                },
            );
            let same = old.is_some_and(|old| old.good.as_ref() == Some(&new));
            (!same).then_some(new)
        }
        Change::Bad(problem) => {
            map.entry(id.clone())
                .or_insert(Entry {
                    good: None,
                    problem: None,
                })
                .problem = Some(problem);
            None
        }
        Change::Gone => {
            map.remove(id);
            None
        }
    }
}

//! Which parts of the firewall a change of the intent concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use l2isolate_model::{
    AddressGroupId, GroupId, IfName,
    document::{Object, ObjectId},
    filter::{Key, Objects, Value},
    group::Group,
    intent::{Intent, Outcome},
    port::CheckedPort,
    problem::Problem,
};

use super::{FilterConfig, Owner, Profile, base, group, names::Sets, profile, tap};

/// Plans what changed, and remembers who depends on whom.
#[derive(Debug)]
pub struct Planner {
    config: FilterConfig,
    sets: Sets,
    /// The profile of each tap's port, as last planned.
    taps: BTreeMap<IfName, Profile>,
    /// Taps whose known flows are judged anew with each packet.
    untracked: BTreeSet<IfName>,
    /// The taps of each profile.
    profiles: BTreeMap<Profile, BTreeSet<IfName>>,
    /// The profiles of each group that has ports here.
    users: BTreeMap<GroupId, BTreeSet<Profile>>,
    /// Whether a group was stateful, and which peers it named.
    groups: BTreeMap<GroupId, Known>,
    /// The groups, of those that have ports here, whose rules name a group.
    naming: BTreeMap<GroupId, BTreeSet<GroupId>>,
    naming_addresses: BTreeMap<AddressGroupId, BTreeSet<GroupId>>,
    /// Which families of a named group's members were prefixes.
    ranges: BTreeMap<GroupId, [bool; 2]>,
    /// Named groups as their members were last planned.
    members: BTreeMap<GroupId, Arc<Group>>,
    problems: BTreeMap<GroupId, Vec<Problem>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    stateful: bool,
    groups: Vec<GroupId>,
    addresses: Vec<AddressGroupId>,
}

/// What an owner wants now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// These objects, and no others.
    Whole(Objects),
    /// What it wanted, but for these; `None`: no more.
    But(Vec<(Key, Option<Value>)>),
}

/// What is to be planned.
#[derive(Debug, Default)]
struct Dirty {
    taps: BTreeSet<IfName>,
    profiles: BTreeSet<Profile>,
    groups: BTreeSet<GroupId>,
    members: BTreeSet<GroupId>,
    addresses: BTreeSet<AddressGroupId>,
}

impl Planner {
    /// A planner that has planned nothing yet.
    #[must_use]
    pub fn new(config: FilterConfig) -> Self {
        Self {
            sets: Sets::new(&config),
            config,
            taps: BTreeMap::new(),
            untracked: BTreeSet::new(),
            profiles: BTreeMap::new(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            naming: BTreeMap::new(),
            naming_addresses: BTreeMap::new(),
            ranges: BTreeMap::new(),
            members: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &FilterConfig {
        &self.config
    }

    /// Rules that can't be expressed, of the groups that have ports here.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// The taps whose packets an owner's objects judge.
    #[must_use]
    pub fn taps_judged_by(&self, owner: &Owner) -> BTreeSet<IfName> {
        let of = |groups: Option<&BTreeSet<GroupId>>| {
            let groups = groups.into_iter().flatten();
            groups.flat_map(|group| self.taps_of(group)).collect()
        };
        match owner {
            Owner::Left | Owner::Peers => BTreeSet::new(),
            Owner::Base => self.taps.keys().copied().collect(),
            Owner::Tap(tap) => [*tap].into(),
            Owner::Profile(profile) => self.taps_with(profile).collect(),
            Owner::Group(id) => self.taps_of(id).collect(),
            Owner::Members(id) => of(self.naming.get(id)),
            Owner::Addresses(id) => of(self.naming_addresses.get(id)),
        }
    }

    /// The taps of a group's ports.
    fn taps_of(&self, group: &GroupId) -> impl Iterator<Item = IfName> {
        let profiles = self.users.get(group).into_iter().flatten();
        profiles.flat_map(|profile| self.taps_with(profile))
    }

    fn taps_with(&self, profile: &Profile) -> impl Iterator<Item = IfName> {
        self.profiles.get(profile).into_iter().flatten().copied()
    }

    /// Everything, from nothing.
    pub fn whole(config: FilterConfig, intent: &Intent) -> BTreeMap<Owner, Objects> {
        let mut planner = Self::new(config);
        let taps = intent
            .ports()
            .filter_map(|(_, entry)| Some(entry.effective()?.port.tap));
        let outcome = Outcome {
            taps: taps.collect(),
            ..Outcome::default()
        };
        let planned = planner.update(intent, &outcome).into_iter();
        let whole = planned.filter_map(|(owner, plan)| match plan {
            Plan::Whole(objects) => Some((owner, objects)),
            // Nothing was planned before that could be amended.
            Plan::But(_) => None,
        });
        let tracked = planner.untracked.is_empty();
        let base = (Owner::Base, base::plan(&planner.config, tracked));
        whole
            .chain([base])
            .filter(|(_, objects)| !objects.is_empty())
            .collect()
    }

    /// Plans again what `outcome` may have changed. Owners that want nothing
    /// any more come with no objects.
    pub fn update(&mut self, intent: &Intent, outcome: &Outcome) -> Vec<(Owner, Plan)> {
        let mut dirty = Dirty {
            taps: outcome.taps.clone(),
            ..Dirty::default()
        };
        let gone = outcome.gone.iter().cloned();
        for id in outcome.accepted.iter().map(Object::id).chain(gone) {
            match id {
                ObjectId::Group(id) => self.group_changed(intent, id, &mut dirty),
                ObjectId::AddressGroup(id) => {
                    dirty.addresses.insert(id);
                }
                ObjectId::Subnet(_) | ObjectId::Port(_) => {}
            }
        }
        for tap in dirty.taps.clone() {
            self.enlist(intent, tap, &mut dirty);
        }
        // Groups first: they settle which members and addresses are named.
        let mut planned = Vec::new();
        for id in dirty.groups.clone() {
            self.relate(intent, &id, &mut dirty);
        }
        for id in &dirty.members {
            planned.push((Owner::Members(id.clone()), self.plan_members(intent, id)));
        }
        for id in &dirty.addresses {
            let objects = if self.naming_addresses.contains_key(id) {
                group::addresses(id, intent.address_group(id).map(AsRef::as_ref))
            } else {
                Objects::new()
            };
            planned.push((Owner::Addresses(id.clone()), Plan::Whole(objects)));
        }
        for id in &dirty.groups {
            let objects = self.plan_group(intent, id);
            planned.push((Owner::Group(id.clone()), Plan::Whole(objects)));
        }
        for profile in &dirty.profiles {
            let objects = self.plan_profile(profile);
            planned.push((Owner::Profile(Arc::clone(profile)), Plan::Whole(objects)));
        }
        let none = self.untracked.is_empty();
        for tap in &dirty.taps {
            let port = intent.on_tap(*tap).map(AsRef::as_ref);
            let tracked = port.is_some_and(|port| is_tracked(intent, port));
            if tracked || port.is_none() {
                self.untracked.remove(tap);
            } else {
                self.untracked.insert(*tap);
            }
            let objects = tap::plan(*tap, port, tracked, &self.config, &self.sets);
            planned.push((Owner::Tap(*tap), Plan::Whole(objects)));
        }
        if none != self.untracked.is_empty() {
            let objects = base::plan(&self.config, !none);
            planned.push((Owner::Base, Plan::Whole(objects)));
        }
        planned
    }

    /// A group's rules, members or kind changed.
    fn group_changed(&mut self, intent: &Intent, id: GroupId, dirty: &mut Dirty) {
        let group = intent.group(&id).map(AsRef::as_ref);
        if let Some(naming) = self.naming.get(&id) {
            let flags = group::ranges(group);
            if self.ranges.insert(id.clone(), flags) != Some(flags) {
                dirty.groups.extend(naming.iter().cloned());
            }
            dirty.members.insert(id.clone());
        }
        if self.users.contains_key(&id) {
            let stateful = group.is_none_or(|group| group.stateful);
            if self
                .groups
                .get(&id)
                .is_some_and(|known| known.stateful != stateful)
            {
                dirty.taps.extend(self.taps_of(&id));
            }
            dirty.groups.insert(id);
        }
    }

    /// Takes in which groups a tap's port has now.
    fn enlist(&mut self, intent: &Intent, tap: IfName, dirty: &mut Dirty) {
        let new = intent.on_tap(tap).and_then(|port| profile::of(port));
        let old = match &new {
            Some(new) => self.taps.insert(tap, Arc::clone(new)),
            None => self.taps.remove(&tap),
        };
        if old == new {
            return;
        }
        if let Some(old) = old
            && leave(&mut self.profiles, &old, &tap)
        {
            for id in old.iter() {
                if leave(&mut self.users, id, &old) {
                    dirty.groups.insert(id.clone());
                }
            }
            dirty.profiles.insert(old);
        }
        if let Some(new) = new {
            let taps = self.profiles.entry(Arc::clone(&new)).or_default();
            if taps.is_empty() {
                for id in new.iter() {
                    let profiles = self.users.entry(id.clone()).or_default();
                    if profiles.is_empty() {
                        dirty.groups.insert(id.clone());
                    }
                    profiles.insert(Arc::clone(&new));
                }
                dirty.profiles.insert(Arc::clone(&new));
            }
            taps.insert(tap);
        }
    }

    /// Takes in which peers a group names now.
    fn relate(&mut self, intent: &Intent, id: &GroupId, dirty: &mut Dirty) {
        let group = intent.group(id).map(AsRef::as_ref);
        let used = self.users.contains_key(id);
        let (groups, addresses) = if used {
            group::named(group)
        } else {
            (Vec::new(), Vec::new())
        };
        let stateful = group.is_none_or(|group| group.stateful);
        let known = Known {
            stateful,
            groups,
            addresses,
        };
        let old = if used {
            self.groups.insert(id.clone(), known.clone())
        } else {
            self.groups.remove(id)
        };
        let (old_groups, old_addresses) = old
            .map(|old| (old.groups, old.addresses))
            .unwrap_or_default();
        for other in old_groups
            .iter()
            .filter(|other| !known.groups.contains(other))
        {
            if leave(&mut self.naming, other, id) {
                dirty.members.insert(other.clone());
            }
        }
        for other in &known.groups {
            let naming = self.naming.entry(other.clone()).or_default();
            if naming.is_empty() {
                dirty.members.insert(other.clone());
            }
            naming.insert(id.clone());
        }
        for other in old_addresses
            .iter()
            .filter(|other| !known.addresses.contains(other))
        {
            if leave(&mut self.naming_addresses, other, id) {
                dirty.addresses.insert(other.clone());
            }
        }
        for other in &known.addresses {
            let naming = self.naming_addresses.entry(other.clone()).or_default();
            if naming.is_empty() {
                dirty.addresses.insert(other.clone());
            }
            naming.insert(id.clone());
        }
    }

    fn plan_members(&mut self, intent: &Intent, id: &GroupId) -> Plan {
        if !self.naming.contains_key(id) {
            self.ranges.remove(id);
            self.members.remove(id);
            return Plan::Whole(Objects::new());
        }
        let now = intent.group(id);
        // Whoever has only now been named was not looked at before.
        if !self.ranges.contains_key(id) {
            let flags = group::ranges(now.map(AsRef::as_ref));
            self.ranges.insert(id.clone(), flags);
        }
        let before = match now {
            Some(now) => self.members.insert(id.clone(), Arc::clone(now)),
            None => self.members.remove(id),
        };
        let difference = before
            .zip(now)
            .and_then(|(before, now)| group::members_changed(id, &before, now));
        difference.map_or_else(
            || Plan::Whole(group::members(id, now.map(AsRef::as_ref))),
            Plan::But,
        )
    }

    fn plan_profile(&self, profile: &Profile) -> Objects {
        if self.profiles.contains_key(profile) {
            profile::plan(profile)
        } else {
            Objects::new()
        }
    }

    fn plan_group(&mut self, intent: &Intent, id: &GroupId) -> Objects {
        if !self.users.contains_key(id) {
            self.problems.remove(id);
            return Objects::new();
        }
        let find = |id: &GroupId| intent.group(id).map(AsRef::as_ref);
        let ranges = |other: &GroupId| group::ranges(find(other));
        let (objects, problems) = group::plan(id, find(id), ranges);
        if problems.is_empty() {
            self.problems.remove(id);
        } else {
            self.problems.insert(id.clone(), problems);
        }
        objects
    }
}

/// Whether a port's known flows pass without asking again: all its groups, if it
/// has any, are stateful.
fn is_tracked(intent: &Intent, port: &CheckedPort) -> bool {
    let stateful = |id: &GroupId| intent.group(id).is_none_or(|group| group.stateful);
    profile::of(port).is_none_or(|profile| profile.iter().all(stateful))
}

/// Takes `who` out of what is at `at`; says whether nobody is left.
fn leave<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, at: &K, who: &V) -> bool {
    let Some(set) = map.get_mut(at) else {
        return false;
    };
    set.remove(who);
    let empty = set.is_empty();
    if empty {
        map.remove(at);
    }
    empty
}

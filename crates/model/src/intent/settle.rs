//! Who has what: ports against their subnets, and against each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Intent, Outcome,
    entry::{Claim, PortEntry},
};
use crate::{PortId, SubnetId};

impl Intent {
    /// Checks the dirty ports against their subnets, then settles again who
    /// has what among them and all ports that they are, or were, in conflict
    /// with.
    pub(super) fn settle(
        &mut self,
        dirty: &BTreeSet<PortId>,
        gone: &BTreeSet<PortId>,
        outcome: &mut Outcome,
    ) {
        let mut disputed: BTreeSet<PortId> = BTreeSet::new();
        for id in dirty {
            let Some(entry) = self.ports.get_mut(id) else {
                continue;
            };
            let old = entry.claims();
            if gone.contains(id) {
                self.ports.remove(id);
            } else {
                let subnets = &self.subnets;
                let lookup = |id: &SubnetId| subnets.get(id)?.good.clone();
                entry.check(lookup, outcome);
                disputed.insert(id.clone());
            }
            let new = self
                .ports
                .get(id)
                .map(PortEntry::claims)
                .unwrap_or_default();
            self.reclaim(id, &old, &new);
            for claim in old.iter().chain(&new) {
                if let Claim::Tap(tap) = claim {
                    outcome.taps.insert(*tap);
                }
                disputed.extend(self.claims.get(claim).into_iter().flatten().cloned());
            }
        }
        self.judge(disputed, outcome);
    }

    fn reclaim(&mut self, id: &PortId, old: &[Claim], new: &[Claim]) {
        for claim in old {
            if let Some(claimants) = self.claims.get_mut(claim) {
                claimants.remove(id);
                if claimants.is_empty() {
                    self.claims.remove(claim);
                }
            }
        }
        for claim in new {
            self.claims.entry(*claim).or_default().insert(id.clone());
        }
    }

    /// Gives out claims in order of seniority: who finds one taken gets none.
    /// A verdict can free what a third port waits for, so all that hang
    /// together are judged together; nearly always that is one port.
    fn judge(&mut self, seeds: BTreeSet<PortId>, outcome: &mut Outcome) {
        let mut together: BTreeMap<PortId, Vec<Claim>> = BTreeMap::new();
        let mut queue: Vec<PortId> = seeds.into_iter().collect();
        while let Some(id) = queue.pop() {
            let Some(entry) = self.ports.get(&id) else {
                continue;
            };
            if together.contains_key(&id) {
                continue;
            }
            let claims = entry.claims();
            queue.extend(
                claims
                    .iter()
                    .filter_map(|c| self.claims.get(c))
                    .flatten()
                    .cloned(),
            );
            together.insert(id, claims);
        }
        let mut order: Vec<&PortId> = together.keys().collect();
        order.sort_by_key(|id| self.ports.get(id).map(|entry| entry.seniority(id)));
        let order: Vec<PortId> = order.into_iter().cloned().collect();
        let mut taken: BTreeMap<Claim, PortId> = BTreeMap::new();
        for id in order {
            let claims = together.remove(&id).unwrap_or_default();
            let lost = claims
                .iter()
                .find_map(|claim| Some((claim, taken.get(claim)?)));
            let verdict = lost.map(|(claim, holder)| (claim.to_string(), holder.clone()));
            if verdict.is_none() {
                taken.extend(claims.iter().map(|claim| (*claim, id.clone())));
            }
            let Some(entry) = self.ports.get_mut(&id) else {
                continue;
            };
            let before = entry.conflict.clone();
            if entry.set_conflict(&id, verdict) {
                outcome
                    .taps
                    .extend(entry.good.as_ref().map(|good| good.port.tap));
            }
            let new = entry.conflict.clone().filter(|_| entry.conflict != before);
            outcome.problems.extend(new);
        }
    }
}

//! The taps that are known, for whoever answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use l2isolate_model::{IfName, metadata::entry::Entry};

use super::local::Instance;

/// Every tap's entry.
#[derive(Debug, Default)]
pub(super) struct Map(RwLock<BTreeMap<IfName, Arc<Entry>>>);

impl Map {
    /// Notes what is known of a tap now.
    pub(super) fn set(&self, tap: IfName, entry: Option<Arc<Entry>>) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match entry {
            Some(entry) => drop(map.insert(tap, entry)),
            None => drop(map.remove(&tap)),
        }
    }

    /// What is known of this very device: none if another has its name by now.
    pub(super) fn get(&self, tap: IfName, index: u32) -> Option<Arc<Entry>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.get(&tap).filter(|entry| entry.index == index).cloned()
    }

    /// The port, and those that belong to the same instance of the same project.
    pub(super) fn instance(&self, own: Arc<Entry>) -> Instance {
        if own.instance.is_none() {
            let all = vec![Arc::clone(&own)];
            return Instance { own, all };
        }
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let together =
            |entry: &&Arc<Entry>| entry.instance == own.instance && entry.project == own.project;
        let all = map.values().filter(together).cloned().collect();
        Instance { own, all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::testing;

    /// Names of instances are each project's own, and a port without one is
    /// nobody's sibling: nothing of another guest is ever told.
    #[test]
    fn siblings_are_of_one_instance_and_project() {
        let map = Map::default();
        let entry = |tap: &str, instance: Option<&str>, project: &str| {
            let mut entry = testing::entry(tap, &[]);
            entry.instance = instance.map(str::to_owned);
            entry.project = Some(project.to_owned());
            let entry = Arc::new(entry);
            map.set(entry.tap, Some(Arc::clone(&entry)));
            entry
        };
        let one = entry("tap1", Some("web"), "a");
        entry("tap2", Some("web"), "b");
        entry("tap3", Some("web"), "a");
        let bare = entry("tap4", None, "a");
        entry("tap5", None, "a");
        let taps = |own: &Arc<Entry>| {
            let all = map.instance(Arc::clone(own)).all;
            all.iter().map(|e| e.tap.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(taps(&one), ["tap1", "tap3"]);
        assert_eq!(taps(&bare), ["tap4"]);
        assert!(map.get(one.tap, one.index).is_some());
        assert!(map.get(one.tap, one.index + 1).is_none());
    }
}

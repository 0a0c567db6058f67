//! What must hold for every intent and every set of taps.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{announced, change, config, flat, taps, views};
use l2isolate_model::{
    desired::{Key, Knob, Target, Value},
    intent::Intent,
    port::BindingState,
};
use l2isolate_plan::{FLOOR_METRIC, Owner, plan, tap};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Total and deterministic; no object wanted twice, so no address routed
    /// twice; every announced address is a port's, behind a floor, with its
    /// neighbour entry on the tap it leads to.
    #[test]
    fn a_plan_is_sound(batches in proptest::collection::vec(change(), 0..25), taps in taps()) {
        let mut intent = Intent::default();
        for batch in batches {
            intent.update(batch);
        }
        let views = views(&taps);
        let desired = plan(&intent, &views, &config());
        prop_assert_eq!(&desired, &plan(&intent, &views, &config()));
        let objects = flat(&desired);
        for address in announced(&objects) {
            let holders: Vec<_> = intent
                .ports()
                .filter_map(|(_, entry)| entry.effective())
                .filter(|port| port.addresses.iter().any(|(a, _)| *a == address))
                .collect();
            prop_assert_eq!(holders.len(), 1, "{} has one holder", address);
            let port = &holders[0].port;
            prop_assert!(port.admin_state_up);
            prop_assert!(taps.contains_key(&port.tap));
            let prefix = address.into();
            let metric = if port.binding.state == BindingState::Outgoing { 7 } else { 5 };
            prop_assert_eq!(objects.get(&Key::Route(prefix, metric)), Some(&Value::Route(Target::Device(port.tap))));
            prop_assert_eq!(objects.get(&Key::Route(prefix, FLOOR_METRIC)), Some(&Value::Route(Target::Unreachable)));
            prop_assert_eq!(objects.get(&Key::Neighbour(port.tap, address)), Some(&Value::Mac(port.mac)));
        }
        // Where the host answers ARP, each of the guest's addresses is routed.
        for (key, value) in &objects {
            if let (Key::Sysctl(Knob::TapProxyArp, Some(tap)), Value::Number(1)) = (key, value) {
                let port = intent.on_tap(*tap).unwrap();
                for (address, _) in &port.addresses {
                    let routes = [5, 6, 7].map(|metric| Key::Route((*address).into(), metric));
                    prop_assert!(routes.iter().any(|route| objects.contains_key(route)));
                }
            }
        }
    }

    /// Changes taken in one by one, and only the taps named by their outcome
    /// planned again, come to the same as a plan of everything: nothing is
    /// forgotten, and a change costs what it touches.
    #[test]
    fn step_by_step_is_the_same_as_at_once(batches in proptest::collection::vec(change(), 0..25), taps in taps()) {
        let views = views(&taps);
        let mut intent = Intent::default();
        let mut desired = plan(&intent, &views, &config());
        for batch in batches {
            let outcome = intent.update(batch);
            for name in outcome.taps {
                let objects = tap::plan(name, views.get(&name), intent.on_tap(name).map(AsRef::as_ref), &config());
                desired.remove(&Owner::Tap(name));
                if !objects.is_empty() {
                    desired.insert(Owner::Tap(name), objects);
                }
            }
            let mut whole = plan(&intent, &views, &config());
            // The host's own settings depend on how many ports there are.
            if let Some(host) = whole.get(&Owner::Host) {
                desired.insert(Owner::Host, host.clone());
            }
            whole.retain(|_, objects| !objects.is_empty());
            prop_assert_eq!(&desired, &whole);
        }
    }

    /// Of ports that claim the same thing the oldest has it, whatever the
    /// order in which they became known.
    #[test]
    fn the_order_of_arrival_settles_nothing(ports in proptest::collection::vec(crate::common::port(), 0..8), shift in 0..8usize) {
        // One port, one version: later ones of the same id would be changes.
        let mut ids = BTreeSet::new();
        let mut ports: Vec<_> = ports.into_iter().filter(|port| ids.insert(port["id"].to_string())).collect();
        let taps: BTreeMap<_, _> = (0..4).map(|n| (crate::common::name(n), (crate::common::tap(n), false))).collect();
        let views = views(&taps);
        let all = |ports: &[serde_json::Value]| {
            let mut intent = Intent::default();
            for port in ports {
                intent.update(crate::common::changes(&serde_json::json!({"version": 1, "ports": [port]})));
            }
            intent.update(crate::common::changes(&crate::common::subnets()));
            plan(&intent, &views, &config())
        };
        let before = all(&ports);
        let shift = shift.min(ports.len());
        ports.rotate_left(shift);
        prop_assert_eq!(before, all(&ports));
    }
}

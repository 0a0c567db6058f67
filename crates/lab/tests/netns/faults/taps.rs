//! Taps that don't stay what they are.

use std::fmt::Write as _;

use l2isolate_lab::{netns, wiring};

use super::{Site, unharmed};

const FLAPS: usize = 50;

// Down and up, away under another name and back, deleted and made again: one
// tap of each hypervisor goes through all of it while its neighbours' flows
// run.
#[test]
fn taps_flap_are_renamed_and_made_again() {
    let site = Site::up(1, 3);
    let flows = site.flows(&[
        ("vm1-1-2", "vm1-1-3"),
        ("vm2-1-2", "vm2-1-3"),
        ("vm1-1-2", "vm2-1-2"),
    ]);
    for name in ["vm1-1-1", "vm2-1-1"] {
        let vm = site.vm(name);
        let node = site.fabric().node(&vm.host).unwrap();
        let (tap, namespace) = (&vm.tap, site.namespace(&vm.host));
        let all = || site.fabric().vms_on(&vm.host);
        let others = || all().filter(|other| other.name != vm.name);
        let batch = |lines: &str| netns::batch(Some(&namespace), lines).unwrap();

        // At once, and with time for the agent to act in between.
        let flap = format!("link set {tap} down\nlink set {tap} up\n");
        batch(&flap.repeat(FLAPS));
        site.wired(node, all());
        for _ in 0..FLAPS {
            for line in flap.lines() {
                batch(&format!("{line}\n"));
            }
        }
        site.wired(node, all());
        site.reachable();

        // Under a foreign name it is nobody's: nothing of the port is left.
        batch(&format!("link set {tap} down\nlink set {tap} name away\n"));
        site.wired(node, others());
        let listings = ["addr", "neigh"]
            .map(|kind| netns::ip(&namespace, &[kind, "show", "dev", "away"]).unwrap());
        assert!(!listings.concat().contains("10.252."), "{listings:?}");
        batch(&format!("link set away name {tap}\nlink set {tap} up\n"));
        site.wired(node, all());
        // Both at once: the agent sees only the end of it, many times.
        let mut lines = String::new();
        for _ in 0..FLAPS {
            let _ = writeln!(lines, "link set {tap} down\nlink set {tap} name away");
            let _ = writeln!(lines, "link set away name {tap}\nlink set {tap} up");
        }
        batch(&lines);
        site.wired(node, all());
        site.reachable();

        // Another device under the same name.
        let index = || netns::ip(&namespace, &["-o", "link", "show", tap]).unwrap();
        let before = index();
        batch(&format!("link del {tap}\n"));
        site.wired(node, others());
        wiring::tap_again(vm, &site.names()).unwrap();
        site.wired(node, all());
        for _ in 0..10 {
            batch(&format!("link del {tap}\n"));
            wiring::tap_again(vm, &site.names()).unwrap();
        }
        assert_ne!(before.split(':').next(), index().split(':').next());
    }
    site.sound();
    unharmed(flows);
    site.lab.down().unwrap();
}

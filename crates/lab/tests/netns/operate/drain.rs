//! The promise of the design: a ToR leaves service with no packet lost.

use l2isolate_lab::{maintenance, room, topology::Mix};

use super::{LIMIT, traffic, two_racks};

fn no_packet_is_lost(mix: Mix) {
    let _room = room::shared();
    let lab = two_racks(mix, false);
    let probe = traffic(&lab);
    let cycle = maintenance::cycle(&lab, "tor1-1", LIMIT);
    let report = probe.stop().unwrap();
    let cycle = cycle.unwrap();
    assert!(cycle.before > 0, "tor1-1 carried nothing: {cycle:?}");
    assert_eq!((cycle.drained, cycle.back), (0, 0), "{cycle:?}");
    assert!(cycle.after > 0, "nothing came back: {cycle:?}");
    assert_eq!(report.lost, 0, "{report:?}");
    lab.down().unwrap();
}

// The commands of docs/operate/tor-maintenance.md, on FRR.
#[test]
fn a_tor_is_taken_out_and_put_back_with_frr() {
    no_packet_is_lost(Mix::Frr);
}

// The same with BIRD.
#[test]
fn a_tor_is_taken_out_and_put_back_with_bird() {
    no_packet_is_lost(Mix::Bird);
}

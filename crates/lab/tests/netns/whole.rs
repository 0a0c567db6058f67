//! The lab with the real agent: what `make demo` shows must hold.

use l2isolate_lab::{agent, demo, room};

#[test]
fn the_demo_holds() {
    let _room = room::shared();
    let mut out = Vec::new();
    let held = demo::run(agent::find().unwrap(), &mut out);
    let text = String::from_utf8_lossy(&out);
    assert!(held.as_ref().is_ok_and(|held| *held), "{held:?}\n{text}");
}

//! The guard at work on a real directory; its rules have tests of their own.

use super::*;

fn ten(grace: Duration) -> Rig {
    let temporary = tempfile::tempdir().unwrap();
    for port in 0..10 {
        fs::write(
            temporary.path().join(format!("{port}.json")),
            ports(&[port], 1),
        )
        .unwrap();
    }
    let mut rig = Rig::start(Options {
        grace,
        ..options(temporary.path())
    });
    rig._temporary = Some(temporary);
    assert_eq!(rig.ports(), 10);
    rig
}

fn empty(rig: &Rig) {
    for entry in fs::read_dir(&rig.directory).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

/// Part of them may go before the whole is seen; more than half never does.
#[test]
fn an_emptied_directory_is_held_then_comes_true() {
    let mut rig = ten(Duration::from_secs(2));
    empty(&rig);
    rig.until("hold", |rig| rig.state.held.is_some());
    assert!(rig.ports() >= 5);
    rig.until("end of the grace", |rig| rig.ports() == 0);
    assert_eq!(rig.state.held, None);
}

#[test]
fn what_comes_back_is_not_held() {
    let mut rig = ten(Duration::from_secs(300));
    empty(&rig);
    rig.until("hold", |rig| rig.state.held.is_some());
    rig.settle();
    for port in 0..10 {
        rig.write(&format!("{port}.json"), &ports(&[port], 1));
    }
    rig.until("release", |rig| rig.state.held.is_none());
    rig.until("all back", |rig| rig.ports() == 10);
}

#[test]
fn an_operator_releases() {
    let mut rig = ten(Duration::from_secs(300));
    empty(&rig);
    rig.until("hold", |rig| rig.state.held.is_some());
    rig.settle();
    rig.handle.release();
    rig.until("release", |rig| {
        rig.ports() == 0 && rig.state.held.is_none()
    });
}

/// What the cache knew and the directory doesn't have is under guard as well.
#[test]
fn an_empty_directory_at_start_is_held() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(Options {
        known: (0..10).map(port_id).collect(),
        ..options(directory.path())
    });
    assert!(rig.complete);
    assert_eq!(rig.state.held.as_ref().map(|held| held.ports), Some(10));
    rig.write("a.json", &ports(&[0, 1, 2, 3, 4], 1));
    rig.until("half is back", |rig| rig.state.held.is_none());
    rig.until("five ports", |rig| rig.ports() == 5);
    let gone = rig.log.iter().filter(|(_, change)| *change == Change::Gone);
    assert_eq!(gone.count(), 5);
}

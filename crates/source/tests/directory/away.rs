//! The directory as a whole comes and goes.

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::*;

#[test]
fn a_directory_that_vanishes_is_away_and_comes_back() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("intent");
    let mut rig = Rig::start(options(&directory));
    assert!(rig.is_away() && !rig.complete);
    rig.write("sub/a.json", &ports(&[1, 2], 1));
    rig.until("the directory", |rig| rig.ports() == 2 && rig.complete);
    for _ in 0..3 {
        fs::remove_dir_all(&directory).unwrap();
        rig.until("away", Rig::is_away);
        rig.settle();
        assert!(rig.ports() == 2 && rig.complete, "nothing is gone");
        rig.write("sub/a.json", &ports(&[1, 2], 1));
        rig.until("back", Rig::is_available);
    }
    let parked = parent.path().join("parked");
    fs::rename(&directory, &parked).unwrap();
    rig.until("away", Rig::is_away);
    fs::rename(&parked, &directory).unwrap();
    rig.until("back", Rig::is_available);
    rig.write("sub/a.json", &ports(&[2], 2));
    rig.until("followed again", |rig| {
        !rig.has(1) && rig.revision(2) == Some(2)
    });
}

/// Where the file system under it is taken away, the directory is empty, not
/// the intent. In a mount namespace of its own; needs root.
#[test]
fn an_unmounted_directory_is_away() {
    // This thread alone, and those that it starts.
    match unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS) {
        Err(Errno::EPERM) => panic!("this test mounts a file system and needs root"),
        other => other.unwrap(),
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let attach = || {
        mount(
            Some("intent"),
            directory.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        fs::write(directory.path().join("a.json"), ports(&[1], 1)).unwrap();
    };
    attach();
    let mut rig = Rig::start(options(directory.path()));
    rig.until("port", |rig| rig.has(1));
    umount2(directory.path(), MntFlags::MNT_DETACH).unwrap();
    rig.until("away", Rig::is_away);
    rig.settle();
    assert!(rig.has(1));
    attach();
    rig.until("back", Rig::is_available);
    rig.write("a.json", &ports(&[1], 2));
    rig.until("followed again", |rig| rig.revision(1) == Some(2));
    umount2(directory.path(), MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn a_file_in_place_of_the_directory_is_away() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("intent");
    fs::write(&path, "").unwrap();
    let rig = Rig::start(options(&path));
    assert!(rig.is_away());
}

/// What only the cache knows may be in a file that can't be read: it waits for
/// that file; deletions that are certain don't.
#[test]
fn a_broken_file_at_start_holds_what_only_the_cache_knows() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.json"), ports(&[1, 3], 1)).unwrap();
    fs::write(directory.path().join("broken.json"), "{").unwrap();
    let mut rig = Rig::start(Options {
        known: [1, 2, 3].map(port_id).into(),
        ..options(directory.path())
    });
    assert!(rig.complete, "the cache makes up for the broken file");
    rig.settle();
    let gone = |rig: &Rig| {
        let gone = rig.log.iter().filter(|(_, change)| *change == Change::Gone);
        gone.map(|(id, _)| id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(gone(&rig), []);
    rig.write("a.json", &ports(&[1], 1));
    rig.until("certain deletion", |rig| gone(rig) == [port_id(3)]);
    rig.write("broken.json", &ports(&[4], 1));
    rig.until("port", |rig| rig.has(4));
    assert_eq!(gone(&rig), [port_id(3), port_id(2)]);
}

/// Without a cache nobody knows what a broken file holds: the reading is not
/// complete before it is mended, or the grace is over.
#[test]
fn a_broken_file_without_a_cache_is_not_a_complete_reading() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("broken.json"), "{").unwrap();
    let mut rig = Rig::start(options(directory.path()));
    assert!(!rig.complete && rig.is_available());
    rig.write("broken.json", &ports(&[1], 1));
    rig.until("complete", |rig| rig.complete && rig.has(1));

    fs::write(directory.path().join("broken.json"), "{").unwrap();
    let mut rig = Rig::start(Options {
        grace: Duration::from_millis(300),
        ..options(directory.path())
    });
    assert!(!rig.complete);
    rig.until("complete after the grace", |rig| rig.complete);
}

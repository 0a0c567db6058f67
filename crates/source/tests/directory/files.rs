//! Files come, change and go, in the ways in which people and programs do it.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn a_file_comes_changes_and_goes() {
    let mut rig = Rig::new();
    assert!(rig.complete && rig.is_available());
    rig.write("a.json", &ports(&[1, 2], 1));
    rig.until("ports", |rig| rig.ports() == 2);
    rig.write("a.json", &ports(&[1], 2));
    rig.until("change", |rig| rig.revision(1) == Some(2) && !rig.has(2));
    rig.remove("a.json");
    rig.until("end", |rig| rig.ports() == 0);
    assert_eq!(rig.state.problems, []);
}

/// What Kubernetes, editors and careful scripts do.
#[test]
fn a_file_is_renamed_in_linked_in_and_replaced() {
    let mut rig = Rig::new();
    rig.write(".a.json.tmp", &ports(&[1], 1));
    rig.write("b.json.new", &ports(&[2], 1));
    rig.settle();
    assert_eq!(rig.ports(), 0, "hidden files and others are not read");
    let path = |name: &str| rig.directory.join(name);
    fs::rename(path(".a.json.tmp"), path("a.json")).unwrap();
    fs::hard_link(path("b.json.new"), path("b.json")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("c"), ports(&[3], 1)).unwrap();
    symlink(elsewhere.path().join("c"), path("c.json")).unwrap();
    rig.until("three ports", |rig| rig.ports() == 3);
    let path = |name: &str| rig.directory.join(name);
    fs::rename(path("a.json"), path("z.json")).unwrap();
    rig.settle();
    let gone = rig.log.iter().filter(|(_, change)| *change == Change::Gone);
    assert_eq!(gone.count(), 0, "a file that is renamed loses nothing");
    rig.assert_in_sync();
}

/// A mounted ConfigMap is a directory behind a hidden link that is swapped.
#[test]
fn a_hidden_link_is_swapped() {
    let mut rig = Rig::new();
    rig.write("..one/a.json", &ports(&[1], 1));
    rig.write("..two/a.json", &ports(&[1], 2));
    let path = |name: &str| rig.directory.join(name);
    symlink("..one", path("..data")).unwrap();
    symlink("..data/a.json", path("a.json")).unwrap();
    rig.until("port", |rig| rig.revision(1) == Some(1));
    let path = |name: &str| rig.directory.join(name);
    symlink("..two", path("..next")).unwrap();
    fs::rename(path("..next"), path("..data")).unwrap();
    rig.until("swap", |rig| rig.revision(1) == Some(2));
}

#[test]
fn directories_come_move_and_go() {
    let mut rig = Rig::new();
    rig.write("rack/1/a.json", &ports(&[1], 1));
    rig.write("rack/2/b.json", &ports(&[2], 1));
    rig.until("two ports", |rig| rig.ports() == 2);
    let path = |name: &str| rig.directory.join(name);
    fs::rename(path("rack/1"), path("moved")).unwrap();
    rig.settle();
    rig.write("moved/a.json", &ports(&[1], 2));
    rig.until("change", |rig| rig.revision(1) == Some(2));
    fs::remove_dir_all(rig.directory.join("rack")).unwrap();
    rig.until("removal", |rig| rig.ports() == 1);
    rig.assert_in_sync();
}

/// A link to a directory is followed; a loop ends; what was known behind a
/// link that leads nowhere now stays.
#[test]
fn links_to_directories() {
    let mut rig = Rig::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("a.json"), ports(&[1], 1)).unwrap();
    symlink(&real, rig.directory.join("link")).unwrap();
    symlink(&rig.directory, rig.directory.join("loop")).unwrap();
    rig.until("port", |rig| rig.has(1));
    fs::write(real.join("a.json"), ports(&[1], 2)).unwrap();
    rig.until("change behind the link", |rig| rig.revision(1) == Some(2));
    fs::rename(&real, elsewhere.path().join("away")).unwrap();
    rig.write("b.json", &ports(&[2], 1));
    rig.until("problem", |rig| rig.has_problem("link: can't be read"));
    rig.settle();
    assert!(rig.has(1), "what can't be seen isn't gone");
    rig.remove("link");
    rig.until("removal of the link", |rig| !rig.has(1));
}

/// Writers that don't write aside: whatever the moment of reading, only whole
/// versions are ever seen.
#[test]
fn half_of_a_file_is_never_taken() {
    const PORTS: usize = 40;
    let mut rig = Rig::new();
    let path = rig.directory.join("a.json");
    let all: Vec<usize> = (0..PORTS).collect();
    let versions = 300;
    let writer = {
        let (path, all) = (path.clone(), all.clone());
        std::thread::spawn(move || {
            use std::io::Write;
            for revision in 1..=versions {
                let text = ports(&all, revision);
                let mut file = fs::File::create(&path).unwrap();
                for part in text.as_bytes().chunks(700) {
                    file.write_all(part).unwrap();
                }
            }
        })
    };
    let mut seen = BTreeSet::new();
    while !writer.is_finished() || rig.revision(0) != Some(versions) {
        let update = rig.updates.recv_timeout(LONG).unwrap();
        rig.take(update);
        let revisions: BTreeSet<u64> = rig.objects.values().map(Object::revision).collect();
        assert!(revisions.len() <= 1, "one version at a time: {revisions:?}");
        assert!(rig.ports() == PORTS || seen.is_empty());
        seen.extend(revisions);
    }
    writer.join().unwrap();
    let gone = rig.log.iter().filter(|(_, change)| *change == Change::Gone);
    assert_eq!(gone.count(), 0);
    rig.settle();
    assert_eq!(rig.state.problems, []);
}

/// More events than the kernel keeps: it says so, and all is read anew.
#[test]
fn many_files_at_once() {
    let mut rig = Rig::new();
    for port in 0..2000 {
        rig.write(&format!("{}/{port}.json", port % 7), &ports(&[port], 1));
    }
    rig.until("all ports", |rig| rig.ports() == 2000);
    rig.settle();
    rig.assert_in_sync();
}

/// Without events, as on a network file system: what the periodic comparison
/// is there for. A link's target elsewhere sends none.
#[test]
fn a_change_without_an_event_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    fs::write(&target, ports(&[1], 1)).unwrap();
    symlink(&target, directory.path().join("a.json")).unwrap();
    let mut rig = Rig::start(Options {
        rescan: Duration::from_millis(100),
        ..options(directory.path())
    });
    assert_eq!(rig.revision(1), Some(1));
    // Same length, perhaps within one tick of the file system's clock.
    fs::write(&target, ports(&[1], 2)).unwrap();
    rig.until("change", |rig| rig.revision(1) == Some(2));
}

//! What a changed file comes to, object by object.

use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;

use super::*;

/// A file that can't be used keeps what it said, and the others aren't touched.
#[test]
fn a_file_that_cannot_be_used_keeps_its_objects() {
    let mut rig = Rig::new();
    rig.write("a.json", &ports(&[1], 1));
    rig.write("b.json", &ports(&[2], 1));
    rig.until("two ports", |rig| rig.ports() == 2);
    let bad = [
        (r#"{"version":1,"ports":[{"#, "is not JSON"),
        ("[]", "is JSON, but not an object"),
        (r#"{"version":2}"#, "2 is not known"),
        (r#"{"version":1,"ports":{}}"#, "is not a list"),
        ("", "is not JSON"),
    ];
    for (text, words) in bad {
        rig.write("a.json", text);
        rig.until(words, |rig| rig.has_problem(words));
        assert!(rig.has_problem("a.json"));
        rig.write("b.json", &ports(&[2, 3], 1));
        rig.until("another file's port", |rig| rig.has(3));
        assert!(rig.has(1));
        rig.write("b.json", &ports(&[2], 1));
        rig.until("its end", |rig| !rig.has(3));
    }
    rig.write("a.json", &ports(&[1], 2));
    rig.until("mended", |rig| {
        rig.revision(1) == Some(2) && rig.state.problems.is_empty()
    });
}

/// Neither a FIFO, nor a file that is too large, nor a link to nothing.
#[test]
fn odd_files_are_named_and_do_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(Options {
        file_size: 1000,
        depth: 2,
        ..options(directory.path())
    });
    nix::unistd::mkfifo(&directory.path().join("fifo.json"), Mode::S_IRWXU).unwrap();
    symlink("nowhere", directory.path().join("link.json")).unwrap();
    rig.write(
        "large.json",
        &ports(&[7], 1).replace("}]", &format!("}}{}]", " ".repeat(1000))),
    );
    rig.write("1/2/3/deep.json", &ports(&[8], 1));
    rig.write("good.json", &ports(&[1], 1));
    for words in [
        "fifo.json: is not a regular file",
        "link.json: can't be read",
        "large.json: is larger than 1000 bytes",
        "1/2/3: is more than 2 directories deep",
    ] {
        rig.until(words, |rig| rig.has_problem(words));
    }
    rig.until("the good one", |rig| rig.has(1) && rig.ports() == 1);
}

/// An object that is wrong is told as such, after the version that was good.
#[test]
fn a_wrong_object_keeps_its_last_good_version() {
    let mut rig = Rig::new();
    rig.write("a.json", &ports(&[1, 2], 1));
    rig.until("ports", |rig| rig.ports() == 2);
    rig.write(
        "a.json",
        &ports(&[1, 2], 2).replace("fa:16:3e:00:00:01", "nonsense"),
    );
    rig.until("the other's change", |rig| rig.revision(2) == Some(2));
    assert!(rig.bad.contains(&port_id(1)) && rig.revision(1) == Some(1));
    let Some((_, Change::Bad(problem))) = rig.log.iter().rfind(|(id, _)| *id == port_id(1)) else {
        panic!("no problem was told");
    };
    assert_eq!(problem.field, "mac");
    rig.write("a.json", &ports(&[1, 2], 1));
    rig.until("mended", |rig| {
        rig.bad.is_empty() && rig.revision(2) == Some(1)
    });
}

/// An entry without an id may be any that the file had: none of them is gone.
#[test]
fn an_entry_without_id_holds_deletions_in_its_file() {
    let mut rig = Rig::new();
    rig.write("a.json", &ports(&[1, 2], 1));
    rig.write("b.json", &ports(&[3], 1));
    rig.until("ports", |rig| rig.ports() == 3);
    let unnamed = r#"{"version":1,"ports":[{"id":"///","mac":"fa:16:3e:00:00:02"}]}"#;
    rig.write("a.json", unnamed);
    rig.until("problem", |rig| rig.has_problem("ports[0]"));
    rig.remove("b.json");
    rig.until("another file's removal", |rig| !rig.has(3));
    assert!(rig.has(1) && rig.has(2));
    rig.write("a.json", &ports(&[1], 1));
    rig.until("mended", |rig| rig.has(1) && !rig.has(2));
}

/// Two files with one object: the higher revision, then the first by path;
/// the other is named.
#[test]
fn two_files_with_one_object() {
    let mut rig = Rig::new();
    rig.write("b.json", &ports(&[1], 5));
    rig.until("port", |rig| rig.revision(1) == Some(5));
    rig.write("a.json", &ports(&[1], 4));
    rig.until("problem", |rig| rig.has_problem("a.json: port port-0001"));
    assert_eq!(rig.revision(1), Some(5));
    rig.write("a.json", &ports(&[1], 5));
    rig.until("tie", |rig| rig.has_problem("b.json: port port-0001"));
    rig.remove("b.json");
    rig.until("one left", |rig| rig.state.problems.is_empty());
    assert!(rig.has(1));
    let gone = rig.log.iter().filter(|(_, change)| *change == Change::Gone);
    assert_eq!(gone.count(), 0);
}

/// What is written again as it was tells nobody anything.
#[test]
fn only_differences_are_told() {
    let mut rig = Rig::new();
    rig.write("a.json", &ports(&[1, 2], 1));
    rig.until("ports", |rig| rig.ports() == 2);
    rig.settle();
    let told = rig.log.len();
    rig.write("a.json", &ports(&[2, 1], 1).replace(',', " , "));
    rig.settle();
    assert_eq!(rig.log.len(), told);
    rig.write("a.json", &ports(&[1, 2, 3], 1));
    rig.until("port", |rig| rig.has(3));
    assert_eq!(rig.log.len(), told + 1);
}

//! The last intent on disk: what is stored comes back, and nothing that is
//! wrong there costs more than itself.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use l2isolate_model::{
    document::{self, Object, ObjectId},
    intent::Change,
};
use l2isolate_source::cache::{Cache, Loaded};

const DOCUMENT: &str = r#"{"version":1,
    "subnets":[{"id":"s1","cidr":"10.252.0.0/16","gateway":"10.252.0.1"}],
    "groups":[{"id":"g1","rules":[{"direction":"ingress","ethertype":"IPv4","protocol":"tcp"}]}],
    "address_groups":[{"id":"a1","addresses":["10.0.0.0/8"]}],
    "ports":[{"id":"p1","revision":3,"mac":"fa:16:3e:00:00:01","hostname":"web",
              "addresses":[{"address":"10.252.0.10","subnet":"s1"}]},
             {"id":"p2","mac":"fa:16:3e:00:00:02","binding":{"state":"incoming","peer":"10.255.1.2"}}]}"#;

fn objects() -> Vec<Object> {
    let document = document::parse(DOCUMENT.as_bytes(), Path::new("test")).unwrap();
    let object = |change| match change {
        Change::Set { object, .. } => object,
        other => panic!("{other:?}"),
    };
    let objects = document.objects.into_iter();
    objects.map(|(_, change)| object(change)).collect()
}

/// What was read whole, sorted as the cache gives it.
fn good(loaded: &Loaded) -> Vec<Object> {
    let object = |change: &Change| match change {
        Change::Set { object, .. } => Some(object.clone()),
        _ => None,
    };
    loaded
        .changes
        .iter()
        .filter_map(|(_, c)| object(c))
        .collect()
}

fn open(directory: &Path) -> (Cache, Loaded) {
    Cache::open(directory).unwrap()
}

#[test]
fn what_is_stored_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, loaded) = open(directory.path());
    assert_eq!(loaded, Loaded::default());
    let objects = objects();
    assert!(cache.store(&objects, &BTreeMap::new()).is_empty());
    let now: jiff::Timestamp = "2026-11-23T05:00:00Z".parse().unwrap();
    cache.set_synced(now).unwrap();
    let (cache, loaded) = open(directory.path());
    assert_eq!(good(&loaded), objects);
    assert_eq!((loaded.synced, loaded.problems.len()), (Some(now), 0));
    let ids: Vec<ObjectId> = objects.iter().map(Object::id).collect();
    assert!(cache.remove(&ids).is_empty());
    assert!(
        cache.remove(&ids).is_empty(),
        "what is gone needs no removal"
    );
    assert_eq!(open(directory.path()).1.changes, []);
}

#[test]
fn nobody_else_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let intent = directory.path().join("intent");
    fs::create_dir(&intent).unwrap();
    fs::set_permissions(&intent, fs::Permissions::from_mode(0o755)).unwrap();
    let (cache, _) = open(directory.path());
    assert!(cache.store(&objects(), &BTreeMap::new()).is_empty());
    cache.set_synced(jiff::Timestamp::UNIX_EPOCH).unwrap();
    let mode = |path: &str| fs::metadata(intent.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode(""), mode("ports"), mode("subnets")),
        (0o700, 0o700, 0o700)
    );
    assert_eq!((mode("ports/p1.json"), mode("synced")), (0o600, 0o600));
}

/// Each bad file is named; the others load; its object is known, so that it
/// goes when the source doesn't have it.
#[test]
fn a_bad_file_costs_nothing_but_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    assert!(cache.store(&objects(), &BTreeMap::new()).is_empty());
    let file = |name: &str| directory.path().join("intent").join(name);
    fs::write(file("ports/p1.json"), "{\"version\":1,").unwrap();
    fs::write(
        file("ports/p3.json"),
        fs::read(file("ports/p2.json")).unwrap(),
    )
    .unwrap();
    fs::write(file("ports/p4.json"), DOCUMENT).unwrap();
    fs::write(file("ports/-.json"), "{}").unwrap();
    fs::write(file("ports/.p5.json.tmp"), "{").unwrap();
    fs::write(file("synced"), "yesterday").unwrap();
    let (cache, loaded) = open(directory.path());
    assert_eq!(good(&loaded).len(), 4);
    let bad: Vec<String> = loaded
        .changes
        .iter()
        .filter_map(|(id, change)| match change {
            Change::Bad(problem) => {
                assert_eq!(problem.object, id.to_string());
                Some(problem.to_string())
            }
            _ => None,
        })
        .collect();
    assert!(bad[0].contains("p1.json: port p1: is not JSON"), "{bad:?}");
    assert!(
        bad[1].contains("p3.json: port p3: doesn't hold port p3 and nothing else"),
        "{bad:?}"
    );
    assert_eq!(bad.len(), 3);
    assert_eq!(loaded.problems.len(), 2, "{:?}", loaded.problems);
    assert!(
        !file("ports/.p5.json.tmp").exists(),
        "leftovers are removed"
    );
    assert!(cache.store(&objects(), &BTreeMap::new()).is_empty());
    assert!(
        cache
            .remove(&[ObjectId::Port("p3".parse().unwrap())])
            .is_empty()
    );
    assert_eq!(good(&open(directory.path()).1).len(), 5);
}

/// A medium that can't be written: the error names the file, and what was there
/// stays. A directory in the way stands for it.
#[test]
fn what_cannot_be_written_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    let objects = objects();
    assert!(cache.store(&objects, &BTreeMap::new()).is_empty());
    let aside = directory.path().join("intent/ports/.p1.json.tmp");
    fs::create_dir(&aside).unwrap();
    let errors = cache.store(&objects, &BTreeMap::new());
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("intent/ports/p1.json"));
    fs::remove_dir(&aside).unwrap();
    assert_eq!(good(&open(directory.path()).1), objects);
}

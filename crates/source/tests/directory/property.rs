//! Whatever is done to the files: in the end downstream knows what a reading
//! from scratch finds.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Write {
        path: usize,
        ports: Vec<usize>,
        revision: u64,
        aside: bool,
    },
    Remove {
        path: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    RemoveDirectory {
        which: usize,
    },
    Pause,
}

const PATHS: [&str; 7] = [
    "a.json",
    "b.json",
    "x/a.json",
    "x/b.json",
    "x/y/a.json",
    "z/a.json",
    "ignored.txt",
];
const DIRECTORIES: [&str; 3] = ["x", "x/y", "z"];

fn step() -> impl Strategy<Value = Step> {
    let path = || 0..PATHS.len();
    let ports = proptest::collection::vec(0..6_usize, 0..4);
    prop_oneof![
        5 => (path(), ports, 1..4_u64, any::<bool>()).prop_map(|(path, ports, revision, aside)| {
            Step::Write { path, ports, revision, aside }
        }),
        2 => path().prop_map(|path| Step::Remove { path }),
        2 => (path(), path()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => (0..DIRECTORIES.len()).prop_map(|which| Step::RemoveDirectory { which }),
        1 => Just(Step::Pause),
    ]
}

/// Steps that can't be taken (no such file) are none.
fn take(root: &Path, step: Step) {
    let path = |index: usize| root.join(PATHS[index]);
    let parent = |path: &Path| fs::create_dir_all(path.parent().unwrap()).unwrap();
    match step {
        Step::Write {
            path: index,
            ports: mut which,
            revision,
            aside,
        } => {
            which.sort_unstable();
            which.dedup();
            let (path, text) = (path(index), ports(&which, revision));
            parent(&path);
            if aside {
                let temporary = path.with_file_name(".tmp");
                fs::write(&temporary, text).unwrap();
                fs::rename(temporary, path).unwrap();
            } else {
                fs::write(path, text).unwrap();
            }
        }
        Step::Remove { path: index } => drop(fs::remove_file(path(index))),
        Step::Rename { from, to } => {
            parent(&path(to));
            drop(fs::rename(path(from), path(to)));
        }
        Step::RemoveDirectory { which } => drop(fs::remove_dir_all(root.join(DIRECTORIES[which]))),
        Step::Pause => std::thread::sleep(Duration::from_millis(40)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn downstream_knows_what_is_there(steps in proptest::collection::vec(step(), 1..25)) {
        let temporary = tempfile::tempdir().unwrap();
        let mut rig = Rig::start(Options {
            settle: Duration::from_millis(10),
            grace: Duration::from_millis(50),
            ..options(temporary.path())
        });
        for step in steps {
            take(&rig.directory, step);
        }
        let directory = rig.directory.clone();
        rig.until("what is there", move |rig| rig.objects == fresh(&directory));
        std::thread::sleep(Duration::from_millis(70));
        while let Ok(update) = rig.updates.try_recv() {
            rig.take(update);
        }
        rig.assert_in_sync();
        prop_assert!(rig.is_available() && rig.complete);
    }
}

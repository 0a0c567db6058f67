//! A lab leaves nothing behind, however its run ends.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use l2isolate_lab::{lab, netns, process};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// `up` with an agent that ends at once; the rest of the lab is as always.
fn start_up(name: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_l2isolate-lab"))
        .args([
            "up",
            "--name",
            name,
            "--fabric",
            "mixed",
            "--agent",
            "/bin/true",
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn namespaces(name: &str) -> Vec<String> {
    netns::list(&format!("l2i-{name}-")).unwrap()
}

/// Waits until daemons run: the middle of `up`.
fn wait_for_daemons(name: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    while process::in_namespaces(&namespaces(name))
        .unwrap()
        .is_empty()
    {
        assert!(Instant::now() < end, "no daemon has started");
        thread::sleep(Duration::from_millis(5));
    }
}

fn assert_nothing_left(name: &str, held: &[File]) {
    assert_eq!(namespaces(name), Vec::<String>::new());
    assert!(!Path::new("/run/l2isolate-lab").join(name).exists());
    // Namespaces without a name could still hold processes.
    for file in held {
        use std::os::unix::fs::MetadataExt as _;
        let meta = file.metadata().unwrap();
        let running = std::fs::read_dir("/proc").unwrap().flatten().find(|entry| {
            std::fs::metadata(entry.path().join("ns/net"))
                .is_ok_and(|m| (m.dev(), m.ino()) == (meta.dev(), meta.ino()))
        });
        assert!(
            running.is_none(),
            "{:?} lives on",
            running.map(|e| e.path())
        );
    }
}

/// Open files of all namespaces, by which they are known after their end.
fn hold(name: &str) -> Vec<File> {
    let open = |n: &String| File::open(Path::new("/run/netns").join(n)).unwrap();
    namespaces(name).iter().map(open).collect()
}

// kill -9 in the middle of `up`: nothing could tidy up, the next run must.
#[test]
fn a_lab_whose_owner_died_is_found_and_removed() {
    let name = lab::unique_name("lab");
    let mut child = start_up(&name);
    wait_for_daemons(&name);
    child.kill().unwrap();
    child.wait().unwrap();
    let held = hold(&name);
    assert!(!held.is_empty());
    // Another run of this test may be first.
    lab::down_dead().unwrap();
    assert_nothing_left(&name, &held);
}

// Ctrl-C in the middle of `up`.
#[test]
fn an_interrupted_up_takes_itself_down() {
    let name = lab::unique_name("lab");
    let mut child = start_up(&name);
    wait_for_daemons(&name);
    let held = hold(&name);
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert_nothing_left(&name, &held);
}

// Two labs of one name would fight; a living owner's lab is nobody else's to
// remove; other labs stay untouched by `down`.
#[test]
fn labs_keep_to_themselves() {
    let names = [lab::unique_name("lab"), lab::unique_name("labb")];
    for name in &names {
        assert!(start_up(name).wait().unwrap().success());
    }
    assert_eq!(start_up(&names[0]).wait().unwrap().code(), Some(1));
    let held = hold(&names[0]);
    lab::down(&names[0]).unwrap();
    assert_nothing_left(&names[0], &held);
    lab::down_dead().unwrap();
    let left = namespaces(&names[1]);
    assert_eq!(left.len(), 18);
    let running = process::in_namespaces(&left).unwrap();
    assert_eq!(running.len(), 10, "a router has lost its daemon");
    let held = hold(&names[1]);
    lab::down(&names[1]).unwrap();
    assert_nothing_left(&names[1], &held);
    assert!(lab::down(&names[1]).is_err());
}

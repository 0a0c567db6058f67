//! What is wrong with a daemon is named, with what to do.

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _, os::unix::net::UnixListener};

use l2isolate_advertise::{
    driver::{BirdSettings, Change, Daemon, FailureKind, FrrSettings},
    render::Flavour,
};
use l2isolate_model::announce::Attributes;

use crate::harness::{Fabric, prefix};

/// vtysh runs as a user of its own: of FRR's group it may, another may not, and
/// that is said.
#[test]
fn vtysh_runs_as_another_user() {
    let fabric = Fabric::new(Flavour::Frr);
    let mut driver = fabric.daemon_as(Some("nobody")).open();
    fabric.up(driver.as_mut());
    let change = Change::Set(prefix(1), Attributes::default());
    assert_eq!(driver.apply(&[change]), [Ok(())]);
    let mut driver = fabric.daemon_as(Some("nosuchuser")).open();
    let failure = driver.observe().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permission);
    assert!(failure.remedy.contains("advertise_user"), "{failure}");
}

/// A socket that may not be opened isn't taken for a daemon that is away.
#[test]
fn a_socket_without_permission_is_named() {
    let fabric = Fabric::new(Flavour::Frr);
    let socket = fabric.path("hv/bgpd.vty");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o700)).unwrap();
    let failure = fabric.daemon_as(Some("nobody")).open().observe();
    let failure = failure.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permission, "{failure}");
    assert!(failure.what.contains("bgpd.vty"), "{failure}");
}

#[test]
fn what_is_not_there_is_named() {
    let missing = |vtysh: &str| {
        let settings = FrrSettings {
            vtysh: vtysh.into(),
            sockets: "/nonexistent".into(),
            user: None,
        };
        Daemon::Frr(settings).open().observe().unwrap_err()
    };
    let failure = missing("/usr/bin/vtysh");
    assert_eq!(failure.kind, FailureKind::Absent, "{failure}");
    assert!(failure.remedy.contains("bgpd=yes"), "{failure}");
    let failure = missing("/nonexistent/vtysh");
    assert_eq!(failure.kind, FailureKind::Absent, "{failure}");
    assert!(failure.remedy.contains("install frr"), "{failure}");
}

/// A BIRD whose configuration doesn't include the agent's file would announce
/// nothing without a word.
#[test]
fn a_bird_that_does_not_include_the_file_is_named() {
    let fabric = Fabric::with(Flavour::Bird, |host| {
        host.bird_file = "/etc/bird/of-another.conf".into();
    });
    let mut driver = fabric.daemon().open();
    fabric.up(driver.as_mut());
    let results = driver.apply(&[Change::Set(prefix(1), Attributes::default())]);
    let failure = results.into_iter().next().unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    assert!(failure.remedy.contains("include"), "{failure}");
}

/// No old daemon can be installed here, so one is played in its own words: an FRR
/// that says what it is and refuses what it doesn't know, a BIRD that greets. It
/// isn't the refusal that is named, but the age.
#[test]
fn what_is_too_old_is_named() {
    let place = tempfile::TempDir::new().unwrap();
    let vtysh = place.path().join("vtysh");
    let words = "#!/bin/sh\necho 'FRRouting 7.5.1 (hv).'\n\
                 echo '% Unknown command: show bgp ipv4 unicast json detail'\nexit 1\n";
    fs::write(&vtysh, words).unwrap();
    fs::set_permissions(&vtysh, fs::Permissions::from_mode(0o755)).unwrap();
    let frr = Daemon::Frr(FrrSettings {
        vtysh,
        sockets: place.path().to_owned(),
        user: None,
    });
    let socket = place.path().join("bird.ctl");
    let listener = UnixListener::bind(&socket).unwrap();
    let bird = Daemon::Bird(BirdSettings {
        socket,
        file: place.path().join("l2isolate.conf"),
    });
    let greeter = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"0001 BIRD 2.0.7 ready.\n").unwrap();
    });
    for (daemon, version) in [(frr, "FRR 7.5.1"), (bird, "BIRD 2.0.7")] {
        let failure = daemon.open().observe().unwrap_err();
        assert_eq!(failure.kind, FailureKind::Version, "{failure}");
        assert!(failure.what.contains(version), "{failure}");
        assert!(failure.remedy.contains("install"), "{failure}");
    }
    greeter.join().unwrap();
}

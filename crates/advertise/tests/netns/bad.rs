//! What is wrong with a daemon is named, with what to do.

use l2isolate_advertise::{
    driver::{Change, Daemon, FailureKind, FrrSettings},
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
    use std::{fs, os::unix::fs::PermissionsExt};
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

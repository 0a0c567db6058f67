//! Each daemon's own parser takes what is rendered for it, with every option.

use std::{fs, process::Command};

use l2isolate_advertise::render::{Error, Flavour, Host, Way, render};
use l2isolate_lab::netns;
use tempfile::TempDir;

use crate::harness::{Fabric, host};

/// Every combination of what can be chosen.
fn every(flavour: Flavour, way: Way) -> Vec<Host> {
    let mut all = Vec::new();
    for bits in 0_u8..16 {
        let on = |bit: u8| bits & 1 << bit != 0;
        let mut host = Host {
            way,
            bfd: on(0),
            password: on(1).then(|| "s3cret".to_owned()),
            roles: on(2),
            ..host(flavour)
        };
        if on(3) {
            host.uplinks[0].peer = Some("fe80::1".parse().unwrap());
        }
        all.push(host);
    }
    all
}

fn parses(host: &Host, flavour: Flavour, command: impl Fn(&std::path::Path) -> Command) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("rendered.conf");
    let text = render(host, flavour).unwrap();
    fs::write(&path, &text).unwrap();
    let output = command(&path).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let fine = output.status.success() && !said.contains('%');
    assert!(fine, "{said}\n{text}");
}

#[test]
fn frr_takes_what_is_rendered() {
    for way in [Way::Kernel, Way::Told] {
        for host in every(Flavour::Frr, way) {
            parses(&host, Flavour::Frr, |path| {
                let mut command = Command::new("vtysh");
                command.arg("-C").arg("-f").arg(path);
                command
            });
        }
    }
}

#[test]
fn bird_takes_what_is_rendered() {
    for way in [Way::Kernel, Way::Told] {
        for host in every(Flavour::Bird, way) {
            parses(&host, Flavour::Bird, |path| {
                let mut command = Command::new("bird");
                command.arg("-p").arg("-c").arg(path);
                command
            });
        }
    }
}

#[test]
fn gobgp_takes_what_is_rendered() {
    // It looks for the interfaces already when it reads.
    let fabric = Fabric::new(Flavour::Gobgp);
    for host in every(Flavour::Gobgp, Way::Told) {
        let host = Host {
            uplinks: fabric.host_config().uplinks,
            ..host
        };
        parses(&host, Flavour::Gobgp, |path| {
            let mut command = netns::command(&fabric.namespace("hv"), "gobgpd");
            command.args(["--dry-run", "-t", "toml", "-f"]).arg(path);
            command
        });
    }
    let picking = Host {
        way: Way::Kernel,
        ..host(Flavour::Gobgp)
    };
    let refused = render(&picking, Flavour::Gobgp);
    assert_eq!(refused, Err(Error::GobgpKernel));
}

/// What a version doesn't know is left out, and that is said.
#[test]
fn an_old_version_is_given_what_it_knows() {
    let text = |version: &str, flavour| {
        let host = Host {
            version: version.to_owned(),
            bfd: true,
            ..host(flavour)
        };
        render(&host, flavour).unwrap()
    };
    assert!(text("8.4.4", Flavour::Frr).contains("local-role customer"));
    let old = text("8.0", Flavour::Frr);
    assert!(!old.contains("local-role") && !old.contains("long-lived"));
    assert!(old.contains("aren't known to this version"));
    assert!(text("2.0.12", Flavour::Bird).contains("local role customer"));
    assert!(!text("2.0.10", Flavour::Bird).contains("local role"));
}

/// A dead switch is left when BFD says so, whatever graceful restart would rather do.
#[test]
fn frr_doesn_t_weigh_bfd_against_graceful_restart() {
    let host = Host {
        bfd: true,
        ..host(Flavour::Frr)
    };
    let text = render(&host, Flavour::Frr).unwrap();
    assert!(text.contains("neighbor SWITCHES bfd profile SWITCHES"));
    assert!(!text.contains("SWITCHES bfd check-control-plane-failure"));
}

/// Text that would end what it stands in isn't rendered.
#[test]
fn text_that_breaks_out_is_refused() {
    for flavour in [Flavour::Frr, Flavour::Bird, Flavour::Gobgp] {
        for bad in ["a\"b", "a\nb", "a b", "a;b", ""] {
            let host = Host {
                password: Some(bad.to_owned()),
                ..host(flavour)
            };
            let refused = matches!(render(&host, flavour), Err(Error::Text(..)));
            assert!(refused, "{bad:?}");
        }
    }
    let bare = Host {
        uplinks: Vec::new(),
        ..host(Flavour::Frr)
    };
    assert_eq!(render(&bare, Flavour::Frr), Err(Error::NoUplink));
}

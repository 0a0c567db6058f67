//! What systemd is told of the two processes (packaging/).

use std::{fs, path::Path, process::Command};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    guests::Cloud,
    harness::{Host, PROGRAM},
};

fn unit(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join("packaging").join(name)).unwrap()
}

/// All words that a unit says of something, in order.
fn words<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let values = lines.filter(|(name, _)| *name == key);
    values
        .flat_map(|(_, value)| value.split_whitespace())
        .collect()
}

/// Whether systemd takes every line of a unit.
fn verified(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let name = file.display();
    assert!(output.status.success() && said.is_empty(), "{name}: {said}");
}

/// systemd takes every line of the units, and the programs that they name take
/// their arguments.
#[test]
fn systemd_understands_the_units() {
    let host = Host::new();
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/l2isolate-libvirt");
    let text = unit("l2isolate-libvirt.service");
    let started = words(&text, "ExecStart");
    assert_eq!(started[0], "/usr/bin/l2isolate-libvirt");
    let arguments = Command::new("/usr/bin/python3")
        .arg(&helper)
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8_lossy(&arguments.stdout);
    assert!(help.contains(started[1]), "{help}");
    verified(
        &host.path("l2isolate-libvirt.service"),
        &text.replace(started[0], PROGRAM),
    );
    for name in ["l2isolate.service", "l2isolate-metadata.service"] {
        let text = unit(name);
        let [installed, verb, file, path] = words(&text, "ExecStart")[..] else {
            panic!("{name}: what does it start?");
        };
        assert_eq!(installed, "/usr/bin/l2isolate", "{name}");
        verified(&host.path(name), &text.replace(installed, PROGRAM));
        let help = Command::new(PROGRAM)
            .args([verb, "--help"])
            .output()
            .unwrap();
        let help = String::from_utf8_lossy(&help.stdout);
        assert!(help.contains(file), "{name}: {help}");
        assert_eq!(path, "/etc/l2isolate/l2isolate.conf", "{name}");
    }
    // ProtectSystem makes /etc read-only, where bird_file is by default.
    let sample = include_str!("../../../../docs/l2isolate.conf.sample");
    assert!(sample.contains("#bird_file = /etc/bird/"));
    assert_eq!(
        words(&unit("l2isolate.service"), "ReadWritePaths"),
        ["-/etc/bird"]
    );
    // The agent's end isn't dnsmasq's.
    assert_eq!(words(&unit("l2isolate.service"), "KillMode"), ["process"]);
}

/// The agent can do all its work with what its unit leaves it: wires taps, sets
/// the firewall, starts dnsmasq as another user, looks into it, ends it when it
/// hangs, and leaves it alone at its own end.
#[test]
fn what_the_unit_leaves_the_agent_is_enough() {
    let text = unit("l2isolate.service");
    assert_eq!(words(&text, "NoNewPrivileges"), ["true"]);
    let capabilities: Vec<String> = words(&text, "CapabilityBoundingSet")
        .iter()
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    assert!(capabilities.len() > 3);
    let bounded = format!("--bounding-set=-all{}", capabilities.concat());
    let mut cloud = Cloud::new("");
    let machine = cloud.boot(&Cloud::port(1, &[("10.252.1.10", "net4")]));
    cloud.start_with(&["--no-new-privs".to_owned(), bounded]);
    cloud.host.settled();
    assert_eq!(machine.lease().address.to_string(), "10.252.1.10");
    let pid = cloud.server();
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGSTOP).unwrap();
    cloud.host.until("another dnsmasq runs", || {
        let now = cloud.host.status()["dhcp"]["pid"].as_i64();
        now.is_some_and(|now| now != pid)
    });
    assert_eq!(machine.lease().address.to_string(), "10.252.1.10");
    let status = cloud.host.status();
    assert_eq!(status["failed"], 0, "{status:#}");
    cloud.host.stop();
    assert_eq!(machine.lease().address.to_string(), "10.252.1.10");
    for failure in ["Operation not permitted", "Permission denied"] {
        let log = cloud.host.whole_log();
        assert!(!log.contains(failure), "{log}");
    }
}

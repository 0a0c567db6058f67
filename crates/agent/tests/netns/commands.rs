//! The commands and the socket, as an operator meets them.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    process::Output,
};

use l2isolate_lab::netns;
use serde_json::Value;

use crate::harness::{Host, Port, run};

fn command(host: &Host, verb: &str, json: bool) -> Output {
    let socket = host.socket();
    let mut arguments = vec![verb, "--socket", socket.to_str().unwrap()];
    if json {
        arguments.push("--json");
    }
    run(&arguments)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// 0: all is well; 2: it needs attention. JSON and text say the same.
#[test]
fn commands_say_what_is_and_end_with_a_code_that_says_it_too() {
    let mut host = Host::new();
    let [one] = host.guests();
    host.start();
    host.wired(&[&one.port]);
    host.until("in sync", || host.status()["in_sync"] == true);
    for verb in ["status", "ports", "diff"] {
        for json in [false, true] {
            let output = command(&host, verb, json);
            assert_eq!(output.status.code(), Some(0), "{verb}: {output:?}");
            assert_eq!(text(&output.stderr), "");
        }
    }
    let status = json(&command(&host, "status", true));
    assert_eq!(
        (
            &status["host"],
            &status["ports"]["wired"],
            &status["announced"],
            &status["loopbacks"]
        ),
        (&"hv1".into(), &1.into(), &2.into(), &2.into())
    );
    let ports = json(&command(&host, "ports", true));
    assert_eq!(
        (ports[0]["id"].as_str(), ports[0]["state"].as_str()),
        (Some(one.port.id()), Some("wired"))
    );
    assert_eq!(json(&command(&host, "diff", true)), serde_json::json!([]));
    assert!(text(&command(&host, "ports", false).stdout).contains(one.port.tap()));
    // A port that is wrong.
    host.write(&Port::new(2).with("mac", "zz"));
    host.until("it is noticed", || host.status()["in_sync"] == false);
    for (verb, code) in [("status", 2), ("ports", 2), ("diff", 0)] {
        let output = command(&host, verb, true);
        assert_eq!(output.status.code(), Some(code), "{verb}: {output:?}");
        json(&output);
    }
    assert!(text(&command(&host, "status", false).stdout).contains("mac"));
}

/// 1: no answer. One line says what to look at.
#[test]
fn without_an_agent_a_command_fails_in_one_line() {
    let host = Host::new();
    for verb in ["status", "ports", "diff"] {
        let output = command(&host, verb, true);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stdout), "");
        let message = text(&output.stderr);
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(
            message.contains(host.socket().to_str().unwrap()),
            "{message}"
        );
    }
}

/// What can't be set is a difference with the kernel's reason: `diff` shows
/// it, and nothing else is held up by it.
#[test]
fn diff_shows_what_cannot_be_set() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    // A device that takes no MTU above 1500: veth does, macvlan doesn't.
    host.ip("link add link up0 name tap-small type macvlan mode bridge");
    let small = Port::new(3).with("tap", "tap-small").with("mtu", 9000);
    host.write(&small);
    host.start();
    host.until("the difference is there", || {
        host.diff()[0]["attempts"]
            .as_u64()
            .is_some_and(|tries| tries > 1)
    });
    let output = command(&host, "diff", true);
    assert_eq!(output.status.code(), Some(2));
    let differences = json(&output);
    assert_eq!(differences.as_array().unwrap().len(), 1, "{differences:#}");
    assert_eq!(differences[0]["object"], "mtu of tap-small");
    assert_eq!(differences[0]["port"], small.id());
    assert!(differences[0]["error"].is_string());
    assert!(one.reaches(&two.port.v4()));
    host.write(&small.with("mtu", 1500).with("revision", 2));
    host.until("nothing is left", || {
        command(&host, "diff", false).status.code() == Some(0)
    });
}

/// Only who is in the group may ask; the file goes with the agent; one that a
/// killed agent left is no obstacle.
#[test]
fn the_socket_is_for_its_group_and_for_one_agent() {
    let mut host = Host::new();
    let [one] = host.guests();
    host.start();
    host.wired(&[&one.port]);
    let meta = fs::metadata(host.socket()).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
    // A second agent refuses, in one line, and harms nothing.
    let config = host.path("l2isolate.conf");
    let second = netns::command(&host.hv, env!("CARGO_BIN_EXE_l2isolate"))
        .args(["agent", "--config-file", config.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let message = text(&second.stderr);
    let refusal = message.lines().last().unwrap_or_default();
    assert!(refusal.contains("another agent"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(host.status()["ports"]["wired"], 1);
    host.kill();
    assert!(host.socket().exists());
    host.start();
    host.settled();
    host.stop();
    assert!(!host.socket().exists());
    // What isn't a socket isn't removed.
    fs::write(host.socket(), "precious").unwrap();
    let third = netns::command(&host.hv, env!("CARGO_BIN_EXE_l2isolate"))
        .args(["agent", "--config-file", config.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(third.status.code(), Some(1));
    assert_eq!(fs::read_to_string(host.socket()).unwrap(), "precious");
}

/// Files of the state directory are for the agent alone.
#[test]
fn the_last_intent_is_readable_by_the_agent_alone() {
    let mut host = Host::new();
    let [one] = host.guests();
    host.start();
    host.wired(&[&one.port]);
    let file = host.path("state/intent/ports").join(one.port.file());
    host.until("it is kept", || file.exists());
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

/// Clients that say nothing, nonsense or too much hold up nobody.
#[test]
fn bad_clients_of_the_socket_hold_up_nobody() {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };
    let mut host = Host::new();
    let [one] = host.guests();
    host.start();
    host.wired(&[&one.port]);
    let silent: Vec<UnixStream> = (0..8)
        .map(|_| UnixStream::connect(host.socket()).unwrap())
        .collect();
    for nonsense in [
        "\n",
        "{}\n",
        "{\"verb\":\"explode\"}\n",
        &"x".repeat(100_000),
    ] {
        let mut client = UnixStream::connect(host.socket()).unwrap();
        // It may be turned away before it has said all.
        let _ = client.write_all(nonsense.as_bytes());
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        if client.read_to_string(&mut answer).is_ok() {
            assert!(answer.contains("error"), "{answer}");
        }
    }
    assert_eq!(host.status()["ports"]["wired"], 1);
    drop(silent);
}

/// A configuration that is wrong is refused whole, with file and line.
#[test]
fn check_config_finds_what_is_wrong() {
    let host = Host::new();
    let config = host.path("wrong.conf");
    fs::write(&config, "[l2isolate]\nroute_metric = many\nunknown = 1\n").unwrap();
    let arguments = [
        "check-config",
        "--json",
        "--config-file",
        config.to_str().unwrap(),
    ];
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let report = json(&output);
    assert_eq!(
        report["problems"].as_array().unwrap().len(),
        2,
        "{report:#}"
    );
    let agent = run(&["agent", "--config-file", config.to_str().unwrap()]);
    assert_eq!(agent.status.code(), Some(1));
    assert!(text(&agent.stderr).contains("wrong.conf:2"), "{agent:?}");
    let missing = run(&[
        "check-config",
        "--config-file",
        "/nonexistent/l2isolate.conf",
    ]);
    assert_eq!(missing.status.code(), Some(1));
}

/// Who may open more connections than the table holds can take others' room;
/// here the table is the first namespace's to size, as in a container.
#[test]
fn a_table_of_connections_that_is_too_small_is_named() {
    let mut host = Host::with("firewall = true\nlimit_connections = 10000000");
    let one = host.guest(1);
    host.write(&one.port);
    host.start();
    host.wired(&[&one.port]);
    let path = "/proc/sys/net/netfilter/nf_conntrack_max";
    let room = netns::inside(&host.hv, || fs::read_to_string(path).unwrap()).unwrap();
    let room: i64 = room.trim().parse().unwrap();
    host.until("the table is looked at", || {
        host.status()["connections"]["room"] == room
    });
    host.until("it is no difference that could be mended", || {
        host.status()["in_sync"] == true
    });
    let status = host.status();
    assert_eq!(status["connections"]["allowed"], 20_000_000);
    let unavailable = status["unavailable"].to_string();
    assert!(
        unavailable.contains(&format!("nf_conntrack_max (fixed at {room})")),
        "{unavailable}"
    );
    let shown = text(&command(&host, "status", false).stdout);
    assert!(shown.contains("limit_connections"), "{shown}");
    let config = host.path("l2isolate.conf").display().to_string();
    let checked = netns::inside(&host.hv, || {
        run(&["check-config", "--config-file", &config])
    });
    let checked = text(&checked.unwrap().stdout);
    assert!(checked.contains("nf_conntrack_max"), "{checked}");
}

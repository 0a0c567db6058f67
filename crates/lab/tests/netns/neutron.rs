//! A real Neutron in a lab: reached from hypervisors, restarted, and gone with
//! its lab however that ends. What it answers is tested in neutron/tests/rig.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use l2isolate_lab::{
    lab, netns,
    neutron::{ADDRESS, API_PORT, NODE, Options, Release, Rig},
    process,
    topology::{Mix, Role},
};
use serde_json::json;

use crate::fixture;

/// Agents and whoever plays Nova live in the hypervisors' namespaces; servers
/// and broker are killed and started by tests of faults.
#[test]
fn hypervisors_reach_it_and_it_comes_back_with_what_it_knew() {
    let lab = fixture::lab_without_agents(Mix::Bird);
    let rig = Rig::up(&lab, Options::new(Release::Oldest).unwrap()).unwrap();
    for node in lab.fabric().role(Role::Hypervisor) {
        let answer = netns::inside(&lab.namespace(&node.name), || {
            let mut stream = TcpStream::connect((ADDRESS, API_PORT)).unwrap();
            stream.write_all(b"GET /v2.0/ HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            // The broker, by the first words of its answer to nonsense.
            let mut broker = TcpStream::connect((ADDRESS, 5672)).unwrap();
            broker.write_all(b"nonsense").unwrap();
            let mut greeting = [0; 4];
            broker.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"AMQP");
            answer
        })
        .unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
    }
    let body = json!({"network": {"name": "kept"}});
    let made = rig.ask("POST", "networks", Some(&body)).unwrap();
    assert_eq!(made.status, 201, "{made:?}");
    rig.kill_servers().unwrap();
    let status = rig.status().unwrap();
    assert_eq!((status.answers, status.missing.len()), (false, 1));
    rig.broker().kill().unwrap();
    rig.broker().start().unwrap();
    rig.start_servers().unwrap();
    let found = rig.ask("GET", "networks?name=kept", None).unwrap();
    let id = &made.body["network"]["id"];
    assert_eq!(&found.body["networks"][0]["id"], id, "{found:?}");
    assert_eq!(
        rig.sql("select network_type from networksegments").unwrap(),
        "routed\n"
    );
    rig.down().unwrap();
    assert!(netns::identity(&lab.namespace(NODE)).is_err());
    assert!(Rig::open(&lab).is_err());
    let node = lab.fabric().role(Role::Hypervisor).next().unwrap();
    assert!(!lab.processes(&node.name).unwrap().is_empty());
    lab.down().unwrap();
}

/// kill -9 while it comes up: nothing could tidy up, the next run must.
#[test]
fn one_whose_owner_died_is_found_and_removed() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_l2isolate-lab"))
        .args(["neutron", "run", "--release", "21", "--", "true"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mine = format!("l2i-neutron{:x}", child.id());
    let end = Instant::now() + Duration::from_secs(60);
    let namespaces = loop {
        assert!(Instant::now() < end, "no process has started");
        let found = netns::list(&mine).unwrap();
        let running = process::in_namespaces(&found).unwrap();
        if running.values().flatten().any(|p| p.name() == "mariadbd") {
            break found;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let running = process::in_namespaces(&namespaces).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let name = namespaces[0].split('-').nth(1).unwrap().to_owned();
    assert!(lab::down_dead().unwrap().contains(&name));
    assert_eq!(netns::list(&mine).unwrap(), Vec::<String>::new());
    assert!(!Path::new("/run/l2isolate-lab").join(name).exists());
    for process in running.into_values().flatten() {
        assert!(!process.lives(), "{} lives on", process.name());
    }
}

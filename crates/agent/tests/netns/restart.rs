//! The agent ends and starts, in each way: for guests it is no event.

use std::{
    fs::{self, File},
    process::{Child, Stdio},
};

use l2isolate_lab::netns;

use crate::harness::{Flow, Host};

/// Everything that the kernel tells of changes in the hypervisor.
struct Monitor {
    child: Child,
}

impl Monitor {
    fn start(host: &Host) -> Self {
        let output = File::create(host.path("monitor")).unwrap();
        let arguments = [
            "monitor", "link", "address", "route", "neigh", "netconf", "rule",
        ];
        let child = netns::command(&host.hv, "ip")
            .args(arguments)
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let monitor = Self { child };
        mark(host, "203.0.113.1");
        monitor
    }

    /// What happened to taps and to what is marked as ours. Guests' own
    /// neighbours come and go by themselves, by their link-local addresses.
    fn heard(self, host: &Host) -> Vec<String> {
        mark(host, "203.0.113.2");
        let ours = |line: &String| line.contains("tap") || line.contains("proto 76");
        let own = |line: &String| {
            line.contains("fe80:") && line.contains("lladdr") && !line.contains("PERMANENT")
        };
        lines(host)
            .into_iter()
            .filter(|line| ours(line) && !own(line))
            .collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It doesn't end by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a noise of its own and waits until it is heard: all before it was
/// heard as well.
fn mark(host: &Host, address: &str) {
    host.until("the monitor hears", || {
        // Several times: it may not listen yet.
        host.ip(&format!("addr replace {address}/32 dev up0"));
        host.ip(&format!("addr del {address}/32 dev up0"));
        lines(host).iter().any(|line| line.contains(address))
    });
}

fn lines(host: &Host) -> Vec<String> {
    let text = fs::read_to_string(host.path("monitor")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Killed and started again, the agent finds everything in place: not one
/// write, not one event, not one datagram lost.
#[test]
fn killed_and_started_again_it_writes_nothing() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    let off = host.guest(3).port.with("admin_state_up", false);
    let coming = host.paused_guest(4).port.bound("incoming");
    host.write(&off);
    host.write(&coming);
    host.start();
    let ports = [&one.port, &two.port, &off, &coming];
    host.wired(&ports);
    host.settled();
    let flows = [Flow::start(&one, &two, 4), Flow::start(&two, &one, 6)];
    for _ in 0..3 {
        host.kill();
        host.wired(&ports);
        let monitor = Monitor::start(&host);
        host.start();
        host.settled();
        assert_eq!(monitor.heard(&host), Vec::<String>::new());
        assert_eq!(host.status()["written"], 0);
    }
    host.stop();
    host.wired(&ports);
    host.start();
    host.settled();
    assert_eq!(host.status()["written"], 0);
    for flow in flows {
        flow.unharmed();
    }
}

/// What went while nobody looked is cleared by the next agent, and what came
/// is wired.
#[test]
fn what_changed_while_it_was_away_is_caught_up() {
    let mut host = Host::new();
    let [one, two, three] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port, &three.port]);
    host.settled();
    let flow = Flow::start(&one, &two, 4);
    host.stop();
    host.remove(&three.port);
    let four = host.guest(4);
    host.write(&four.port);
    host.start();
    host.wired(&[&one.port, &two.port, &four.port]);
    assert!(four.reaches(&one.port.v4()));
    assert!(one.misses(&three.port.v4()));
    // A tap that went while nobody looked takes its floor along.
    host.kill();
    host.ip(&format!("link del {}", four.port.tap()));
    host.start();
    host.wired(&[&one.port, &two.port]);
    flow.unharmed();
}

/// Without its source the agent works from the last intent on disk: it wires
/// taps, mends, deletes nothing, and says so.
#[test]
fn without_its_source_it_works_from_the_last_intent() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    host.settled();
    host.kill();
    let aside = host.path("aside");
    fs::rename(host.intent(), &aside).unwrap();
    host.ip(&format!("route del {}/32 metric 5", one.port.v4()));
    host.ip(&format!("link del {}", two.port.tap()));
    host.start();
    host.tap(two.port.tap(), &two.namespace, "eth0");
    two.set_up();
    host.wired(&[&one.port, &two.port]);
    assert!(one.reaches(&two.port.v4()));
    let status = host.status();
    assert!(status["source"]["away"].is_string(), "{status:#}");
    assert!(status["source"]["last_update"].is_string(), "{status:#}");
    assert_eq!(status["in_sync"], false);
    // A port that has gone meanwhile is cleared once the source is back.
    fs::remove_file(aside.join(two.port.file())).unwrap();
    fs::rename(&aside, host.intent()).unwrap();
    host.wired(&[&one.port]);
    host.until("the source is back", || host.status()["in_sync"] == true);
}

/// An agent that knows nothing at all, not even by its cache, deletes nothing.
#[test]
fn an_agent_that_knows_nothing_deletes_nothing() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    host.settled();
    let flow = Flow::start(&one, &two, 6);
    host.kill();
    fs::remove_dir_all(host.path("state")).unwrap();
    let aside = host.path("aside");
    fs::rename(host.intent(), &aside).unwrap();
    host.start();
    host.until("it is started", || {
        host.status()["source"]["away"].is_string()
    });
    host.wired(&[&one.port, &two.port]);
    assert_eq!(host.status()["written"], 0);
    // A first reading that isn't complete is none: a half-written file hides
    // who knows which port.
    fs::write(aside.join(two.port.file()), "{ \"version\": 1, \"por").unwrap();
    fs::rename(&aside, host.intent()).unwrap();
    host.until("the file is reported", || {
        host.status()["problems"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    host.wired(&[&one.port, &two.port]);
    host.write(&two.port);
    host.settled();
    host.wired(&[&one.port, &two.port]);
    flow.unharmed();
}

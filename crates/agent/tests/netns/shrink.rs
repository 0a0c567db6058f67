//! Most ports vanish at once: that is more often an accident than a wish.

use std::fs;

use crate::harness::{Host, Port};

fn ports(host: &mut Host, count: u32) -> Vec<Port> {
    let far = host.namespace("guests");
    (1..=count)
        .map(|number| {
            let port = Port::new(number);
            host.tap(port.tap(), &far, &format!("p{number}"));
            host.write(&port);
            port
        })
        .collect()
}

/// Held, said loudly, and when the ports come back nothing has happened.
#[test]
fn more_than_half_of_the_ports_are_held() {
    let mut host = Host::new();
    let ports = ports(&mut host, 10);
    let all: Vec<&Port> = ports.iter().collect();
    host.start();
    host.wired(&all);
    host.settled();
    let before = host.status()["written"].clone();
    for port in &ports[2..] {
        host.remove(port);
    }
    host.until("the deletions are held", || host.status()["source"]["held_deletions"] == 8);
    let status = host.status();
    assert!(status["source"]["held_until"].is_string(), "{status:#}");
    assert!(host.whole_log().contains("more than half of the ports vanished"));
    host.wired(&all);
    for port in &ports[2..] {
        host.write(port);
    }
    host.until("nothing is held", || host.status()["source"]["held_deletions"] == 0);
    host.wired(&all);
    assert_eq!(host.status()["written"], before);
    // One port is no accident.
    host.remove(&ports[0]);
    host.wired(&all[1..]);
}

/// The same when the agent starts after it happened: the cache knows.
#[test]
fn it_is_held_across_a_restart() {
    let mut host = Host::new();
    let ports = ports(&mut host, 8);
    let all: Vec<&Port> = ports.iter().collect();
    host.start();
    host.wired(&all);
    host.settled();
    host.kill();
    for port in &ports {
        host.remove(port);
    }
    host.start();
    host.until("the deletions are held", || host.status()["source"]["held_deletions"] == 8);
    host.wired(&all);
    assert_eq!(host.status()["written"], 0);
}

/// After the grace it is taken for a wish.
#[test]
fn after_the_grace_they_go() {
    let mut host = Host::with("shrink_grace = 1");
    let ports = ports(&mut host, 6);
    host.start();
    host.wired(&ports.iter().collect::<Vec<_>>());
    for port in &ports {
        host.remove(port);
    }
    host.wired(&[]);
    assert_eq!(fs::read_dir(host.path("state/intent/ports")).unwrap().count(), 0);
}

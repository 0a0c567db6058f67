//! Most ports vanish at once: that is more often an accident than a wish.

use std::fs;

use crate::harness::{Host, Port};

/// Ports with their taps, all documents in a directory of their own so that
/// they can go and come in one go.
fn ports(host: &mut Host, count: u32) -> Vec<Port> {
    let far = host.namespace("guests");
    fs::create_dir(host.intent().join("most")).unwrap();
    (1..=count)
        .map(|number| {
            let port = Port::new(number);
            host.tap(port.tap(), &far, &format!("p{number}"));
            let file = host.intent().join("most").join(port.file());
            fs::write(file, port.to_document()).unwrap();
            port
        })
        .collect()
}

/// Takes that directory away, or brings it back.
fn rename(host: &Host, away: bool) {
    let (here, there) = (host.intent().join("most"), host.path("away"));
    let (from, to) = if away { (here, there) } else { (there, here) };
    fs::rename(from, to).unwrap();
}

/// Held, said loudly, and when the ports come back nothing has happened.
#[test]
fn more_than_half_of_the_ports_are_held() {
    let mut host = Host::new();
    let ports = ports(&mut host, 8);
    let (nine, ten) = (host.guest(9).port, host.guest(10).port);
    host.write(&nine);
    host.write(&ten);
    let mut all: Vec<&Port> = ports.iter().collect();
    all.extend([&nine, &ten]);
    host.start();
    host.wired(&all);
    host.settled();
    let before = host.status()["written"].clone();
    rename(&host, true);
    host.until("the deletions are held", || {
        host.status()["source"]["held_deletions"] == 8
    });
    let status = host.status();
    assert!(status["source"]["held_until"].is_string(), "{status:#}");
    assert!(
        host.whole_log()
            .contains("more than half of the ports vanished")
    );
    host.wired(&all);
    // One by one, as `cp` does it: none of them is given up meanwhile.
    for port in &ports {
        host.write(port);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    host.until("nothing is held", || {
        host.status()["source"]["held_deletions"] == 0
    });
    host.wired(&all);
    assert_eq!(host.status()["written"], before);
    // One port is no accident.
    host.remove(&ten);
    host.wired(&all[..9]);
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
    rename(&host, true);
    host.start();
    host.until("the deletions are held", || {
        host.status()["source"]["held_deletions"] == 8
    });
    host.wired(&all);
    assert_eq!(host.status()["written"], 0);
}

/// After the grace, or when an operator says so, it is taken for a wish.
#[test]
fn after_the_grace_or_on_request_they_go() {
    for (grace, release) in [("1", false), ("3000", true)] {
        let mut host = Host::with(&format!("shrink_grace = {grace}"));
        let ports = ports(&mut host, 6);
        host.start();
        host.wired(&ports.iter().collect::<Vec<_>>());
        host.settled();
        rename(&host, true);
        if release {
            host.until("the deletions are held", || {
                host.status()["source"]["held_deletions"] == 6
            });
            let socket = host.socket();
            let output = crate::harness::run(&["release", "--socket", socket.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        }
        host.wired(&[]);
        let kept = host.path("state/intent/ports");
        host.until("they are forgotten", || {
            fs::read_dir(&kept).unwrap().count() == 0
        });
    }
}

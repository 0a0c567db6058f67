//! The tunnel by which what still arrives follows a guest: that it is kept as it
//! shall be, that what is lacking is named, and who tells of a guest that stops.

use std::{path::Path, process::Command};

use serde_json::json;

use crate::harness::{Host, LOOPBACK4, Port, ip};

const PEER: &str = "10.255.1.2";
const TUNNEL: &str = "migration_tunnel = true\nuplinks = up0\nfirewall = true";

fn leaving(port: &Port, peer: &str) -> Port {
    port.with("binding", json!({"state": "outgoing", "peer": peer}))
        .with("mtu", 1464)
        .with("revision", 2)
}

/// Whoever takes away what the tunnel is made of, or changes it: it is mended; and an
/// agent that isn't to have one takes all of it away, but what isn't its own.
#[test]
fn the_tunnel_is_mended_and_goes_when_it_is_not_wanted() {
    let mut host = Host::with(TUNNEL);
    let one = host.guest(1);
    host.write(&leaving(&one.port, PEER));
    host.start();
    host.until("the guest leaves", || {
        host.migration(&one.port) == "outgoing"
    });
    one.pause();
    host.until("it has left", || host.migration(&one.port) == "followed");
    host.settled();
    let address = one.port.addresses()[0].to_string();
    let whole = |host: &Host| {
        let rules = host.ip("rule show") + &host.ip("-6 rule show");
        let link = host.ip("-d link show");
        let table = ip(&host.hv, "route show table 76 proto 76");
        rules.matches("iif l2isolate0 lookup 76").count() == 2
            && link.contains("l2isolate0")
            && link.contains("mtu 1464")
            && link.contains("gpe")
            && table.contains("unreachable default")
            && host
                .ip(&format!("route show {address}"))
                .contains(&format!("src {LOOPBACK4} dst {PEER}"))
    };
    assert!(whole(&host));
    for harm in [
        "link del l2isolate0".to_owned(),
        "link set l2isolate0 mtu 1400 down".to_owned(),
        "rule del iif l2isolate0".to_owned(),
        "-6 rule del iif l2isolate0".to_owned(),
        "route flush table 76".to_owned(),
        format!("route del {address}"),
    ] {
        host.ip(&harm);
        host.until(&format!("mended after {harm}"), || whole(&host));
    }
    // The port goes before the fabric has heard all: its routes go later.
    host.remove(&one.port);
    host.until("its port is gone", || host.migration(&one.port) == "gone");
    let routes = || host.ip(&format!("route show {address}"));
    host.until("what came was sent on", || routes().is_empty());
    host.write(&leaving(&one.port, PEER).with("revision", 3));
    host.until("all is there again", || whole(&host));
    host.kill();
    // Whoever else uses the table keeps what is his.
    host.ip("route add 192.0.2.77/32 dev up0 table 76");
    let path = host.path("l2isolate.conf");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("migration_tunnel = true", "")).unwrap();
    host.start();
    host.until("nothing is left of it", || {
        let rest = host.ip("rule show") + &host.ip("-6 rule show") + &host.ip("link show");
        !rest.contains("l2isolate0")
            && host.ip("route show table 76").lines().count() == 1
            && host.ip("-6 route show table 76").is_empty()
    });
    assert_eq!(host.migration(&one.port), "left");
}

/// A guest that can't be followed is handled as without a tunnel, and status says why:
/// also when that changes while it leaves.
#[test]
fn what_a_tunnel_lacks_is_named() {
    let mut host = Host::with(TUNNEL);
    let one = host.guest(1);
    let named = |host: &Host, words: &str| {
        let problems = host.status()["problems"].to_string();
        problems.contains(one.port.id()) && problems.contains(words)
    };
    host.write(&leaving(&one.port, PEER).with("mtu", 1500));
    host.start();
    host.until("the MTU is named", || {
        named(&host, "(MTU 1500) don't fit into the tunnel (1464)")
    });
    one.pause();
    host.until("it has left", || host.migration(&one.port) == "left");
    host.ip("link set up0 mtu 1536");
    host.until("there is room", || host.migration(&one.port) == "followed");
    host.write(&leaving(&one.port, "2001:db8:ff::2").with("revision", 3));
    host.until("the family is named", || {
        named(&host, "aren't of one family")
    });
    host.write(&leaving(&one.port, LOOPBACK4).with("revision", 4));
    host.until("itself is named", || {
        named(&host, "no other host's address")
    });
    host.write(&one.port.bound("outgoing").with("revision", 5));
    host.until("nobody is named", || named(&host, "isn't known (peer)"));
    assert_eq!(host.migration(&one.port), "left");
}

/// libvirt's helper: a guest that has stopped to go on elsewhere is told, and so is
/// one that goes on here; one that somebody paused isn't. The events are of libvirt's
/// test driver, which doesn't migrate: of that its constants are used.
#[test]
fn libvirts_helper_tells_what_becomes_of_a_guest() {
    const SCRIPT: &str = r"
import sys
from importlib import machinery, util
import libvirt

loader = machinery.SourceFileLoader('helper', sys.argv[1])
helper = util.module_from_spec(util.spec_from_loader('helper', loader))
loader.exec_module(helper)
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open('test:///default')
domain = connection.listAllDomains()[0]

class Once:
    # Its loop ends when all that was done has been heard.
    def domainEventRegisterAny(self, *arguments):
        connection.domainEventRegisterAny(*arguments)
    def isAlive(self):
        return False

helper.follow(Once(), sys.argv[2])
timer = libvirt.virEventAddTimeout(50, lambda *_: None, None)

def turn():
    for _ in range(3):
        libvirt.virEventRunDefaultImpl()

print(domain.UUIDString(), flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == 'migrate':
        helper.on_lifecycle(connection, domain, libvirt.VIR_DOMAIN_EVENT_SUSPENDED,
                            libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED, sys.argv[2])
    else:
        getattr(domain, word)()
        turn()
    print('done', flush=True)
";
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::Stdio,
    };
    let mut host = Host::with(TUNNEL);
    let one = host.guest(1);
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/l2isolate-libvirt");
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", SCRIPT])
        .arg(&helper)
        .arg(host.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = python.stdin.take().unwrap();
    let mut output = BufReader::new(python.stdout.take().unwrap()).lines();
    let instance = output.next().unwrap().unwrap();
    host.write(&leaving(&one.port, PEER).with("instance", instance));
    host.start();
    host.until("the guest leaves", || {
        host.migration(&one.port) == "outgoing"
    });
    for (word, state) in [
        ("suspend", "outgoing"),
        ("migrate", "followed"),
        ("resume", "outgoing"),
    ] {
        writeln!(input, "{word}").unwrap();
        assert_eq!(output.next().unwrap().unwrap(), "done");
        assert_eq!(host.migration(&one.port), state, "after {word}");
    }
    drop(input);
    assert!(python.wait().unwrap().success());
}

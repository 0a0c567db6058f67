//! Security groups as guests feel them, through the whole agent.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use l2isolate_kernel::conntrack::Conntrack;
use l2isolate_lab::netns;
use serde_json::{Value, json};

use crate::harness::{Flow, GATEWAY4, GATEWAY6, Guest, Host, LOOPBACK4, OUTSIDE4, OUTSIDE6, run};
use crate::hostile::kill_at_next_commit;

/// A document with one group.
pub(crate) fn group(id: &str, rules: &Value, members: &Value) -> String {
    json!({"version": 1, "groups": [{"id": id, "rules": rules, "members": members}]}).to_string()
}

pub(crate) fn open(directions: &[&str]) -> Value {
    let families = |direction: &&str| {
        let direction = (*direction).to_owned();
        ["IPv4", "IPv6"].map(|family| json!({"direction": direction, "ethertype": family}))
    };
    directions
        .iter()
        .flat_map(families)
        .collect::<Vec<_>>()
        .into()
}

pub(crate) fn nft(host: &Host, arguments: &str) -> String {
    let program = "nft";
    let output = netns::inside(&host.hv, || {
        Command::new(program)
            .args(arguments.split(' '))
            .output()
            .unwrap()
    });
    let output = output.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The promise itself: nothing passes that no group allows, both ways and both
/// families; what is allowed passes with its answers; a change applies at once.
#[test]
fn only_what_groups_allow() {
    let mut host = Host::with("firewall = true");
    let [mut one, mut two] = [1, 2].map(|number| host.guest(number));
    one.port = one.port.with("groups", json!(["client"]));
    two.port = two.port.with("groups", json!(["server"]));
    host.write(&one.port);
    host.write(&two.port);
    host.write_file("client.json", &group("client", &json!([]), &json!([])));
    host.write_file("server.json", &group("server", &json!([]), &json!([])));
    host.start();
    host.wired(&[&one.port, &two.port]);
    host.settled();
    assert!(one.misses(OUTSIDE4), "default deny");
    assert!(
        one.reaches(GATEWAY4),
        "the gateway answers a ping whatever the groups say"
    );
    assert!(one.reaches(GATEWAY6));
    assert!(one.misses(LOOPBACK4), "the hypervisor is not for guests");

    host.write_file(
        "client.json",
        &group("client", &open(&["egress"]), &json!([])),
    );
    host.until("egress opens", || one.reaches(OUTSIDE4));
    host.until("by IPv6 as well", || one.reaches(OUTSIDE6));
    assert!(
        one.misses(&two.port.v4()),
        "the other guest's group lets nobody in"
    );

    let icmp = json!([
        {"direction": "ingress", "ethertype": "IPv4", "protocol": "icmp", "remote_group": "client"},
    ]);
    host.write_file("server.json", &group("server", &icmp, &json!([])));
    host.settled();
    assert!(
        one.misses(&two.port.v4()),
        "the remote group has no members yet"
    );
    let members = json!([{"address": one.port.v4()}]);
    host.write_file(
        "client.json",
        &group("client", &open(&["egress"]), &members),
    );
    host.until("the member may", || one.reaches(&two.port.v4()));
    assert!(one.misses(&two.port.v6()), "that was for IPv4");
    assert!(two.misses(&one.port.v4()), "not the other way round");
    let socket = host.socket().display().to_string();
    let shown = run(&["show-nft", "--socket", &socket, "--port", two.port.id()]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("chain group-server-in {"), "{shown}");
    assert!(
        shown.contains(two.port.tap()) && !shown.contains(one.port.tap()),
        "{shown}"
    );
    assert!(host.counted(&two.port, "ingress", "dropped") > 0);
    assert!(host.counted(&one.port, "egress", "accepted") > 0);
}

/// Killed, restarted, flushed by a stranger: what is wired keeps its firewall,
/// and an agent that comes back finds it and writes nothing.
#[test]
fn survives_agents_and_strangers() {
    let mut host = Host::with("firewall = true");
    let mut guest = host.guest(1);
    guest.port = guest.port.with("groups", json!(["all"]));
    host.write(&guest.port);
    host.write_file("all.json", &group("all", &open(&["egress"]), &json!([])));
    host.start();
    host.wired(&[&guest.port]);
    host.settled();
    assert!(guest.reaches(OUTSIDE4));
    let tables = |host: &Host| nft(host, "-s list ruleset");
    let before = tables(&host);
    host.kill();
    assert!(guest.reaches(OUTSIDE4), "without an agent all goes on");
    host.start();
    host.settled();
    assert_eq!(host.status()["written"], 0, "adopted, not written again");
    assert_eq!(tables(&host), before);
    let _ = nft(&host, "flush ruleset");
    host.until("what a stranger flushed is mended", || {
        tables(&host) == before
    });
    assert!(guest.reaches(OUTSIDE4));
    // A tap that nobody knows, and a port that goes.
    let namespace = host.namespace("stray");
    host.tap("tapstray", &namespace, "eth0");
    netns::ip(&namespace, &["link", "set", "eth0", "up"]).unwrap();
    host.ip("link set tapstray up");
    host.ip("addr add 203.0.113.1/24 dev tapstray");
    netns::ip(
        &namespace,
        &["addr", "add", "203.0.113.2/24", "dev", "eth0"],
    )
    .unwrap();
    let ping = netns::command(&namespace, "ping")
        .args(["-c1", "-W1", "203.0.113.1"])
        .output();
    assert!(!ping.unwrap().status.success(), "an unknown tap is dropped");
    host.remove(&guest.port);
    host.until("its firewall goes", || {
        !tables(&host).contains(guest.port.tap())
    });
}

/// Guests send as themselves or not at all, and the counters say so.
#[test]
fn guests_are_who_they_are() {
    let mut host = Host::with("firewall = true");
    let mut guest = host.guest(1);
    guest.port = guest.port.with("groups", json!(["all"])).with(
        "allowed_address_pairs",
        json!([{"address": "10.66.0.0/16"}]),
    );
    host.write(&guest.port);
    host.write_file("all.json", &group("all", &open(&["egress"]), &json!([])));
    host.start();
    host.wired(&[&guest.port]);
    host.settled();
    for address in ["10.77.0.1/32", "10.66.0.1/32"] {
        guest.ip(&format!("addr add {address} dev eth0"));
    }
    let from = |source: &str| {
        let ping = netns::command(&guest.namespace, "ping");
        let mut ping = ping;
        ping.args(["-c1", "-W1", "-I", source, OUTSIDE4])
            .output()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20));
        (
            host.counted(&guest.port, "egress", "spoofed"),
            host.counted(&guest.port, "egress", "accepted"),
        )
    };
    let (spoofed, accepted) = from("10.66.0.1");
    assert!(accepted > 0, "an allowed address pair");
    let spoofed_ip = from("10.77.0.1").0;
    assert!(spoofed_ip > spoofed, "an address that isn't the guest's");
    guest.ip("link set eth0 address 02:00:00:00:99:99");
    let spoofed_mac = from("10.66.0.1").0;
    assert!(
        spoofed_mac > spoofed_ip,
        "a hardware address that isn't the guest's"
    );
}

/// Before any machine starts everything is closed, and what is there stays.
#[test]
fn the_base_is_closed() {
    let host = Host::with("firewall = true");
    let config = host.path("l2isolate.conf").display().to_string();
    let install =
        || netns::inside(&host.hv, || run(&["base-filter", "--config-file", &config])).unwrap();
    let output = install();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let first = nft(&host, "list ruleset");
    // Each hook asks about taps, and no set that lets one pass has anything in it.
    for chain in ["check-source", "check-sender", "judge-from", "host"] {
        let asked = format!("iifname \"tap*\" jump {chain}");
        assert!(first.contains(&asked), "{asked}: {first}");
    }
    assert!(first.contains("oifname \"tap*\" jump judge-to"), "{first}");
    let elements = first.matches("elements = {").count();
    let protected = first.matches("set protected-").count();
    assert_eq!(elements, protected, "{first}");
    assert!(install().status.success());
    assert_eq!(nft(&host, "list ruleset"), first);
}

/// A rule that goes takes the flows along that it had let in, under traffic;
/// also when the agent is killed in between. Other flows don't lose a packet.
#[test]
fn revocation_ends_flows_and_no_others() {
    let mut host = Host::with("firewall = true");
    let [mut one, mut two, mut three] = [1, 2, 3].map(|number| host.guest(number));
    for (guest, name) in [(&mut one, "one"), (&mut two, "two"), (&mut three, "three")] {
        guest.port = guest.port.with("groups", json!([name]));
        host.write(&guest.port);
        let all = group(name, &open(&["egress", "ingress"]), &json!([]));
        host.write_file(&format!("{name}.json"), &all);
    }
    host.start();
    host.wired(&[&one.port, &two.port, &three.port]);
    host.settled();
    let untouched = Flow::start(&one, &three, 4);
    let answered = Talk::start(&one, &two);
    assert!(answered.goes_on(), "it is allowed");

    host.write_file("two.json", &group("two", &json!([]), &json!([])));
    host.until("a revoked flow ends, established or not", || {
        !answered.goes_on()
    });
    host.write_file("two.json", &group("two", &open(&["ingress"]), &json!([])));
    host.until("and comes back when it may", || answered.goes_on());

    // The rules go while no agent is there to see to it.
    host.kill();
    assert!(answered.goes_on(), "no agent, no change");
    host.write_file("two.json", &group("two", &json!([]), &json!([])));
    host.start();
    host.until("the successor ends what its predecessor couldn't", || {
        !answered.goes_on()
    });
    untouched.unharmed();
}

/// How a guest goes.
type Leave = fn(&mut Host, &Guest);

/// An address that moves away leaves no flow behind: not with the world, nor
/// with a guest here that might as well begin it anew; also when the agent is
/// killed once the kernel has the new rules, and when it wasn't there at all.
/// Other flows don't lose a packet.
#[test]
fn addresses_that_leave_leave_no_flows() {
    let mut host = Host::with("firewall = true");
    let [mut one, mut two, mut three] = [1, 2, 3].map(|number| host.guest(number));
    for guest in [&mut one, &mut two, &mut three] {
        guest.port = guest.port.with("groups", json!(["all"]));
        host.write(&guest.port);
    }
    let all = group("all", &open(&["egress", "ingress"]), &json!([]));
    host.write_file("all.json", &all);
    host.start();
    let wired = |host: &Host| {
        host.wired(&[&one.port, &two.port, &three.port]);
        host.settled();
    };
    wired(&host);
    let untouched = Flow::start(&one, &three, 4);
    let theirs = [two.port.v4(), two.port.v6()].map(|a| a.parse::<IpAddr>().unwrap());
    let left = |host: &Host| {
        let flows = netns::inside(&host.hv, || {
            let mut tracking = Conntrack::open().unwrap();
            let flows =
                tracking.flows(|f| theirs.contains(&f.source) || theirs.contains(&f.destination));
            flows.unwrap().len()
        });
        flows.unwrap()
    };
    let leave: [(&str, Leave); 3] = [
        ("seen by the agent", |host, two| host.remove(&two.port)),
        ("killed between commit and clean-up", |host, two| {
            let killed = kill_at_next_commit(host);
            host.remove(&two.port);
            killed.join().unwrap();
            host.kill();
            host.start();
        }),
        ("while there was no agent", |host, two| {
            host.kill();
            host.remove(&two.port);
            host.start();
        }),
    ];
    for (how, leave) in leave {
        let talks = [4, 6].map(|family| Talk::by(family, &one, &two));
        for talk in &talks {
            host.until("they talk", || talk.goes_on());
        }
        assert!(two.reaches(OUTSIDE4) && two.reaches(OUTSIDE6));
        assert!(left(&host) >= 4, "{how}");
        leave(&mut host, &two);
        host.until(how, || left(&host) == 0);
        host.settled();
        assert_eq!(
            nft(&host, "list set inet l2isolate left-4")
                .matches("elements")
                .count(),
            0
        );
        host.write(&two.port);
        wired(&host);
    }
    untouched.unharmed();
}

/// Two guests that talk by UDP, question and answer, over one flow.
pub(crate) struct Talk {
    client: UdpSocket,
    server: UdpSocket,
}

impl Talk {
    pub(crate) fn start(client: &Guest, server: &Guest) -> Self {
        Self::by(4, client, server)
    }

    /// The same by the family 4 or 6.
    pub(crate) fn by(family: u8, client: &Guest, server: &Guest) -> Self {
        let bind = |guest: &Guest| {
            let address = match family {
                4 => guest.port.v4(),
                _ => guest.port.v6(),
            };
            let address = SocketAddr::new(address.parse().unwrap(), 0);
            let socket = netns::inside(&guest.namespace, || UdpSocket::bind(address).unwrap());
            let socket = socket.unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            socket
        };
        let (client, server) = (bind(client), bind(server));
        client.connect(server.local_addr().unwrap()).unwrap();
        server.connect(client.local_addr().unwrap()).unwrap();
        Self { client, server }
    }

    /// Whether a question is answered.
    pub(crate) fn goes_on(&self) -> bool {
        let mut datagram = [0; 16];
        (0..3).any(|_| {
            // A refusal of the earlier one is none of this one's.
            let _ = self.client.send(b"?");
            self.server.recv(&mut datagram).is_ok()
                && self.server.send(b"!").is_ok()
                && self.client.recv(&mut datagram).is_ok()
        })
    }
}

//! What a lease says, field by field, from a client that only asks; and who
//! gets none.

use serde_json::json;

use super::{Cloud, LONG, PAUSE, SHORT, process_status};
use l2isolate_lab::dhcp::{Client, DISCOVER, NAK, REQUEST};

/// RFC 3442's coding of routes.
fn routes(all: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (prefix, length, router) in all {
        let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
        bytes.push(*length);
        bytes.extend(&octets(prefix)[..usize::from(length.div_ceil(8))]);
        bytes.extend(octets(router));
    }
    bytes
}

/// Everything that a subnet and a port say arrives, options of the port by
/// name and by number among it; what can't be served is left out, named, and
/// costs nothing else.
#[test]
fn a_lease_says_all_that_the_intent_does() {
    let mut cloud = Cloud::new("dhcp_domain = example.org\ndhcp_lease_time = 7200\n");
    let options = json!([
        {"name": "ntp-server", "value": "10.255.0.123"},
        {"name": "bootfile-name", "value": "pxelinux.0"},
        {"name": "tag:ipxe,67", "value": "http://boot.example.org/menu?a=1&b=#2"},
        {"name": "server-ip-address", "value": "10.255.0.69"},
        {"name": "66", "value": "10.255.0.69"},
        {"name": "252", "value": "http://wpad.example.org/wpad.dat"},
        {"name": "warp-drive", "value": "9"},
        {"name": "router", "value": "not an address"},
        {"name": "53", "value": "6"},
        {"name": "17", "value": "evil\ntag:tap,3,192.0.2.66"},
        {"name": "dns-server", "value": "2001:db8::53", "ip_version": 6},
        {"name": "dns-server", "value": "192.0.2.1", "ip_version": 5},
    ]);
    let port = Cloud::port(1, &[("10.252.1.10", "net4")])
        .with("mtu", 1450)
        .with("hostname", "web-1")
        .with("dhcp_options", options);
    let machine = cloud.boot(&port);
    cloud.start();
    let lease = machine.lease();
    assert_eq!(lease.address.to_string(), "10.252.1.10");
    assert_eq!(
        lease.addresses(1),
        ["255.255.0.0".parse::<std::net::Ipv4Addr>().unwrap()]
    );
    assert_eq!(
        lease.addresses(28),
        ["10.252.255.255".parse::<std::net::Ipv4Addr>().unwrap()]
    );
    assert_eq!(
        lease.addresses(3),
        ["10.252.0.1".parse::<std::net::Ipv4Addr>().unwrap()]
    );
    let servers: Vec<String> = lease.addresses(6).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.255.0.53", "10.255.0.54"]);
    assert_eq!(lease.options[&26], 1450_u16.to_be_bytes());
    assert_eq!(lease.options[&51], 7200_u32.to_be_bytes());
    assert_eq!(lease.text(12), "web-1");
    assert_eq!(lease.text(15), "example.org");
    let expected = routes(&[
        ("169.254.169.254", 32, "10.252.0.1"),
        ("10.250.0.0", 16, "10.252.0.9"),
        ("0.0.0.0", 0, "10.252.0.1"),
    ]);
    assert_eq!(lease.options[&121], expected);
    assert_eq!(lease.options[&249], expected);
    assert_eq!(
        lease.addresses(42),
        ["10.255.0.123".parse::<std::net::Ipv4Addr>().unwrap()]
    );
    assert_eq!(lease.text(67), "pxelinux.0");
    assert_eq!(lease.text(66), "10.255.0.69");
    assert_eq!(lease.next_server.to_string(), "10.255.0.69");
    // iPXE, which the firmware has loaded, gets the next stage.
    let mut ipxe = machine.client();
    ipxe.send(DISCOVER, &[(175, &[1, 1, 1])]).unwrap();
    let offer = ipxe.answer(LONG).unwrap();
    assert_eq!(offer.text(67), "http://boot.example.org/menu?a=1&b=#2");

    let problems = cloud.problems();
    for (field, what) in [
        ("dhcp_options[6]", "warp-drive"),
        ("dhcp_options[7]", "not an address"),
        ("dhcp_options[8]", "53"),
        ("dhcp_options[9]", "character"),
        ("dhcp_options[11].ip_version", "5"),
    ] {
        let named =
            |p: &String| p.contains(&format!("{}: {field}:", port.id())) && p.contains(what);
        assert_eq!(
            problems.iter().filter(|p| named(p)).count(),
            1,
            "{field}: {problems:#?}"
        );
    }
    assert_eq!(problems.len(), 5, "{problems:#?}");
}

/// A subnet without gateway, one whose name servers are the default ones, one
/// that wants none, a host route for everything; prefix lengths of all kinds,
/// in both halves of the address space.
#[test]
fn subnets_of_all_kinds_are_served() {
    let mut cloud = Cloud::new("dns_servers = 192.0.2.53, 192.0.2.54, 2001:db8::53\n");
    cloud.subnet(json!({"id": "alone", "cidr": "10.9.0.0/24"}));
    cloud.subnet(json!({"id": "high", "cidr": "203.0.113.0/25", "dns": ["0.0.0.0"]}));
    cloud.subnet(
        json!({"id": "mute", "cidr": "172.16.0.0/30", "gateway": "172.16.0.1",
        "host_routes": [{"destination": "0.0.0.0/0", "nexthop": "172.16.0.2"}]}),
    );
    let ports = [
        (1, "10.9.0.5", "alone"),
        (2, "203.0.113.77", "high"),
        (3, "172.16.0.2", "mute"),
    ];
    let machines = ports.map(|(number, address, subnet)| {
        let port = Cloud::port(number, &[(address, subnet)]);
        cloud.boot(&port.with("hostname", serde_json::Value::Null))
    });
    cloud.start();
    let leases = machines.each_ref().map(|machine| machine.lease());
    let text = |addresses: Vec<std::net::Ipv4Addr>| -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    };
    for ((_, address, _), lease) in ports.iter().zip(&leases) {
        assert_eq!(lease.address.to_string(), *address);
    }
    let [alone, high, mute] = &leases;
    assert_eq!(text(alone.addresses(1)), ["255.255.255.0"]);
    assert_eq!(text(alone.addresses(3)), Vec::<String>::new());
    assert_eq!(
        alone.options[&121],
        routes(&[("169.254.169.254", 32, "0.0.0.0")])
    );
    assert_eq!(text(alone.addresses(6)), ["192.0.2.53", "192.0.2.54"]);
    assert_eq!(alone.text(12), "host-10-9-0-5");
    assert_eq!(alone.text(15), "openstacklocal");
    assert_eq!(text(high.addresses(1)), ["255.255.255.128"]);
    assert_eq!(text(high.addresses(28)), ["203.0.113.127"]);
    assert_eq!(text(high.addresses(6)), Vec::<String>::new());
    assert_eq!(text(mute.addresses(3)), ["172.16.0.2"]);
    let expected = [
        ("169.254.169.254", 32, "172.16.0.1"),
        ("0.0.0.0", 0, "172.16.0.2"),
    ];
    assert_eq!(mute.options[&121], routes(&expected));
    assert_eq!(text(mute.addresses(28)), ["172.16.0.3"]);
}

/// Nothing where DHCP is off, nothing for another's hardware address, nothing
/// on another's tap, nothing for a port that is down; and an illegal host name
/// costs the name alone.
#[test]
fn only_who_is_to_be_served_is() {
    let mut cloud = Cloud::new("");
    cloud.subnet(json!({"id": "off", "cidr": "10.8.0.0/24", "gateway": "10.8.0.1", "dhcp": false}));
    let named = Cloud::port(1, &[("10.252.1.10", "net4")]).with("hostname", "no_such name");
    let named = cloud.boot(&named);
    let off = cloud.boot(&Cloud::port(2, &[("10.8.0.5", "off")]));
    let down = Cloud::port(3, &[("10.252.1.12", "net4")]);
    let down = cloud.boot(&down.with("admin_state_up", false));
    let open = Cloud::port(4, &[("10.252.1.13", "net4")]).with("port_security", false);
    let open = cloud.boot(&open);
    let mute = Cloud::port(5, &[("10.252.1.14", "net4")]).with("dhcp", false);
    let mute = cloud.boot(&mute);
    cloud.start();
    let lease = named.lease();
    assert_eq!(lease.address.to_string(), "10.252.1.10");
    assert_eq!(lease.text(12), "");
    let problems = cloud.problems();
    assert!(
        problems
            .iter()
            .any(|p| p.contains("hostname") && p.contains("no_such name")),
        "{problems:#?}"
    );
    let nothing = |machine: &super::Machine, mac: [u8; 6]| {
        let mut client = Client::open(&machine.namespace, "eth0", mac).unwrap();
        client.send(DISCOVER, &[]).unwrap();
        let offer = client.answer(SHORT);
        assert_eq!(offer, None);
        // Nor to somebody who asks for another's address outright.
        let wanted = named
            .port
            .v4()
            .parse::<std::net::Ipv4Addr>()
            .unwrap()
            .octets();
        client.send(REQUEST, &[(50, &wanted)]).unwrap();
        let answer = client.answer(SHORT);
        assert!(answer.is_none_or(|answer| answer.kind == NAK));
    };
    nothing(&off, off.mac());
    nothing(&mute, mute.mac());
    // Its link is down; nobody can ask.
    assert!(down.client().send(DISCOVER, &[]).is_err() || down.client().answer(SHORT).is_none());
    // An open port may send whatever it likes, but it is told no more.
    nothing(&open, named.mac());
    nothing(&open, [2, 0, 0, 9, 9, 9]);
    assert_eq!(open.lease().address.to_string(), "10.252.1.13");
    // Asked with a client identifier that is another's.
    let mut client = open.client();
    let mut identifier = vec![1];
    identifier.extend(named.mac());
    client.send(DISCOVER, &[(61, &identifier)]).unwrap();
    assert_eq!(
        client.answer(LONG).unwrap().address.to_string(),
        "10.252.1.13"
    );
    assert_eq!(named.lease().address.to_string(), "10.252.1.10");
    // Switched on and off again while the agent runs.
    for (on, got) in [(true, Some("10.252.1.14")), (false, None)] {
        cloud.host.write(&mute.port.clone().with("dhcp", on));
        cloud.host.until("the port is served, or isn't", || {
            let lease = mute.client().lease(PAUSE, SHORT);
            lease.map(|lease| lease.address.to_string()).as_deref() == got
        });
    }
}

/// dnsmasq runs as its own user, and opens DHCP's port alone.
#[test]
fn dnsmasq_has_a_user_and_a_port_of_its_own() {
    let mut cloud = Cloud::new("");
    let machine = cloud.boot(&Cloud::port(1, &[("10.252.1.10", "net4")]));
    cloud.start();
    assert!(machine.client().lease(PAUSE, LONG).is_some());
    let pid = cloud.server();
    let users = process_status(pid, "Uid");
    assert!(users.split_whitespace().all(|uid| uid != "0"), "{users}");
    let listening = cloud.host.hv.clone();
    let ss = l2isolate_lab::netns::command(&listening, "ss")
        .args(["-Hlnptu", "-A", "inet,raw"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ss.stdout).into_owned();
    let own: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(&format!("pid={pid},")))
        .collect();
    assert_eq!(own.len(), 1, "{text}");
    assert!(
        own[0].starts_with("udp") && own[0].contains("0.0.0.0:67"),
        "{text}"
    );
    // Not from outside, though the packet gets there: no lease, no answer.
    let world = cloud.host.world.clone();
    let mut stranger = Client::open(&world, "up0", machine.mac()).unwrap();
    stranger.send(DISCOVER, &[]).unwrap();
    assert_eq!(stranger.answer(SHORT), None);
}

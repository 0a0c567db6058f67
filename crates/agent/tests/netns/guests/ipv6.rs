//! Router advertisements and neighbour discovery, as a guest's kernel takes
//! them in.

use l2isolate_lab::netns;
use serde_json::{Value, json};

use super::{Cloud, Machine, clients::Place};
use crate::harness::{OUTSIDE6, TAP_MAC};

/// A subnet in one of Neutron's modes, or in none.
fn net6(mode: Option<&str>) -> Value {
    json!({"id": "net6", "cidr": "2001:db8:252::/64", "gateway": "fe80::1",
        "dns": ["2001:db8:255::53"], "ipv6_ra_mode": mode, "ipv6_address_mode": mode})
}

/// The address that the kernel makes of prefix and hardware address.
const SLAAC: [&str; 2] = [
    "2001:db8:252:0:0:ff:fe00:101",
    "2001:db8:252:0:0:ff:fe00:102",
];

/// The guest listens to routers and tests its addresses for duplicates, as one
/// with an ordinary configuration does.
fn ordinary(cloud: &Cloud, machine: &Machine) {
    let settings = [
        ("ipv6.conf.eth0.accept_ra", "1"),
        ("ipv6.conf.eth0.accept_dad", "1"),
        ("ipv6.conf.eth0.dad_transmits", "1"),
    ];
    machine.ip("link set eth0 down");
    netns::sysctl(&machine.namespace, &settings).unwrap();
    machine.ip("link set eth0 up");
    let _ = cloud;
}

/// Waits until its addresses have passed their test; a client can't use them
/// before.
fn tested(cloud: &Cloud, machine: &Machine) {
    cloud.host.until("its addresses are tested", || {
        !machine.ip("-6 addr show dev eth0").contains("tentative")
    });
}

fn global(machine: &Machine) -> String {
    machine.ip("-6 addr show dev eth0 scope global")
}

/// SLAAC: the guest makes itself the address that its port has, keeps it
/// through its test for duplicates, and finds everybody behind the router.
#[test]
fn a_guest_makes_itself_an_address() {
    let mut cloud = Cloud::new("");
    cloud.subnet(net6(Some("slaac")));
    let machines = [1, 2].map(|number: u32| {
        let address = SLAAC[number as usize - 1];
        cloud.boot(&Cloud::port(number, &[(address, "net6")]).with("mtu", 1400))
    });
    for machine in &machines {
        ordinary(&cloud, machine);
    }
    cloud.start();
    let [one, two] = &machines;
    for machine in &machines {
        let own = machine.port.addresses()[0].to_string();
        cloud.host.until("it has its address", || {
            let addresses = global(machine);
            addresses.contains(&own) && !addresses.contains("tentative")
        });
        let addresses = global(machine);
        assert!(!addresses.contains("dadfailed"), "{addresses}");
        let routes = machine.ip("-6 route show");
        let default = routes
            .lines()
            .find(|line| line.starts_with("default"))
            .unwrap();
        assert!(
            default.contains("via fe80::1 dev eth0 proto ra"),
            "{routes}"
        );
        assert!(
            !routes.contains("2001:db8:252::/64"),
            "the prefix is on-link: {routes}"
        );
        let mtu = machine.run("cat", &["/proc/sys/net/ipv6/conf/eth0/mtu"]);
        assert_eq!(mtu.trim(), "1400");
    }
    let ping = |address: &str| one.run("ping", &["-n", "-c", "1", "-W", "2", address]);
    for address in [&two.port.addresses()[0].to_string(), OUTSIDE6] {
        cloud.host.until("it is reached", || {
            ping(address).contains(" 0% packet loss")
        });
    }
    // Another prefix and other name servers are news to be told at once.
    cloud.subnet(
        json!({"id": "more", "cidr": "2001:db8:253::/64", "gateway": "fe80::1",
        "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}),
    );
    let second = "2001:db8:253:0:0:ff:fe00:101";
    let port = Cloud::port(1, &[(SLAAC[0], "net6"), (second, "more")]);
    cloud.host.write(&port);
    cloud.host.until("it has a second address", || {
        global(one).contains(&second.parse::<std::net::IpAddr>().unwrap().to_string())
    });
}

/// Stateless: address by SLAAC, the rest by DHCPv6; and what is advertised
/// says so. Stateful: no address but by DHCPv6. By numbers and names, options
/// of the port are among it.
#[test]
fn modes_decide_who_gives_what() {
    let mut cloud = Cloud::new("dhcp_domain = example.org\n");
    cloud.subnet(net6(Some("dhcpv6-stateless")));
    let options = json!([
        {"name": "ntp-server", "value": "2001:db8:255::123", "ip_version": 6},
        {"name": "59", "value": "http://[2001:db8::1]/boot", "ip_version": 6},
        {"name": "warp-drive", "value": "9", "ip_version": 6},
    ]);
    let port = Cloud::port(1, &[(SLAAC[0], "net6")]).with("dhcp_options", options);
    let machine = cloud.boot(&port);
    ordinary(&cloud, &machine);
    cloud.start();
    let own = port.addresses()[0].to_string();
    cloud
        .host
        .until("it has its address", || global(&machine).contains(&own));
    let place = Place::new(&cloud, &machine);
    let leases = place.path("dhcp/leases");
    let conf = place.path("etc/dhcp/dhclient6.conf");
    std::fs::write(
        &conf,
        "option dhcp6.ntp code 56 = string;\noption dhcp6.boot code 59 = text;\n\
         request dhcp6.name-servers, dhcp6.domain-search, dhcp6.ntp, dhcp6.boot, dhcp6.fqdn;\n",
    )
    .unwrap();
    let line = |kind: &str| {
        format!(
            "exec dhclient -6 {kind} -1 -v -cf {} -lf {} -pf {} eth0",
            conf.display(),
            leases.display(),
            place.path("pid").display()
        )
    };
    tested(&cloud, &machine);
    let log = place.run(&machine, &line("-S"));
    place.end("pid");
    let text = place.read("dhcp/leases") + &place.read("etc/resolv.conf");
    assert!(
        place
            .resolver()
            .iter()
            .any(|l| l == "nameserver 2001:db8:255::53"),
        "{text}\n{log}"
    );
    assert!(text.contains("example.org"), "{text}\n{log}");
    let problems = cloud.problems();
    assert!(
        problems.len() == 1 && problems[0].contains("warp-drive"),
        "{problems:?}"
    );

    // With the other mode the guest makes itself no address any more.
    cloud.subnet(net6(Some("dhcpv6-stateful")));
    cloud.host.settled();
    machine.ip("link set eth0 down");
    machine.ip("link set eth0 up");
    cloud.host.until("it has its router", || {
        machine.ip("-6 route show").contains("default")
    });
    assert_eq!(global(&machine), "");
    tested(&cloud, &machine);
    let log = place.run(&machine, &line(""));
    place.end("pid");
    let addresses = global(&machine);
    assert!(addresses.contains(&own), "{addresses}\n{log}");
    let text = place.read("dhcp/leases");
    // RFC 5908: suboption 1, sixteen bytes.
    let ntp = text
        .lines()
        .find(|line| line.contains("dhcp6.ntp"))
        .unwrap_or_default()
        .to_owned();
    assert!(
        ntp.contains("0:1:0:10:20:1:d:b8:2:55") || ntp.contains("\\000\\001\\000\\020"),
        "{text}"
    );
    assert!(text.contains("http://[2001:db8::1]/boot"), "{text}");
    assert!(text.contains("vm1.example.org"), "{text}");
}

/// A guest that is configured by hand, with the prefix on its link, as
/// cloud-init does from a config drive: it looks for its neighbours on the
/// link, and the host answers for all of them, but never for itself.
#[test]
fn neighbours_on_link_are_found() {
    let mut cloud = Cloud::new("");
    cloud.subnet(net6(None));
    let machines = [1, 2].map(|number: u32| {
        let address = format!("2001:db8:252::1:{number}");
        cloud.boot(&Cloud::port(number, &[(&address, "net6")]))
    });
    cloud.start();
    cloud.host.settled();
    for machine in &machines {
        ordinary(&cloud, machine);
        let own = machine.port.addresses()[0];
        machine.ip(&format!("addr add {own}/64 dev eth0"));
        machine.ip("-6 route add default via fe80::1 dev eth0");
        cloud.host.until("its own address is no duplicate", || {
            let addresses = global(machine);
            addresses.contains(&own.to_string()) && !addresses.contains("tentative")
        });
        assert!(!global(machine).contains("dadfailed"));
    }
    let [one, two] = &machines;
    let neighbour = two.port.addresses()[0].to_string();
    let ping = |address: &str| one.run("ping", &["-n", "-c", "1", "-W", "2", address]);
    cloud.host.until("the neighbour answers", || {
        ping(&neighbour).contains(" 0% packet loss")
    });
    let found = one.ip(&format!("-6 neigh show {neighbour} dev eth0"));
    assert!(found.contains(TAP_MAC), "{found}");
    // Nobody is there, but somebody would know: the host is asked, not the link.
    let _ = ping("2001:db8:252::99");
    assert!(
        one.ip("-6 neigh show 2001:db8:252::99 dev eth0")
            .contains(TAP_MAC)
    );
    assert!(
        cloud.host.status()["solicitations"]["answered"]
            .as_u64()
            .unwrap()
            > 0
    );
    // On the link itself there is nobody else.
    let _ = ping("fe80::99%eth0");
    let silent = one.ip("-6 neigh show fe80::99 dev eth0");
    assert!(!silent.contains(TAP_MAC), "{silent}");
    // Without a mode nobody advertises a router.
    assert!(!one.ip("-6 route show").contains("proto ra"));
}

//! What a routing daemon is handed, and that nothing of strangers is touched.

use std::collections::BTreeSet;

use l2isolate_lab::netns;

use crate::harness::{Host, LOOPBACK4, LOOPBACK6, array};

/// Prefixes of the main table with our protocol and metric: what BIRD's and
/// FRR's filters let out.
fn announced(host: &Host) -> BTreeSet<String> {
    let families = ["-4 -j route show table main", "-6 -j route show table main"];
    let routes = families
        .into_iter()
        .flat_map(|listing| array(&host.hv, listing));
    let ours = routes.filter(|route| route["protocol"] == "76" && route["metric"] == 5);
    ours.map(|route| route["dst"].as_str().unwrap().to_owned())
        .collect()
}

/// Routes, addresses and neighbours that aren't ours, as `ip` shows them.
fn strangers(host: &Host) -> BTreeSet<String> {
    let listings = [
        "-4 route show table all",
        "-6 route show table all",
        "-4 rule",
        "-6 rule",
    ];
    let mut lines = BTreeSet::new();
    for listing in listings {
        let all = host.ip(listing);
        // What the kernel adds by itself, with a tap or to a router, stays out.
        let foreign = all.lines().filter(|line| {
            !["proto 76", "dev tap", "anycast"]
                .iter()
                .any(|part| line.contains(part))
        });
        lines.extend(foreign.map(|line| line.trim().to_owned()));
    }
    let stranger = host.ip("addr show dev stranger");
    lines.extend(
        stranger
            .lines()
            .filter(|line| line.contains("inet"))
            .map(|line| line.trim().to_owned()),
    );
    lines.extend(
        host.ip("neigh show dev stranger")
            .lines()
            .map(|line| line.trim().to_owned()),
    );
    lines.extend(
        host.ip("neigh show dev tapstranger")
            .lines()
            .map(|line| line.trim().to_owned()),
    );
    lines
}

fn assert_same(before: &BTreeSet<String>, now: &BTreeSet<String>) {
    let gone: Vec<_> = before.difference(now).collect();
    let new: Vec<_> = now.difference(before).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "gone: {gone:#?}; new: {new:#?}"
    );
}

/// Exactly the guests that run here and the configured loopbacks, whatever
/// else is in the table: a hypervisor never becomes transit.
#[test]
fn exactly_guests_and_loopbacks_are_announced() {
    let mut host = Host::new();
    let [one, two, three] = host.guests();
    // Routes that a daemon has learned, and a stranger's inside the prefix.
    let lines = "route add 10.252.50.50/32 via 192.0.2.2 proto 12 metric 32\n\
         route add 10.252.50.51/32 via 192.0.2.2 proto 186 metric 20\n\
         route add 10.252.50.52/32 via 192.0.2.2\n\
         route add 2001:db8:252::5050/128 via 2001:db8:aaaa::2 proto 12 metric 32\n";
    netns::batch(Some(&host.hv), lines).unwrap();
    host.start();
    host.wired(&[&one.port, &two.port, &three.port]);
    let mut expected: BTreeSet<String> = [LOOPBACK4, LOOPBACK6].map(str::to_owned).into();
    for guest in [&one, &two, &three] {
        expected.extend([guest.port.v4(), guest.port.v6()]);
    }
    assert_eq!(announced(&host), expected);
    let off = two.port.with("admin_state_up", false).with("revision", 2);
    host.write(&off);
    three.pause();
    host.write(&three.port.bound("incoming"));
    host.wired(&[&one.port, &off, &three.port.bound("incoming")]);
    for guest in [&two, &three] {
        expected.remove(&guest.port.v4());
        expected.remove(&guest.port.v6());
    }
    assert_eq!(announced(&host), expected);
}

/// Routes, rules, addresses and neighbours of others are theirs, through all
/// that a port and an agent go through; also a tap that never had a port.
#[test]
fn what_is_not_ours_is_not_touched() {
    let mut host = Host::new();
    let lines = "link add stranger type veth peer name stranger1\nlink set stranger up\nlink set stranger1 up\n\
         addr add 203.0.113.1/24 dev stranger\naddr add 10.252.0.1/32 dev stranger\n\
         addr add 2001:db8:5::1/64 dev stranger nodad\n\
         neigh add 203.0.113.9 lladdr 02:00:00:00:55:55 dev stranger nud permanent\n\
         route add 203.0.114.0/24 via 203.0.113.9\nroute add 10.252.60.0/24 dev stranger metric 5\n\
         route add 10.252.61.1/32 dev stranger metric 20 proto 12\n\
         route add unreachable 10.252.62.1/32 metric 3372220415\n\
         route add 203.0.115.0/24 dev stranger table 1000\n\
         rule add from 203.0.113.0/24 lookup 1000 priority 100\n\
         route add 2001:db8:6::/64 dev stranger proto 186 metric 20\n\
         link add tapstranger type veth peer name stranger2\nlink set tapstranger up\nlink set stranger2 up\n\
         addr add 203.0.116.1/32 dev tapstranger\n\
         neigh add 203.0.116.2 lladdr 02:00:00:00:55:56 dev tapstranger nud permanent\n";
    netns::batch(Some(&host.hv), lines).unwrap();
    let link = || array(&host.hv, "-j addr show tapstranger")[0].clone();
    let (before, tap) = (strangers(&host), link());
    assert!(before.iter().any(|line| line.contains("203.0.115.0/24")));
    let [one, two] = host.guests();
    host.start();
    host.until("wired", || announced(&host).contains(&two.port.v6()));
    host.settled();
    assert_same(&before, &strangers(&host));
    host.kill();
    host.start();
    host.write(&one.port.with("admin_state_up", false).with("revision", 2));
    host.until("switched off", || {
        !announced(&host).contains(&one.port.v4())
    });
    host.remove(&one.port);
    host.remove(&two.port);
    host.until("removed", || announced(&host).len() == 2);
    host.settled();
    host.stop();
    assert_same(&before, &strangers(&host));
    assert_eq!(array(&host.hv, "-j addr show tapstranger")[0], tap);
    assert_eq!(host.sysctl("ipv4.conf.tapstranger.proxy_arp"), "0");
}

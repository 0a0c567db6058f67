//! Guests, strangers and moments that mean harm to the firewall.

use std::{net::Ipv6Addr, os::fd::AsRawFd, thread};

use l2isolate_lab::netns;
use nix::sys::{
    signal::{Signal, kill},
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
        setsockopt, socket, sockopt,
    },
    time::TimeVal,
};
use serde_json::json;

use crate::{
    firewall::{Talk, group, nft, open},
    harness::{Arp, Flow, Guest, Host, LOOPBACK4, OUTSIDE4, array, claim_neighbour, ip},
};

/// A host with a guest that may go out and whom nobody may enter.
fn one_guest() -> (Host, Guest) {
    let mut host = Host::with("firewall = true");
    let mut guest = host.guest(1);
    guest.port = guest.port.with("groups", json!(["all"]));
    host.write(&guest.port);
    host.write_file("all.json", &group("all", &open(&["egress"]), &json!([])));
    (host, guest)
}

/// The words of a listing, whatever their order: the elements of a set that was
/// made anew stand elsewhere.
fn words(listing: &str) -> Vec<&str> {
    let mut words: Vec<&str> = listing
        .split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty())
        .collect();
    words.sort_unstable();
    words
}

fn ours(host: &Host) -> String {
    nft(host, "-s list table inet l2isolate") + &nft(host, "-s list table arp l2isolate")
}

/// What a stranger may try with our tables; `CHAIN` is one of our base chains.
const ATTACKS: [&str; 6] = [
    "flush ruleset",
    "delete table inet l2isolate",
    "flush table arp l2isolate",
    "insert rule inet l2isolate CHAIN accept",
    "add chain inet l2isolate intruder { type filter hook forward priority -400 ; }",
    "flush chain inet l2isolate CHAIN",
];

fn attack(host: &Host, attack: &str) -> String {
    let listing = nft(host, "-j list chains inet");
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    let chains = listing["nftables"].as_array().unwrap();
    let hooked = chains
        .iter()
        .map(|entry| &entry["chain"])
        .find(|chain| chain["table"] == "l2isolate" && chain["hook"] == "forward");
    let chain = hooked.unwrap()["name"].as_str().unwrap();
    nft(host, &attack.replace("CHAIN", chain))
}

/// With the owner flag strangers are refused, and a flush of everything passes
/// ours by.
#[test]
fn strangers_can_do_nothing_to_owned_tables() {
    let (mut host, guest) = one_guest();
    host.start();
    host.wired(&[&guest.port]);
    host.settled();
    let before = ours(&host);
    for what in ATTACKS {
        let said = attack(&host, what);
        assert_eq!(ours(&host), before, "{what}: {said}");
        assert!(
            what == "flush ruleset" || said.contains("not permitted"),
            "{what}: {said}"
        );
    }
    assert!(guest.reaches(OUTSIDE4));
    assert!(guest.misses(LOOPBACK4));
}

/// On a kernel that has no such flag what they do is heard and put right, by
/// itself: the guest passes where it may, and nowhere else.
#[test]
fn what_strangers_do_on_an_older_kernel_is_put_right() {
    let (mut host, guest) = one_guest();
    host.start_on("6.1.0-18-amd64");
    host.wired(&[&guest.port]);
    host.settled();
    let before = ours(&host);
    assert!(!before.contains("owner"), "{before}");
    for what in ATTACKS {
        let said = attack(&host, what);
        assert_eq!(said, "", "{what}");
        host.until("it is put right", || words(&ours(&host)) == words(&before));
        assert!(guest.reaches(OUTSIDE4), "{what}");
        assert!(guest.misses(LOOPBACK4), "{what}");
    }
    assert!(host.status()["firewall"]["disturbed"].as_u64() > Some(0));
}

/// Whatever the agent does, what is in others' tables stays as it is.
#[test]
fn strangers_tables_are_untouched() {
    const TABLES: &str = "table inet stranger {\n\
        set hosts { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.7 } }\n\
        map ways { type ifname : verdict; elements = { tap00000001-00 : accept } }\n\
        chain forward { type filter hook forward priority 10; ip saddr @hosts counter accept; }\n\
        }\n\
        table ip l2isolate {\n\
        chain check { type filter hook prerouting priority -350; iifname \"tap*\" counter; }\n\
        }\n\
        table arp stranger {\n\
        chain input { type filter hook input priority 0; counter; }\n\
        }\n";
    let (mut host, guest) = one_guest();
    let file = host.path("stranger.nft");
    std::fs::write(&file, TABLES).unwrap();
    assert_eq!(nft(&host, &format!("-f {}", file.display())), "");
    let theirs = |host: &Host| {
        ["inet stranger", "ip l2isolate", "arp stranger"]
            .map(|table| nft(host, &format!("-s list table {table}")))
    };
    let before = theirs(&host);
    assert!(
        before.iter().all(|table| table.contains("chain")),
        "{before:?}"
    );
    let hold = |host: &Host, when: &str| assert_eq!(theirs(host), before, "{when}");
    host.start();
    host.wired(&[&guest.port]);
    host.settled();
    hold(&host, "started");
    host.write_file("all.json", &group("all", &open(&["ingress"]), &json!([])));
    host.until("the change has come", || guest.misses(OUTSIDE4));
    hold(&host, "changed");
    host.kill();
    host.start();
    host.settled();
    hold(&host, "started again");
    host.remove(&guest.port);
    host.until("the port goes", || !ours(&host).contains(guest.port.tap()));
    host.stop();
    hold(&host, "ended");
}

/// Killed at the very moment at which the kernel has taken new rules, before
/// anything else can be done: the successor finds all rules in place, and still
/// ends the flow that they would refuse, and no other.
#[test]
fn killed_between_commit_and_clean_up() {
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
    for _ in 0..3 {
        let talk = Talk::start(&one, &two);
        host.until("it is allowed", || talk.goes_on());
        let rules = |host: &Host| ours(host);
        let before = rules(&host);
        let killed = kill_at_next_commit(&host);
        host.write_file("two.json", &group("two", &json!([]), &json!([])));
        killed.join().unwrap();
        host.kill();
        assert_ne!(rules(&host), before, "the new rules are in the kernel");
        host.start();
        host.until("the successor ends the flow", || !talk.goes_on());
        let all = group("two", &open(&["egress", "ingress"]), &json!([]));
        host.write_file("two.json", &all);
        host.settled();
    }
    untouched.unharmed();
}

/// Kills the agent when nftables announces a new generation.
pub(crate) fn kill_at_next_commit(host: &Host) -> thread::JoinHandle<()> {
    /// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
    const NEWGEN: u16 = 10 << 8 | 15;
    let agent = host.agent_process();
    let listener = netns::inside(&host.hv, || {
        let listener = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .unwrap();
        // NFNLGRP_NFTABLES.
        bind(listener.as_raw_fd(), &NetlinkAddr::new(0, 1 << 6)).unwrap();
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::new(20, 0)).unwrap();
        listener
    });
    let listener = listener.unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = recv(listener.as_raw_fd(), &mut buffer, MsgFlags::empty())
                .expect("the agent commits in time");
            let mut rest = &buffer[..length];
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes(rest[..4].try_into().unwrap());
                if rest[4..6] == NEWGEN.to_ne_bytes() {
                    return kill(agent, Signal::SIGKILL).unwrap();
                }
                let next = usize::try_from((length + 3) & !3).unwrap();
                rest = &rest[next.min(rest.len())..];
            }
        }
    })
}

/// A guest can neither fill the host's neighbour tables nor change what they say
/// of itself or of others.
#[test]
fn neighbour_tables_are_not_for_guests_to_write() {
    let (mut host, guest) = one_guest();
    let victim = host.guest(2);
    host.write(&victim.port);
    host.start();
    host.wired(&[&guest.port, &victim.port]);
    host.settled();
    let entries = |family: &str| array(&host.hv, &format!("-j {family} neigh show"));
    let permanent = |family: &str| {
        let mut entries = entries(family);
        entries.retain(|entry| entry["state"][0] == "PERMANENT");
        entries
    };
    let before = ["-4", "-6"].map(permanent);
    assert!(
        before.iter().all(|entries| entries.len() >= 2),
        "{before:?}"
    );

    let arp = Arp::open(&guest.namespace, "eth0");
    for n in 0..600 {
        let sender = format!("10.252.{}.{}", 100 + n / 250, 1 + n % 250);
        arp.request(&sender, crate::harness::GATEWAY4);
        arp.request(&victim.port.v4(), &victim.port.v4());
    }
    let addresses = guest.ip("-6 -o addr show dev eth0 scope link");
    let own = addresses
        .split_whitespace()
        .find_map(|word| word.strip_suffix("/64"));
    let own: Ipv6Addr = own.unwrap().parse().unwrap();
    let gateway: Ipv6Addr = crate::harness::LINK_LOCAL.parse().unwrap();
    let theirs: Ipv6Addr = victim.port.v6().parse().unwrap();
    let mut claims: Vec<_> = (0..600_u16)
        .map(|n| {
            (
                Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xbad, n),
                gateway,
                true,
            )
        })
        .collect();
    // In its own name it may solicit; what it claims there is nobody's.
    claims.extend((0..600).map(|n| {
        (
            own,
            Ipv6Addr::new(0x2001, 0xdb8, 0x252, 0, 0, 0, 0xbad, n),
            true,
        )
    }));
    claims.extend((0..100).flat_map(|_| {
        [
            (own, theirs, false),
            (own, gateway, false),
            (theirs, theirs, false),
        ]
    }));
    claim_neighbour(&guest.namespace, "eth0", &claims);

    assert_eq!(
        ["-4", "-6"].map(permanent),
        before,
        "{}",
        ip(&host.hv, "neigh")
    );
    for (family, most) in [("-4", 0), ("-6", 1)] {
        // Of IPv6 the guest's own link-local address.
        let on_tap = entries(family)
            .into_iter()
            .filter(|entry| entry["dev"] == guest.port.tap() && entry["state"][0] != "PERMANENT");
        let on_tap: Vec<_> = on_tap.collect();
        assert!(on_tap.len() <= most, "{on_tap:?}");
    }
    assert!(host.counted(&guest.port, "egress", "spoofed") > 0);
    assert!(guest.reaches(OUTSIDE4), "the guest itself goes on");
}

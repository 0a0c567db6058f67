//! Guests that don't keep to any protocol: they harm themselves at most.

use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use l2isolate_lab::{
    dhcp::{Client, DISCOVER},
    netns,
};
use nix::sys::socket::{MsgFlags, send};
use serde_json::json;

use super::{Cloud, LONG, SHORT};
use crate::harness::{Random, packets};

/// Bytes that begin as a message and go on as noise, or are noise as a whole.
fn garbage(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    match random.below(4) {
        0 => bytes.truncate(random.below(bytes.len() as u64) as usize),
        1 => {
            bytes = (0..random.below(1200))
                .map(|_| random.next() as u8)
                .collect()
        }
        _ => {
            for _ in 0..1 + random.below(20) {
                let place = random.below(bytes.len() as u64) as usize;
                bytes[place] = random.next() as u8;
            }
        }
    }
    bytes
}

/// Malformed DHCP: dnsmasq stays the same process, and the neighbour gets its
/// lease.
#[test]
fn malformed_dhcp_harms_nobody() {
    let mut cloud = Cloud::new("limit_dhcp = 1000000\n");
    let villain = cloud.boot(&Cloud::port(1, &[("10.252.1.10", "net4")]));
    let victim = cloud.boot(&Cloud::port(2, &[("10.252.1.11", "net4")]));
    cloud.start();
    villain.lease();
    let pid = cloud.server();
    let client = Client::open(&villain.namespace, "eth0", villain.mac()).unwrap();
    let mut whole = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
    whole.resize(28, 0);
    whole.extend(villain.mac());
    whole.resize(236, 0);
    whole.extend([
        99, 130, 83, 99, 53, 1, 1, 12, 4, b'e', b'v', b'i', b'l', 55, 4, 1, 3, 6, 121, 82, 6, 1, 4,
        1, 2, 3, 4, 61, 7, 1, 2, 3, 4, 5, 6, 7, 255,
    ]);
    whole.resize(300, 0);
    let mut random = Random::new();
    for _ in 0..3000 {
        // The guest's own queue may be full.
        let _ = client.raw(&garbage(&mut random, &whole));
    }
    assert_eq!(victim.lease().address.to_string(), "10.252.1.11");
    assert_eq!(villain.lease().address.to_string(), "10.252.1.10");
    // In another's name: released, declined, asked for with another's lease.
    let mut liar = villain.client();
    let theirs: std::net::Ipv4Addr = victim.port.v4().parse().unwrap();
    for kind in [4, 7] {
        for server in ["10.252.0.1", "169.254.169.254"] {
            let server: std::net::Ipv4Addr = server.parse().unwrap();
            let options: [(u8, &[u8]); 2] = [(54, &server.octets()), (50, &theirs.octets())];
            liar.send_from(kind, victim.mac(), theirs, &options)
                .unwrap();
        }
    }
    assert_eq!(victim.lease().address.to_string(), "10.252.1.11");
    assert_eq!(cloud.server(), pid, "dnsmasq didn't live through it");
    assert_eq!(cloud.host.status()["dhcp"]["restarts"], 0);
}

/// Malformed and endless solicitations: others are answered all the same, and
/// in time.
#[test]
fn malformed_and_endless_solicitations_harm_nobody() {
    let mut cloud = Cloud::new("");
    cloud.subnet(
        json!({"id": "net6", "cidr": "2001:db8:252::/64", "gateway": "fe80::1",
        "ipv6_ra_mode": "dhcpv6-stateful", "ipv6_address_mode": "dhcpv6-stateful"}),
    );
    let villain = cloud.boot(&Cloud::port(1, &[("2001:db8:252::1:1", "net6")]));
    let victim = cloud.boot(&Cloud::port(2, &[("2001:db8:252::1:2", "net6")]));
    cloud.start();
    cloud.host.settled();
    let (socket, mac) = netns::inside(&villain.namespace, || packets("eth0")).unwrap();
    // A router solicitation, a neighbour solicitation, a DHCPv6 solicit; the
    // checksums are wrong, which is as good as anything.
    let frame = |protocol: u8, payload: &[u8]| {
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 2];
        frame.extend(mac);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([protocol, 255]);
        frame.extend(
            "fe80::ff:fe00:101"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets(),
        );
        frame.extend("ff02::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend(payload);
        frame
    };
    let mut neighbour = vec![135, 0, 0, 0, 0, 0, 0, 0];
    neighbour.extend(
        "2001:db8:252::1:2"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    neighbour.extend([1, 1, 2, 0, 0, 0, 1, 1]);
    let whole = [
        frame(58, &[133, 0, 0, 0, 0, 0, 0, 0]),
        frame(58, &neighbour),
        frame(
            17,
            &[
                2, 0x22, 2, 0x23, 0, 22, 0, 0, 1, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1, 2, 0,
            ],
        ),
    ];
    let mut random = Random::new();
    let end = Instant::now() + Duration::from_secs(2);
    let mut sent = 0_u32;
    while Instant::now() < end {
        let one = &whole[random.below(3) as usize];
        let bytes = if sent.is_multiple_of(2) {
            one.clone()
        } else {
            garbage(&mut random, one)
        };
        if send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT).is_ok() {
            sent += 1;
        }
    }
    assert!(sent > 10_000, "only {sent} were sent");
    let status = cloud.host.status();
    let figures = &status["solicitations"];
    assert!(figures["limited"].as_u64().unwrap() > 0, "{figures}");
    // Far fewer were looked at than were sent.
    let looked = figures["answered"].as_u64().unwrap() + figures["refused"].as_u64().unwrap();
    assert!(looked < u64::from(sent) / 4, "{looked} of {sent}");
    let address = "2001:db8:252::1:2/64";
    victim.ip(&format!("addr add {address} dev eth0 nodad"));
    let ping = victim.run("ping", &["-n", "-c", "1", "-W", "2", "2001:db8:252::77"]);
    let found = victim.ip("-6 neigh show 2001:db8:252::77 dev eth0");
    assert!(found.contains(crate::harness::TAP_MAC), "{found}\n{ping}");
}

/// A guest that asks and asks for leases is limited, others aren't.
#[test]
fn a_flood_of_discovers_is_its_own_harm() {
    let mut cloud = Cloud::new("");
    let villain = cloud.boot(&Cloud::port(1, &[("10.252.1.10", "net4")]));
    let victim = cloud.boot(&Cloud::port(2, &[("10.252.1.11", "net4")]));
    cloud.start();
    cloud.host.settled();
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = villain.client();
            while Instant::now() < end {
                let _ = client.send(DISCOVER, &[]);
            }
        });
        while Instant::now() < end {
            let mut client = victim.client();
            client.send(DISCOVER, &[]).unwrap();
            assert!(client.answer(LONG).is_some());
            std::thread::sleep(SHORT / 2);
        }
    });
    assert!(cloud.host.counted(&villain.port, "egress", "limited") > 0);
}

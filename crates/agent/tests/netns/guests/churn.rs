//! Many ports that come and go, and take each other's addresses over.

use std::collections::BTreeMap;

use l2isolate_lab::{dhcp::Client, netns};
use serde_json::json;

use super::{Cloud, LONG, PAUSE, mac};
use crate::harness::{Host, Port, Random};

const PORTS: u32 = 200;
const ROUNDS: usize = 3;

/// In each round every port is another one, on a tap of its own, with an
/// address that some port of the round before had; and every guest gets its
/// lease, whole and right, while the agent is killed and started in between.
#[test]
fn two_hundred_ports_are_churned() {
    let mut cloud = Cloud::with(Host::crowded_with("firewall = true\ndhcp = true\n"));
    cloud.start();
    cloud.host.settled();
    let pid = cloud.server();
    let shed = cloud.host.namespace("shed");
    netns::sysctl(&shed, &[("ipv6.conf.default.disable_ipv6", "1")]).unwrap();
    let mut random = Random::new();
    let mut before: Vec<u32> = (0..PORTS).collect();
    for round in 0..ROUNDS {
        // Who gets whose address.
        for place in (1..before.len()).rev() {
            let other = random.below(place as u64 + 1) as usize;
            before.swap(place, other);
        }
        let first = round as u32 * PORTS + 1;
        let ports: Vec<(Port, String)> = (first..first + PORTS)
            .zip(&before)
            .map(|(number, place)| {
                let address = format!("10.252.{}.{}", 100 + place / 100, 1 + place % 100);
                (Cloud::port(number, &[(&address, "net4")]), address)
            })
            .collect();
        let mut lines = String::new();
        for (number, (port, _)) in (first..).zip(&ports) {
            lines += &format!(
                "link add name e{number} netns {shed} address {} type veth peer name {} netns {}\n",
                port.mac(),
                port.tap(),
                cloud.host.hv
            );
        }
        netns::batch(None, &lines).unwrap();
        let lines: String = (first..first + PORTS)
            .map(|n| format!("link set e{n} up\n"))
            .collect();
        netns::batch(Some(&shed), &lines).unwrap();
        // All at once, as one document: the ports before are gone with it.
        let all: Vec<&serde_json::Value> = ports.iter().map(|(port, _)| &port.document).collect();
        cloud.host.write_file(
            "ports.json",
            &json!({"version": 1, "ports": all}).to_string(),
        );
        if round == 1 {
            cloud.host.kill();
            cloud.host.start();
        }
        let found = leases(&shed, first, &ports);
        let expected: BTreeMap<String, (String, String)> = (first..)
            .zip(&ports)
            .map(|(number, (port, address))| {
                (
                    port.mac().to_owned(),
                    (address.clone(), format!("vm{number}")),
                )
            })
            .collect();
        assert_eq!(found, expected);
        if round > 0 {
            // The machines of the round before are taken away after theirs.
            let old = first - PORTS;
            let lines: String = (old..first).map(|n| format!("link del e{n}\n")).collect();
            netns::batch(Some(&shed), &lines).unwrap();
        }
    }
    assert_eq!(cloud.server(), pid, "dnsmasq was started anew");
    cloud.host.until("all is in place", || {
        cloud.host.status()["differences"] == 0
    });
}

/// The lease of each guest by its hardware address: address and name.
fn leases(shed: &str, first: u32, ports: &[(Port, String)]) -> BTreeMap<String, (String, String)> {
    let work = || {
        let mut found = BTreeMap::new();
        for (number, (port, _)) in (first..).zip(ports) {
            let mut client = Client::open_here(&format!("e{number}"), mac(port.mac())).unwrap();
            let lease = client.lease(PAUSE, LONG);
            let lease = lease.unwrap_or_else(|| panic!("port {number} gets no lease"));
            found.insert(
                port.mac().to_owned(),
                (lease.address.to_string(), lease.text(12)),
            );
        }
        found
    };
    netns::inside(shed, work).unwrap()
}

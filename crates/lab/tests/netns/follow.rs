//! What still arrives at the source of a live migration follows the guest by a
//! tunnel, also while the whole fabric takes the source for its place; and nothing
//! else gets through that tunnel.

use std::{net::UdpSocket, thread::sleep, time::Duration};

use l2isolate_lab::{
    agent::{PROGRAM, find},
    fabric::Family,
    lab::{Guard, Plan, unique_name},
    migrate::{self, Mobile},
    netns,
    probe::{FlowSpec, Probe},
    room,
    topology::{Mix, Shape, Topology},
};
use serde_json::Value;

use crate::migrate::is_reached_by;

const LIMIT: Duration = Duration::from_secs(60);
const HOME: &str = "hv1-1";
const OTHER: &str = "hv2-1";
const TUNNEL: &str = "l2isolate0";
const PORT: u16 = 4790;

/// Waits until packets of both families pass both ways between the guest and a VM of
/// the old host and one of the new host's rack.
fn is_reached(guest: &Mobile<'_>, lab: &Guard) {
    is_reached_by(&["vm1-1-2", "vm2-1-2"], guest, lab);
}

/// Waits until a host's agent has the guest in this state.
fn is_in(guest: &Mobile<'_>, lab: &Guard, host: &str, state: &str) {
    lab.until("state of the migration", LIMIT, || {
        let port = guest.seen_by(host)?;
        let is = port.get("migration").is_some_and(|it| it == state);
        Ok((!is)
            .then(|| format!("{state} at {host}: {port}"))
            .into_iter()
            .collect())
    })
    .unwrap();
}

/// Packets that a host has received from its tunnels, and has sent into them.
fn carried(lab: &Guard, host: &str) -> [u64; 2] {
    let arguments = ["-s", "-j", "link", "show", "dev", TUNNEL];
    let text = netns::ip(&lab.namespace(host), &arguments).unwrap();
    let links: Value = serde_json::from_str(&text).unwrap();
    ["rx", "tx"].map(|way| links[0]["stats64"][way]["packets"].as_u64().unwrap())
}

/// The destination's agent is dead while the guest goes on there: nobody announces
/// it from there, and all that reaches it comes by the tunnel, whatever becomes of
/// the source's agent. Then the guest is announced, and goes back at once.
#[test]
fn a_guest_is_followed_while_nobody_knows_where_it_is() {
    let _room = room::shared();
    let shape = Shape {
        spines: 1,
        racks: 2,
        tors: 1,
        hypervisors: 1,
        vms: 2,
    };
    let lab = Guard::up(Plan {
        name: unique_name("follow"),
        topology: Topology::regular(shape, Mix::Mixed),
        agent: Some(find().unwrap()),
        owned: true,
    })
    .unwrap();
    migrate::follow(&lab).unwrap();
    lab.wait(LIMIT).unwrap();
    let mut guest = Mobile::new(&lab, "vm1-1-1").unwrap();
    is_reached(&guest, &lab);
    assert_eq!(guest.tell(HOME, "stopped").unwrap(), Value::Null);
    only_a_peer_gets_in(&guest, &lab, false);

    let from = guest.begin(OTHER, LIMIT).unwrap();
    only_a_peer_gets_in(&guest, &lab, true);
    lab.kill(OTHER, PROGRAM).unwrap();
    assert_eq!(guest.tell(HOME, "stopped").unwrap(), "followed");
    guest.jump(OTHER).unwrap();
    is_reached(&guest, &lab);
    lab.kill(HOME, PROGRAM).unwrap();
    is_reached(&guest, &lab);
    lab.restart(HOME).unwrap();
    is_in(&guest, &lab, HOME, "followed");
    guest.unplug(HOME).unwrap();
    is_in(&guest, &lab, HOME, "followed");
    is_reached(&guest, &lab);
    lab.restart(OTHER).unwrap();
    guest.until(OTHER, "incoming", LIMIT).unwrap();
    guest.announce().unwrap();
    guest.bind(OTHER, "active", None).unwrap();
    guest.until(OTHER, "active", LIMIT).unwrap();
    guest.unbind(&from).unwrap();
    is_reached(&guest, &lab);

    it_goes_on_where_it_was(&mut guest, &lab);
    both_believe_that_it_has_left(&mut guest, &lab);
    lab.down().unwrap();
}

/// A migration that fails after the guest has stopped: it is told, or the guest says
/// something, and its tap is its way again.
fn it_goes_on_where_it_was(guest: &mut Mobile<'_>, lab: &Guard) {
    guest.begin(HOME, LIMIT).unwrap();
    guest.stop().unwrap();
    assert_eq!(guest.tell(OTHER, "stopped").unwrap(), "followed");
    assert_eq!(guest.tell(OTHER, "resumed").unwrap(), "outgoing");
    assert_eq!(guest.tell(OTHER, "stopped").unwrap(), "followed");
    guest.resume(OTHER).unwrap();
    is_in(guest, lab, OTHER, "outgoing");
    is_reached(guest, lab);
    guest.unbind(HOME).unwrap();
    guest.unplug(HOME).unwrap();
    guest.bind(OTHER, "active", None).unwrap();
    guest.until(OTHER, "active", LIMIT).unwrap();
}

/// Two hosts that both believe that the guest is at the other one: a packet goes
/// through one tunnel, and not into another.
fn both_believe_that_it_has_left(guest: &mut Mobile<'_>, lab: &Guard) {
    guest.begin(HOME, LIMIT).unwrap();
    guest.bind(HOME, "outgoing", Some(OTHER)).unwrap();
    guest.until(HOME, "outgoing", LIMIT).unwrap();
    for host in [HOME, OTHER] {
        assert_eq!(guest.tell(host, "stopped").unwrap(), "followed");
    }
    // The old frames of the guest have been heard; no one is on its way.
    let before = [HOME, OTHER].map(|host| carried(lab, host));
    let from = lab.fabric().vm("vm2-1-2").unwrap();
    let flows = Family::ALL.map(|family| FlowSpec {
        from,
        to: &guest.vm,
        family,
    });
    let probe = Probe::start(lab, &flows, 100).unwrap();
    sleep(Duration::from_millis(300));
    let sent = probe.stop().unwrap().sent;
    let after = [HOME, OTHER].map(|host| carried(lab, host));
    let more = |host: usize, way: usize| after[host][way] - before[host][way];
    assert!(sent > 0);
    assert_eq!(more(1, 1), sent, "into the tunnel where they arrive");
    assert_eq!(more(0, 0), sent, "out of it at the other host");
    assert_eq!(more(0, 1), 0, "into a tunnel again");
    assert_eq!(more(1, 0), 0, "back");
    assert_eq!(guest.tell(OTHER, "resumed").unwrap(), "outgoing");
    guest.unbind(HOME).unwrap();
    guest.unplug(HOME).unwrap();
    guest.bind(OTHER, "active", None).unwrap();
    guest.announce().unwrap();
    is_reached(guest, lab);
}

/// Whoever sends to a tunnel's port a packet as another host would: it gets in from
/// the peer of a migration, and from nobody else; least of all from a guest.
fn only_a_peer_gets_in(guest: &Mobile<'_>, lab: &Guard, migrating: bool) {
    let home = lab.fabric().node(HOME).unwrap().loopback4;
    let other = lab.fabric().node(OTHER).unwrap().loopback4;
    let forged = through_tunnel(guest);
    let neighbour = lab.fabric().vm("vm1-1-2").unwrap();
    let of_vm = |vm: &str| (lab.namespace(vm), "0.0.0.0".to_owned());
    let stranger = lab.fabric().node("tor1-1").unwrap();
    let cases = [
        (of_vm(&neighbour.name), home, HOME, false),
        (of_vm(&neighbour.name), other, OTHER, false),
        (
            (lab.namespace("tor1-1"), stranger.loopback4.to_string()),
            home,
            HOME,
            false,
        ),
        (
            (lab.namespace(OTHER), other.to_string()),
            home,
            HOME,
            migrating,
        ),
    ];
    for ((namespace, from), to, host, gets_in) in cases {
        let before = carried(lab, host)[0];
        let sent = netns::inside(&namespace, || {
            let socket = UdpSocket::bind((from.as_str(), 0)).unwrap();
            (0..20).all(|_| socket.send_to(&forged, (to, PORT)).is_ok())
        });
        assert!(sent.unwrap());
        if gets_in {
            lab.until("a peer's packets", LIMIT, || {
                let in_time = carried(lab, host)[0] >= before + 20;
                Ok((!in_time).then(|| namespace.clone()).into_iter().collect())
            })
            .unwrap();
        } else {
            // Long enough for what does get in.
            sleep(Duration::from_millis(200));
            assert_eq!(carried(lab, host)[0], before, "from {namespace}");
        }
    }
}

/// VXLAN-GPE with an IPv4 packet to the guest: UDP without a checksum.
fn through_tunnel(guest: &Mobile<'_>) -> Vec<u8> {
    let mut packet = vec![0x0c, 0, 0, 1, 0, 0, 0, 0];
    let mut inner = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1];
    inner.extend(guest.vm.address4.octets());
    let words = inner
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    inner[10..12].copy_from_slice(&checksum.to_be_bytes());
    inner.extend([0x30, 0x39, 0x30, 0x39, 0, 8, 0, 0]);
    packet.extend(inner);
    packet
}

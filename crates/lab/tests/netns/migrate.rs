//! A guest moves to another rack while it runs: connections live on, and
//! whatever happens on the way, it is announced from where it is.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use l2isolate_lab::{
    agent::{self, PROGRAM, find},
    connections::Connections,
    dhcp,
    fabric::Family,
    lab::{Guard, Plan, unique_name},
    migrate::Mobile,
    netns,
    probe::{FlowSpec, Probe},
    room,
    topology::{Mix, Shape, Topology},
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
const OTHER: &str = "hv2-1";
const HOME: &str = "hv1-1";

/// Two racks with a hypervisor each; the first has FRR and the second BIRD, or
/// the other way round, and so have the switches.
fn lab() -> Guard {
    let shape = Shape {
        spines: 1,
        racks: 2,
        tors: 2,
        hypervisors: 1,
        vms: 2,
    };
    let lab = Guard::up(Plan {
        name: unique_name("move"),
        topology: Topology::regular(shape, Mix::Mixed),
        agent: Some(find().unwrap()),
        owned: true,
    })
    .unwrap();
    lab.wait(LIMIT).unwrap();
    lab
}

/// Waits until packets pass both ways between the guest and VMs of both racks.
fn is_reached(guest: &Mobile<'_>, lab: &Guard) {
    is_reached_by(&["vm1-1-2", "vm2-1-1"], guest, lab);
}

/// The same of these VMs. Those of the host that it leaves have its old tap until
/// that is closed.
pub(crate) fn is_reached_by(others: &[&str], guest: &Mobile<'_>, lab: &Guard) {
    let others = others.iter().map(|name| lab.fabric().vm(name).unwrap());
    let mut specs = Vec::new();
    for family in Family::ALL {
        for other in others.clone() {
            for (from, to) in [(other, &guest.vm), (&guest.vm, other)] {
                specs.push(FlowSpec { from, to, family });
            }
        }
    }
    lab.until("the guest is reached by all", LIMIT, || {
        let probe = Probe::start(lab, &specs, 100)?;
        std::thread::sleep(Duration::from_millis(100));
        let flows = probe.stop()?.flows;
        let silent = flows.into_iter().filter(|flow| flow.received == 0);
        Ok(silent
            .map(|flow| format!("{} to {} by {}", flow.from, flow.to, flow.family))
            .collect())
    })
    .unwrap();
}

/// Waits until exactly these hosts announce it to their switches.
fn is_announced_by(guest: &Mobile<'_>, lab: &Guard, hosts: &[&str]) {
    let prefixes = Family::ALL.map(|family| {
        let bits = if family == Family::V4 { 32 } else { 128 };
        (family, format!("{}/{bits}", guest.vm.address(family)))
    });
    lab.until("announcement from where it is", LIMIT, || {
        let mut wrong = Vec::new();
        for host in [HOME, OTHER] {
            for tor in &lab.fabric().node(host)?.interfaces {
                for (family, prefix) in &prefixes {
                    let learned = lab.learned(&tor.peer, host, *family)?;
                    if learned.contains(prefix) != hosts.contains(&host) {
                        wrong.push(format!("{prefix} of {host} at {}", tor.peer));
                    }
                }
            }
        }
        Ok(wrong)
    })
    .unwrap();
}

/// Waits until no switch of a host sends what is for the guest there, although it
/// announces it: FRR's and BIRD's alike have a lesser way to it.
fn no_switch_leads_to(guest: &Mobile<'_>, lab: &Guard, host: &str) {
    lab.until("preference for where it is", LIMIT, || {
        let mut wrong = Vec::new();
        for tor in &lab.fabric().node(host)?.interfaces {
            for family in Family::ALL {
                let address = guest.vm.address(family).to_string();
                let namespace = lab.namespace(&tor.peer);
                let route = netns::ip(&namespace, &[family.flag(), "route", "show", &address])?;
                if route.is_empty() || route.contains(&format!("dev {host}")) {
                    wrong.push(format!("{}: {route}", tor.peer));
                }
            }
        }
        Ok(wrong)
    })
    .unwrap();
}

/// The gateway's hardware address in the guest's neighbour cache.
fn gateway_mac(guest: &Mobile<'_>, lab: &Guard) -> String {
    let namespace = lab.namespace(&guest.vm.name);
    let found = |text: String| {
        let mut words = text.split_ascii_whitespace().map(str::to_owned);
        words.by_ref().find(|word| word == "lladdr")?;
        words.next()
    };
    let end = Instant::now() + LIMIT;
    loop {
        let text = netns::ip(&namespace, &["neigh", "show", "dev", "eth0"]).unwrap();
        if let Some(mac) = found(text) {
            return mac;
        }
        assert!(Instant::now() < end, "the guest never resolved anybody");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the guest is leased its own address.
fn is_leased(guest: &Mobile<'_>, lab: &Guard) {
    let mac = guest.vm.mac.parse::<l2isolate_model::Mac>().unwrap();
    let namespace = lab.namespace(&guest.vm.name);
    let mut client = dhcp::Client::open(&namespace, "eth0", mac.bytes()).unwrap();
    let mut offered = Ipv4Addr::UNSPECIFIED;
    lab.until("a lease where it is", LIMIT, || {
        client.send(dhcp::DISCOVER, &[]).unwrap();
        let answer = client.answer(Duration::from_millis(500));
        offered = answer.map_or(offered, |answer| answer.address);
        let lacking = (offered != guest.vm.address4).then(|| offered.to_string());
        Ok(lacking.into_iter().collect())
    })
    .unwrap();
}

/// There and back while connections are open, with the guest live at its
/// destination before the control plane says so; then all that can go wrong
/// between two hosts, an agent killed at each step.
#[test]
fn a_guest_moves_and_keeps_its_connections() {
    let _room = room::shared();
    let lab = lab();
    let mut guest = Mobile::new(&lab, "vm1-1-1").unwrap();
    is_reached(&guest, &lab);
    let far = lab.fabric().vm("vm2-1-2").unwrap();
    let mut connections = Connections::open(&lab, far, &guest.vm, 20).unwrap();
    let gateway = gateway_mac(&guest, &lab);

    // Make before break: while it leaves, both announce it, and nobody breaks.
    let from = guest.begin(OTHER, LIMIT).unwrap();
    is_announced_by(&guest, &lab, &[HOME]);
    is_reached(&guest, &lab);
    guest.jump(OTHER).unwrap();
    is_announced_by(&guest, &lab, &[HOME, OTHER]);
    no_switch_leads_to(&guest, &lab, HOME);
    is_reached_by(&["vm2-1-1"], &guest, &lab);
    assert_eq!(connections.broken(), 0);
    guest.end(&from, LIMIT).unwrap();
    is_announced_by(&guest, &lab, &[OTHER]);
    is_reached(&guest, &lab);
    assert_eq!(gateway_mac(&guest, &lab), gateway);
    is_leased(&guest, &lab);

    // Back at once.
    guest.migrate(HOME, Duration::ZERO, LIMIT).unwrap();
    is_announced_by(&guest, &lab, &[HOME]);
    is_reached(&guest, &lab);
    assert_eq!(connections.broken(), 0);

    no_packet_is_lost_by_the_announcement(&mut guest, &lab);
    called_off(&mut guest, &lab);
    killed_at_each_step(&mut guest, &lab);
    to_a_host_whose_agent_is_dead(&mut guest, &lab);

    assert_eq!(connections.broken(), 0);
    let (bytes, broken) = connections.close().unwrap();
    assert!(bytes > 0 && !broken, "the stream broke after {bytes} bytes");
    lab.down().unwrap();
}

/// Both hosts' sources say that the guest is theirs, as when a host is taken for
/// dead that isn't: both announce it, no session tells either of them, and both find
/// out and say who else it is. Nothing is moved by that, and it is over when one of
/// them has lost it.
#[test]
fn a_guest_that_two_hosts_announce_is_named_by_both() {
    let _room = room::shared();
    let lab = lab();
    let mut guest = Mobile::new(&lab, "vm1-1-1").unwrap();
    is_reached(&guest, &lab);
    let vm = guest.vm.clone();
    let named = |at: &str, by: &str| {
        let by = lab.fabric().node(by).unwrap().loopback4.to_string();
        let status = agent::ask(lab.agent_binary().unwrap(), &lab.agent_files(at), "status");
        let problems = status.unwrap_or_default()["problems"].take();
        let all = problems.as_array().cloned().unwrap_or_default();
        let of = |family| {
            let bits = if family == Family::V4 { 32 } else { 128 };
            let prefix = format!("{}/{bits} is announced", vm.address(family));
            all.iter().any(|problem| {
                let reason = problem["reason"].as_str().unwrap_or_default();
                let object = problem["object"].as_str().unwrap_or_default();
                object.contains(&vm.port) && reason.contains(&prefix) && reason.contains(&by)
            })
        };
        Family::ALL.map(of)
    };
    // A migration is none.
    for to in [OTHER, HOME] {
        guest.migrate(to, Duration::from_secs(1), LIMIT).unwrap();
    }
    for (at, by) in [(HOME, OTHER), (OTHER, HOME)] {
        assert_eq!(named(at, by), [false; 2]);
    }
    guest.plug(OTHER).unwrap();
    guest.bind(OTHER, "active", None).unwrap();
    is_announced_by(&guest, &lab, &[HOME, OTHER]);
    lab.until("both name each other", LIMIT, || {
        let both = [(HOME, OTHER), (OTHER, HOME)].map(|(at, by)| (at, named(at, by)));
        let lacking = both.iter().filter(|(_, named)| *named != [true; 2]);
        Ok(lacking.map(|lacking| format!("{lacking:?}")).collect())
    })
    .unwrap();
    is_announced_by(&guest, &lab, &[HOME, OTHER]);
    guest.unplug(OTHER).unwrap();
    guest.unbind(OTHER).unwrap();
    is_announced_by(&guest, &lab, &[HOME]);
    lab.until("it is over", 2 * LIMIT, || {
        let still = named(HOME, OTHER).contains(&true);
        Ok(still.then(|| HOME.to_owned()).into_iter().collect())
    })
    .unwrap();
    lab.down().unwrap();
}

/// Gives a host's agent further configuration, and starts it anew.
fn configure(lab: &Guard, host: &str, line: &str) {
    let config = lab.agent_files(host).config();
    let lines = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{lines}{line}\n")).unwrap();
    lab.kill(host, PROGRAM).unwrap();
    lab.restart(host).unwrap();
    lab.wait(LIMIT).unwrap();
}

/// Stateful groups: what the guest has opened goes on at the destination, which
/// has never seen its beginning, as soon as the guest says something; and nobody
/// gets in whom the groups refuse.
#[test]
fn who_may_speak_picks_its_connections_up() {
    const OUT: &str = "bbbbbbbb-0000-4000-8000-000000000002";
    let _room = room::shared();
    let lab = lab();
    let mut guest = Mobile::new(&lab, "vm1-1-1").unwrap();
    let rules: Vec<_> = ["IPv4", "IPv6"]
        .map(|ethertype| json!({"direction": "egress", "ethertype": ethertype}))
        .into();
    let group = json!({"version": 1, "groups": [{"id": OUT, "revision": 1, "rules": rules}]});
    for host in [HOME, OTHER] {
        agent::write_intent(&lab.agent_files(host), "out", &group).unwrap();
    }
    guest.groups = vec![OUT.to_owned()];
    guest.bind(HOME, "active", None).unwrap();
    let far = lab.fabric().vm("vm2-1-2").unwrap();
    let refused = |guest: &Mobile<'_>| {
        let address = SocketAddr::new(guest.vm.address(Family::V4), 22);
        let tried = netns::inside(&lab.namespace(&far.name), || {
            TcpStream::connect_timeout(&address, Duration::from_millis(500))
        });
        // The guest has no such service: let through, it would say so itself.
        tried.unwrap().unwrap_err().kind() == ErrorKind::TimedOut
    };
    let lacking = |refused: bool| (!refused).then(|| "a packet passed".to_owned());
    lab.until("the groups are in force", LIMIT, || {
        Ok(lacking(refused(&guest)).into_iter().collect())
    })
    .unwrap();
    let mut connections = Connections::open(&lab, &guest.vm, far, 20).unwrap();
    for to in [OTHER, HOME] {
        guest.migrate(to, Duration::ZERO, LIMIT).unwrap();
        assert_eq!(connections.broken(), 0, "at {to}");
        assert!(refused(&guest), "at {to}");
    }
    let (_, broken) = connections.close().unwrap();
    assert!(!broken, "the stream broke");
    lab.down().unwrap();
}

/// A guest that is about to leave is the last choice while it is the only one, and
/// no packet notices: neither of its becoming so, step by step, nor when that is
/// taken back. The switches of its rack have their time between two steps, more
/// than they need on the busiest machine.
fn no_packet_is_lost_by_the_announcement(guest: &mut Mobile<'_>, lab: &Guard) {
    configure(lab, HOME, "migration_pause = 5");
    let far = lab.fabric().vm("vm2-1-1").unwrap();
    let vm = guest.vm.clone();
    let specs: Vec<FlowSpec<'_>> = Family::ALL
        .into_iter()
        .flat_map(|family| std::iter::repeat_n(family, 8))
        .map(|family| FlowSpec {
            from: far,
            to: &vm,
            family,
        })
        .collect();
    let probe = Probe::start(lab, &specs, 100).unwrap();
    let (flows, ()) = probe
        .around("announced and called off", Duration::from_secs(1), || {
            guest.begin(OTHER, LIMIT)?;
            lab.until("the last choice", LIMIT, || {
                let address = vm.address4.to_string();
                let route = netns::ip(&lab.namespace(HOME), &["route", "show", &address])?;
                let last = route.contains("metric 7");
                Ok((!last).then_some(route).into_iter().collect())
            })?;
            std::thread::sleep(Duration::from_secs(1));
            guest.unbind(OTHER)?;
            guest.unplug(OTHER)?;
            guest.bind(HOME, "active", None)?;
            guest.until(HOME, "active", LIMIT)
        })
        .unwrap();
    assert_eq!(flows.lost, 0, "{flows:#?}");
}

/// A migration that is called off leaves the guest where it is, however far it
/// had come: before it stopped; while it was stopped, with the destination's tap
/// gone; after the destination had taken it for live.
fn called_off(guest: &mut Mobile<'_>, lab: &Guard) {
    guest.begin(OTHER, LIMIT).unwrap();
    guest.unbind(OTHER).unwrap();
    guest.unplug(OTHER).unwrap();
    guest.bind(HOME, "active", None).unwrap();
    is_announced_by(guest, lab, &[HOME]);
    is_reached(guest, lab);

    guest.begin(OTHER, LIMIT).unwrap();
    guest.stop().unwrap();
    guest.unplug(OTHER).unwrap();
    guest.resume(HOME).unwrap();
    is_announced_by(guest, lab, &[HOME]);
    is_reached(guest, lab);
    guest.unbind(OTHER).unwrap();
    guest.bind(HOME, "active", None).unwrap();

    guest.begin(OTHER, LIMIT).unwrap();
    guest.jump(OTHER).unwrap();
    is_announced_by(guest, lab, &[HOME, OTHER]);
    // QEMU there fails at its first step; the one here goes on.
    guest.jump(HOME).unwrap();
    guest.unplug(OTHER).unwrap();
    is_announced_by(guest, lab, &[HOME]);
    is_reached(guest, lab);
    guest.unbind(OTHER).unwrap();
    guest.bind(HOME, "active", None).unwrap();
    is_announced_by(guest, lab, &[HOME]);
    is_reached(guest, lab);
}

/// A destination whose agent is dead takes nothing away from the source, which
/// goes on announcing the guest; when the agent is there again, the guest is
/// found by whatever it sends.
fn to_a_host_whose_agent_is_dead(guest: &mut Mobile<'_>, lab: &Guard) {
    assert_eq!(guest.at, OTHER);
    lab.kill(HOME, PROGRAM).unwrap();
    guest.bind(HOME, "incoming", Some(OTHER)).unwrap();
    guest.plug(HOME).unwrap();
    guest.bind(OTHER, "outgoing", Some(HOME)).unwrap();
    guest.until(OTHER, "outgoing", LIMIT).unwrap();
    guest.jump(HOME).unwrap();
    is_announced_by(guest, lab, &[OTHER]);
    lab.restart(HOME).unwrap();
    guest.until(HOME, "incoming", LIMIT).unwrap();
    guest.announce().unwrap();
    is_announced_by(guest, lab, &[HOME, OTHER]);
    is_reached_by(&["vm1-1-2"], guest, lab);
    guest.end(OTHER, LIMIT).unwrap();
    is_announced_by(guest, lab, &[HOME]);
    is_reached(guest, lab);
}

/// An agent that is killed at a step goes on from there, at the destination and
/// at the source: it neither withdraws a live guest nor announces one that
/// isn't there.
fn killed_at_each_step(guest: &mut Mobile<'_>, lab: &Guard) {
    let renew = |hosts: &[&str]| {
        for host in hosts {
            lab.kill(host, PROGRAM).unwrap();
            lab.restart(host).unwrap();
        }
        lab.wait(LIMIT).unwrap();
    };
    let both = [HOME, OTHER];
    let from = guest.begin(OTHER, LIMIT).unwrap();
    renew(&both);
    is_announced_by(guest, lab, &[HOME]);
    guest.stop().unwrap();
    renew(&both);
    is_announced_by(guest, lab, &[HOME]);
    guest.resume(OTHER).unwrap();
    is_announced_by(guest, lab, &both);
    renew(&both);
    is_announced_by(guest, lab, &both);
    is_reached_by(&["vm2-1-1"], guest, lab);
    guest.bind(OTHER, "active", None).unwrap();
    renew(&both);
    guest.unplug(&from).unwrap();
    renew(&both);
    is_announced_by(guest, lab, &[OTHER]);
    guest.unbind(&from).unwrap();
    renew(&both);
    is_announced_by(guest, lab, &[OTHER]);
    is_reached(guest, lab);
}

//! More kernel events than the agent's queue holds.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use l2isolate_lab::{netns, process::Identity, wiring};
use nix::sys::signal::Signal;

use super::{Site, batch_anyway, unharmed};

/// Neighbours that come and go in one round: far less than the queue's 16 MiB.
const STRANGERS: u32 = 4000;
/// Rounds until the queue has run over, at most.
const ROUNDS: usize = 32;
/// As long as nobody's session may time out for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a socket of the agent's namespace that listens to neighbours has
/// lost messages: the agent's, no routing daemon of these does.
fn overrun(agent: Identity) -> bool {
    let sockets = Path::new("/proc")
        .join(agent.pid.to_string())
        .join("net/netlink");
    let text = fs::read_to_string(sockets).unwrap();
    text.lines().skip(1).any(|line| {
        // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // RTNLGRP_NEIGH, of NETLINK_ROUTE.
        let listens = u32::from_str_radix(fields[3], 16).unwrap() & 1 << 2 != 0;
        fields[1] == "0" && listens && fields[8] != "0"
    })
}

/// Lines that add neighbours and remove them again.
fn strangers() -> String {
    let mut lines = String::new();
    for verb in ["replace", "del"] {
        for n in 0..STRANGERS {
            let (high, low) = (n / 250, n % 250);
            let _ = write!(lines, "neigh {verb} 203.0.{high}.{low} dev strange");
            lines += match verb {
                "replace" => " lladdr 02:00:00:00:00:01 nud permanent\n",
                _ => "\n",
            };
        }
    }
    lines
}

// The agent is stopped while its queue runs over; of what happens after that
// it never hears. It looks at everything, and mends it. Neighbours are what
// comes and goes here, since BIRD doesn't listen to them: what becomes of
// routing daemons that lose messages is not the agent's test.
#[test]
fn an_overrun_of_events() {
    let site = Site::up(1, 4);
    let node = site.fabric().node("hv2-1").unwrap();
    let [hurt, late] = ["vm2-1-1", "vm2-1-2"].map(|name| site.vm(name));
    let namespace = site.namespace(&node.name);
    let present = || {
        site.fabric()
            .vms_on(&node.name)
            .filter(|vm| vm.name != late.name)
    };
    netns::batch(Some(&namespace), &format!("link del {}\n", late.tap)).unwrap();
    site.wired(node, present());
    assert_eq!(site.count(&node.name, "lost_events"), 0);
    let flows = site.flows(&[("vm2-1-3", "vm2-1-4"), ("vm1-1-1", "vm2-1-3")]);

    let agent = site.agent_process(&node.name);
    agent.signal(Signal::SIGSTOP);
    let lines = "link add strange type veth peer name strange1\nlink set strange up\n";
    netns::batch(Some(&namespace), lines).unwrap();
    let (strangers, end) = (strangers(), Instant::now() + PATIENCE);
    for round in 0.. {
        if overrun(agent) {
            break;
        }
        assert!(
            round < ROUNDS && Instant::now() < end,
            "it holds more than that"
        );
        batch_anyway(&namespace, &strangers);
    }
    let (tap, v4, v6) = (&hurt.tap, hurt.address4, hurt.address6);
    let lines = format!(
        "link del strange\n\
         route del {v4}/32 metric 5\n\
         route replace {v6}/128 dev lo metric 5\n\
         neigh del {v4} dev {tap}\n\
         neigh replace {v6} dev {tap} lladdr 02:00:00:00:00:01 nud permanent\n\
         addr flush dev {tap}\n\
         link set {tap} mtu 1300\n"
    );
    netns::batch(Some(&namespace), &lines).unwrap();
    wiring::tap_again(late, &site.names()).unwrap();
    agent.signal(Signal::SIGCONT);

    site.sound();
    unharmed(flows);
    assert!(agent.lives());
    assert!(site.count(&node.name, "lost_events") >= 1);
    site.lab.down().unwrap();
}

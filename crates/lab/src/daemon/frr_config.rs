//! The text of FRR's configuration files.
//!
//! Carries what FRR 8.4 needs to start fast and to survive its own restart;
//! what isn't obvious says why. The part that hands over the agent's routes is
//! the `advertise` crate's, as an operator would use it.

use std::fmt::Write as _;

use l2isolate_advertise::{
    self as advertise,
    frr::{OWN, announce},
};

use super::handover;
use crate::{
    fabric::{LOOPBACK_PREFIX4, LOOPBACK_PREFIX6, Node, VM_PREFIX4, VM_PREFIX6},
    topology::Role,
};

/// Seconds after a start in which bgpd may wait for all neighbours' routes
/// before it chooses any. When two neighbours' connections collide, FRR 8.4
/// loses count of whom it waits for, and would wait all of its default 360 s.
const SELECT_DEFER: u32 = 5;

pub(super) fn zebra_conf(node: &Node) -> String {
    format!(
        "hostname {}\n\
         ! With nexthop groups in the kernel, a link that flapped stays out of\n\
         ! the kernel's route while zebra shows it (FRR 8.4).\n\
         no zebra nexthop kernel enable\n",
        node.name
    )
}

/// Name of the peer group for neighbours of one role.
fn group(role: Role) -> &'static str {
    match role {
        Role::Spine => "SPINES",
        Role::Tor => "TORS",
        Role::Hypervisor => "HYPERVISORS",
    }
}

pub(super) fn bgpd_conf(node: &Node) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "hostname {}", node.name);
    // Policies stand before `router bgp`: a session that comes up before its
    // route-map is there sends End-of-RIB too early and voids graceful restart.
    policies(&mut out, node);
    out.push_str("bgp route-map delay-timer 0\n");
    let _ = write!(
        out,
        "router bgp {}\n bgp router-id {}\n \
         no bgp default ipv4-unicast\n \
         no bgp ebgp-requires-policy\n \
         no bgp network import-check\n \
         bgp bestpath as-path multipath-relax\n \
         bgp graceful-restart\n \
         bgp graceful-restart preserve-fw-state\n \
         bgp graceful-restart select-defer-time {SELECT_DEFER}\n \
         coalesce-time 0\n \
         timers bgp 3 9\n",
        node.asn, node.loopback4
    );
    let mut roles: Vec<Role> = node.interfaces.iter().map(|i| i.peer_role).collect();
    roles.sort();
    roles.dedup();
    for role in &roles {
        let group = group(*role);
        let _ = writeln!(out, " neighbor {group} peer-group");
        let _ = writeln!(out, " neighbor {group} remote-as external");
        let _ = writeln!(out, " neighbor {group} timers connect 1");
    }
    for interface in &node.interfaces {
        let (name, group) = (&interface.peer, group(interface.peer_role));
        let _ = writeln!(out, " neighbor {name} interface peer-group {group}");
    }
    for family in advertise::Family::ALL {
        let _ = writeln!(out, " address-family ipv{} unicast", family.digit());
        origins(&mut out, node, family);
        for role in &roles {
            let group = group(*role);
            let _ = writeln!(out, "  neighbor {group} activate");
            let (inward, outward) = directions(node.role, *role);
            if let Some(map) = inward {
                let _ = writeln!(out, "  neighbor {group} route-map {map} in");
            }
            if let Some(map) = outward {
                let _ = writeln!(out, "  neighbor {group} route-map {map} out");
            }
        }
        out.push_str(" exit-address-family\n");
    }
    out.push_str("exit\n");
    out
}

/// What the node brings into BGP by itself.
fn origins(out: &mut String, node: &Node, family: advertise::Family) {
    let (loopback, default) = match family {
        advertise::Family::V4 => (format!("{}/32", node.loopback4), "0.0.0.0/0"),
        advertise::Family::V6 => (format!("{}/128", node.loopback6), "::/0"),
    };
    match node.role {
        Role::Spine => {
            let _ = writeln!(out, "  network {loopback}\n  network {default}");
        }
        Role::Tor => {
            let _ = writeln!(out, "  network {loopback}");
        }
        Role::Hypervisor => {
            let _ = writeln!(out, "  redistribute kernel route-map {}", announce(family));
            let _ = writeln!(
                out,
                "  redistribute connected route-map LOOPBACK{}",
                family.digit()
            );
        }
    }
}

/// Route-maps towards neighbours of role `peer`: in, out.
fn directions(own: Role, peer: Role) -> (Option<&'static str>, Option<&'static str>) {
    match (own, peer) {
        (Role::Tor, Role::Hypervisor) => (Some("HOSTS"), Some("DEFAULT")),
        (Role::Hypervisor, _) => (Some("DEFAULT"), Some(OWN)),
        _ => (None, None),
    }
}

fn policies(out: &mut String, node: &Node) {
    if node.role == Role::Spine {
        return;
    }
    let (vm4, vm6) = (prefix(VM_PREFIX4), prefix(VM_PREFIX6));
    let (lo4, lo6) = (prefix(LOOPBACK_PREFIX4), prefix(LOOPBACK_PREFIX6));
    let _ = write!(
        out,
        "ip prefix-list DEFAULT permit 0.0.0.0/0\n\
         ip prefix-list VMS permit {vm4} ge 32\n\
         ip prefix-list LOOPBACKS permit {lo4} ge 32\n\
         ipv6 prefix-list DEFAULT permit ::/0\n\
         ipv6 prefix-list VMS permit {vm6} ge 128\n\
         ipv6 prefix-list LOOPBACKS permit {lo6} ge 128\n"
    );
    let mut map = |name: &str, sequence: u16, matches: &[&str]| {
        let _ = writeln!(out, "route-map {name} permit {sequence}");
        for line in matches {
            let _ = writeln!(out, " {line}");
        }
        out.push_str("exit\n");
    };
    let list = |family: &str, list: &str| format!("match {family} address prefix-list {list}");
    map("DEFAULT", 10, &[&list("ip", "DEFAULT")]);
    map("DEFAULT", 20, &[&list("ipv6", "DEFAULT")]);
    if node.role == Role::Tor {
        for (sequence, family, name) in [
            (10, "ip", "VMS"),
            (20, "ip", "LOOPBACKS"),
            (30, "ipv6", "VMS"),
            (40, "ipv6", "LOOPBACKS"),
        ] {
            map("HOSTS", sequence, &[&list(family, name)]);
        }
        return;
    }
    for (family, digit) in [("ip", 4), ("ipv6", 6)] {
        // zebra prefers the connected route of a loopback to the kernel's.
        let own = [
            list(family, "LOOPBACKS"),
            "match interface lo".to_owned(),
            "set metric 0".to_owned(),
            "set origin igp".to_owned(),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        map(&format!("LOOPBACK{digit}"), 10, &own);
    }
    out.push_str(&advertise::frr::policies(&handover()));
}

fn prefix<A: std::fmt::Display>((address, length): (A, u8)) -> String {
    format!("{address}/{length}")
}

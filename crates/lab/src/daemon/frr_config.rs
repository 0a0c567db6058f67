//! The text of FRR's configuration files, each knob with its reason beside it.
//!
//! Carries what FRR 8.4 needs to start fast and to survive its own restart. The
//! part that hands over the agent's routes is the `advertise` crate's, as an
//! operator would use it.

use std::fmt::Write as _;

use l2isolate_advertise::{
    self as advertise,
    frr::{OWN, announce},
    render::UPDATE_DELAY,
};

use super::{
    handover,
    knobs::{BFD_MS, BFD_MULTIPLIER, LLGR_S, RESTART_S, limits},
};
use crate::{
    fabric::{LOOPBACK_PREFIX4, LOOPBACK_PREFIX6, Node, VM_PREFIX4, VM_PREFIX6},
    topology::{Options, Role},
};

/// Seconds after a start in which bgpd may wait for all neighbours' routes
/// before it chooses any.
const SELECT_DEFER: u32 = 5;
/// Minutes until a session is tried again that ended for too many prefixes.
const LIMIT_RESTART: u32 = 1;

pub(super) fn zebra_conf(node: &Node) -> String {
    format!(
        "hostname {}\n\
         ! With nexthop groups in the kernel, a link that flapped stays out of\n\
         ! the kernel's route while zebra shows it (FRR 8.4).\n\
         no zebra nexthop kernel enable\n",
        node.name
    )
}

pub(super) fn bfdd_conf(node: &Node) -> String {
    format!(
        "hostname {}\n\
         ! Finds a neighbour that is dead while the link is up.\n\
         bfd\n profile fabric\n  \
         detect-multiplier {BFD_MULTIPLIER}\n  \
         receive-interval {BFD_MS}\n  \
         transmit-interval {BFD_MS}\n exit\nexit\n",
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

pub(super) fn bgpd_conf(options: &Options, node: &Node) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "hostname {}", node.name);
    if node.role != Role::Spine {
        out.push_str(
            "! Policies stand before `router bgp`: a session that comes up before its\n\
             ! route-map is there sends End-of-RIB too early and voids graceful restart.\n",
        );
        policies(&mut out, node);
    }
    out.push_str(
        "! A policy that was changed acts at once, not after 5 s.\n\
         bgp route-map delay-timer 0\n",
    );
    let mut roles: Vec<Role> = node.interfaces.iter().map(|i| i.peer_role).collect();
    roles.sort();
    roles.dedup();
    instance(&mut out, node);
    for role in &roles {
        peer_group(&mut out, options, node.role, *role);
    }
    out.push_str(
        " ! Unnumbered: the neighbour is found by its router advertisements, IPv4 routes\n\
         \x20! have IPv6 link-local next hops (RFC 8950).\n",
    );
    for interface in &node.interfaces {
        let (name, group) = (&interface.peer, group(interface.peer_role));
        let _ = writeln!(out, " neighbor {name} interface peer-group {group}");
    }
    for family in advertise::Family::ALL {
        let _ = writeln!(out, " address-family ipv{} unicast", family.digit());
        origins(&mut out, node, family);
        for role in &roles {
            exchange(&mut out, options, node.role, *role, family);
        }
        out.push_str(" exit-address-family\n");
    }
    out.push_str("exit\n");
    out
}

/// What is said of the router as a whole.
fn instance(out: &mut String, node: &Node) {
    let _ = write!(
        out,
        "! An AS of its own for each node but the spines, which share one: a path that\n\
         ! came down from a spine and goes up again is a loop (RFC 7938, 5.2.1).\n\
         router bgp {}\n bgp router-id {}\n \
         ! Both families are activated alike, below.\n \
         no bgp default ipv4-unicast\n \
         ! Who needs a policy has one; spines pass on all that they hear.\n \
         no bgp ebgp-requires-policy\n \
         no bgp network import-check\n \
         ! Every node has another AS, so equal ways differ in their paths.\n \
         bgp bestpath as-path multipath-relax\n \
         ! A neighbour's daemon may restart: its routes stay {RESTART_S} s as they are, then\n \
         ! {LLGR_S} s as the last choice (RFC 9494), so that a host that stays away yields\n \
         ! to whoever announces its guests from elsewhere.\n \
         bgp graceful-restart\n \
         bgp graceful-restart restart-time {RESTART_S}\n \
         bgp graceful-restart stalepath-time {RESTART_S}\n \
         bgp long-lived-graceful-restart stale-time {LLGR_S}\n \
         ! This node's own kernel forwards on meanwhile, and says so.\n \
         bgp graceful-restart preserve-fw-state\n \
         ! When two neighbours' connections collide, FRR 8.4 loses count of whom it waits\n \
         ! for after a start, and would choose no route for 360 s.\n \
         bgp graceful-restart select-defer-time {SELECT_DEFER}\n \
         ! Updates go out as they come, not gathered for a second.\n \
         coalesce-time 0\n \
         ! Links that go down end their session at once; this is for the rest.\n \
         timers bgp 3 9\n",
        node.asn, node.loopback4
    );
    if node.role == Role::Hypervisor {
        let (delay, establish) = UPDATE_DELAY;
        let _ = write!(
            out,
            " ! After a start bgpd first hears all neighbours out; otherwise its End-of-RIB may\n \
             ! precede the guests' routes, and ToRs drop those that they kept, for 50 ms.\n \
             update-delay {delay} {establish}\n"
        );
    }
}

/// What is said of all neighbours of one role.
fn peer_group(out: &mut String, options: &Options, own: Role, peer: Role) {
    let group = group(peer);
    let _ = writeln!(out, " neighbor {group} peer-group");
    let _ = writeln!(out, " neighbor {group} remote-as external");
    let _ = writeln!(out, " neighbor {group} timers connect 1");
    let role = if own > peer { "customer" } else { "provider" };
    let _ = writeln!(
        out,
        " ! RFC 9234: what came from above never goes up again, whatever the filters.\n \
         neighbor {group} local-role {role}"
    );
    if options.bfd {
        let _ = writeln!(out, " neighbor {group} bfd profile fabric");
    }
    if options.bfd && peer == Role::Hypervisor {
        let _ = writeln!(
            out,
            " ! A hypervisor whose daemon ends may end its BFD with it; its kernel forwards on\n \
             ! and there is no other way to its guests, so BFD doesn't end graceful restart\n \
             ! (RFC 5882, 4.3). Towards others it does: there are other ways.\n \
             neighbor {group} bfd check-control-plane-failure"
        );
    }
    if let Some(password) = &options.tcp_auth {
        let _ = writeln!(out, " neighbor {group} password {password}");
    }
}

/// What is exchanged with neighbours of one role.
fn exchange(out: &mut String, options: &Options, own: Role, peer: Role, family: advertise::Family) {
    let group = group(peer);
    let _ = writeln!(out, "  neighbor {group} activate");
    let (inward, outward) = directions(own, peer);
    if let Some(map) = inward {
        let _ = writeln!(out, "  neighbor {group} route-map {map} in");
    }
    if let Some(map) = outward {
        let _ = writeln!(out, "  neighbor {group} route-map {map} out");
    }
    let limits = limits(options, own, peer);
    let limit = match family {
        advertise::Family::V4 => limits.0,
        advertise::Family::V6 => limits.1,
    };
    let _ = writeln!(
        out,
        "  ! More would be somebody's mistake; warns at 90 %, ends the session above.\n  \
         neighbor {group} maximum-prefix {limit} 90 restart {LIMIT_RESTART}"
    );
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
    out.push_str(&advertise::frr::policies(&handover(node.asn)));
}

fn prefix<A: std::fmt::Display>((address, length): (A, u8)) -> String {
    format!("{address}/{length}")
}

//! The text of BIRD's configuration file, each knob with its reason beside it.
//!
//! What can break it: a newer BIRD's language. It is checked by `bird -p`.

use std::{fmt::Write as _, path::Path};

use l2isolate_advertise::bird::{EXPORT, filter};

use super::{
    bird::DRAIN,
    handover,
    knobs::{BFD_MS, BFD_MULTIPLIER, LLGR_S, RESTART_S, limits},
};
use crate::{
    fabric::{Interface, LOOPBACK_PREFIX4, LOOPBACK_PREFIX6, Node, VM_PREFIX4, VM_PREFIX6},
    topology::{Options, Role},
};

/// Bytes of the kernel's messages that may wait for BIRD.
const NETLINK_BUFFER: u32 = 16 << 20;

/// BIRD's names know no hyphens.
pub(super) fn protocol(peer: &str) -> String {
    format!("to_{}", peer.replace('-', "_"))
}

/// The configuration of `node`, whose other files are in `directory`; `log` is
/// what `log` is followed by.
pub(super) fn bird_conf(options: &Options, node: &Node, directory: &Path, log: &str) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "log {log} all;\n\
         router id {};\n\
         protocol device {{ scan time 10; }}\n\n",
        node.loopback4,
    );
    policies(&mut out, node, directory);
    kernel(&mut out, node);
    origins(&mut out, node);
    advertisements(&mut out, node);
    if options.bfd {
        bidirectional_forwarding_detection(&mut out, node);
    }
    neighbour_template(&mut out, options, node);
    for interface in &node.interfaces {
        neighbour(&mut out, options, node, interface);
    }
    out
}

/// Prefixes and functions that the sessions' filters use.
fn policies(out: &mut String, node: &Node, directory: &Path) {
    let (vm4, vm6) = (VM_PREFIX4, VM_PREFIX6);
    let (lo4, lo6) = (LOOPBACK_PREFIX4, LOOPBACK_PREFIX6);
    if node.role == Role::Tor {
        let _ = write!(
            out,
            "# What a hypervisor may announce: single addresses of guests and loopbacks.\n\
             define HOSTS4 = [ {}/{}{{32,32}}, {}/{}{{32,32}} ];\n\
             define HOSTS6 = [ {}/{}{{128,128}}, {}/{}{{128,128}} ];\n",
            vm4.0, vm4.1, lo4.0, lo4.1, vm6.0, vm6.1, lo6.0, lo6.1,
        );
    }
    out.push_str(
        "# RFC 8326: who is about to go marks all that it announces; who hears the mark\n\
         # prefers any other way, and takes this one only where there is none.\n\
         define GSHUT = (65535, 0);\n\
         function honour_gshut() { if GSHUT ~ bgp_community then bgp_local_pref = 0; }\n",
    );
    if node.role == Role::Hypervisor {
        return;
    }
    let _ = write!(
        out,
        "# In a file of its own, so that a switch that was drained comes back drained.\n\
         include \"{}\";\n\
         function send_gshut() {{ if DRAINED then bgp_community.add(GSHUT); }}\n\n",
        directory.join(DRAIN).display(),
    );
}

/// Exchange with the kernel's main tables.
fn kernel(out: &mut String, node: &Node) {
    if node.role == Role::Hypervisor {
        out.push_str("\n# What the agent marked in the kernel, and nothing else.\n");
        for family in l2isolate_advertise::Family::ALL {
            out.push_str(&filter(&handover(node.asn), family));
        }
    }
    out.push_str(
        "\n# persist: the kernel forwards on while BIRD restarts. merge paths: all equal ways.\n\
         # The buffer: with the kernel's default of some 200 KiB a thousand guests at once are\n\
         # too many messages, and what was lost is seen a minute later.\n",
    );
    for family in [4, 6] {
        let import = match node.role {
            Role::Hypervisor => format!("import filter l2isolate{family}"),
            _ => "import none".to_owned(),
        };
        let _ = write!(
            out,
            "protocol kernel kernel{family} {{\n  \
               learn; persist; merge paths on;\n  \
               netlink rx buffer {NETLINK_BUFFER};\n  \
               ipv{family} {{ {import}; export where source = RTS_BGP; }};\n}}\n"
        );
    }
}

/// What a switch brings into BGP by itself.
fn origins(out: &mut String, node: &Node) {
    if node.role == Role::Hypervisor {
        return;
    }
    for (family, loopback, default) in [
        (4, format!("{}/32", node.loopback4), "0.0.0.0/0"),
        (6, format!("{}/128", node.loopback6), "::/0"),
    ] {
        let _ = write!(
            out,
            "protocol static own{family} {{\n  ipv{family};\n  route {loopback} via \"lo\";\n"
        );
        if node.role == Role::Spine {
            let _ = writeln!(out, "  route {default} unreachable;");
        }
        out.push_str("}\n");
    }
}

/// Router advertisements, by which an unnumbered FRR finds this node.
fn advertisements(out: &mut String, node: &Node) {
    out.push_str(
        "\n# An unnumbered FRR finds this node by them. Lifetime 0: nobody takes it for a\n\
         # default router.\n\
         protocol radv {\n",
    );
    for interface in &node.interfaces {
        let _ = writeln!(
            out,
            "  interface \"{}\" {{ min ra interval 3; max ra interval 4; default lifetime 0; }};",
            interface.peer
        );
    }
    out.push_str("}\n");
}

/// BFD with all neighbours. A ToR answers hypervisors and leaves it at that: the
/// hypervisor is to find a dead ToR, but its own BFD ends with its daemon, there is
/// no other way to its guests, and its kernel forwards on.
fn bidirectional_forwarding_detection(out: &mut String, node: &Node) {
    let _ = write!(
        out,
        "\n# Finds a neighbour that is dead while the link is up.\n\
         protocol bfd {{\n  interface \"*\" {{ interval {BFD_MS} ms; multiplier \
         {BFD_MULTIPLIER}; }};\n"
    );
    let hosts = node.interfaces.iter();
    let mut hosts = hosts.filter(|i| i.peer_role == Role::Hypervisor).peekable();
    if hosts.peek().is_some() {
        out.push_str(
            "  # Answered, so that hypervisors find a dead switch; no session of theirs is ended\n  \
               # by it. Their BFD ends with their daemon, but their kernel forwards on, and there\n  \
               # is no other way to their guests.\n",
        );
    }
    for host in hosts {
        let _ = writeln!(
            out,
            "  neighbor {} dev \"{}\" local {};",
            host.peer_address, host.peer, host.own_address
        );
    }
    out.push_str("}\n");
}

/// What all sessions of a node have in common.
fn neighbour_template(out: &mut String, options: &Options, node: &Node) {
    let _ = write!(
        out,
        "\ntemplate bgp fabric {{\n  \
           # An AS of its own for each node but the spines, which share one: a path that\n  \
           # came down from a spine and goes up again is a loop (RFC 7938, 5.2.1).\n  \
           local as {};\n  \
           # Links that go down end their session at once; this is for the rest.\n  \
           keepalive time 3; hold time 9;\n  \
           connect delay time 1; connect retry time 1; error wait time 1, 1;\n  \
           # A neighbour's daemon may restart: its routes stay {RESTART_S} s as they are, then\n  \
           # {LLGR_S} s as the last choice (RFC 9494), so that a host that stays away yields\n  \
           # to whoever announces its guests from elsewhere.\n  \
           graceful restart on; graceful restart time {RESTART_S};\n  \
           long lived graceful restart on; long lived stale time {LLGR_S};\n",
        node.asn
    );
    if let Some(password) = &options.tcp_auth {
        let _ = writeln!(
            out,
            "  password \"{password}\"; # RFC 2385, kept in the kernel"
        );
    }
    out.push_str("}\n");
}

fn neighbour(out: &mut String, options: &Options, node: &Node, interface: &Interface) {
    let peer_role = interface.peer_role;
    let _ = write!(
        out,
        "\nprotocol bgp {} from fabric {{\n  neighbor {}%'{}' external;\n",
        protocol(&interface.peer),
        interface.peer_address,
        interface.peer,
    );
    // RFC 9234: what came from above never goes up again, whatever the filters.
    let role = if node.role > peer_role {
        "customer"
    } else {
        "provider"
    };
    let _ = writeln!(
        out,
        "  local role {role}; # RFC 9234: what came from above never goes up again"
    );
    if options.bfd && peer_role != Role::Hypervisor {
        out.push_str(
            "  # There are other ways: what is silent is left at once, graceful restart or not.\n  \
             bfd on;\n",
        );
    }
    let limits = limits(options, node.role, peer_role);
    for (family, limit) in [(4, limits.0), (6, limits.1)] {
        let next_hop = if family == 4 {
            "\n    extended next hop yes; # IPv4 by IPv6 link-local next hops (RFC 8950)"
        } else {
            ""
        };
        let _ = write!(
            out,
            "  ipv{family} {{{next_hop}\n    import {};\n    \
               import limit {limit} action {};{}\n    export {};\n  }};\n",
            import(node.role, peer_role, family),
            if peer_role == Role::Hypervisor {
                "block"
            } else {
                "restart"
            },
            limit_reason(node.role, peer_role),
            export(node.role, peer_role, family),
        );
    }
    out.push_str("}\n");
}

fn limit_reason(own: Role, peer: Role) -> &'static str {
    match (own, peer) {
        (Role::Tor, Role::Hypervisor) => " # what is over is refused, the rest stays",
        (Role::Hypervisor, _) => " # the default; more would be somebody's mistake",
        _ => "",
    }
}

fn import(own: Role, peer: Role, family: u8) -> String {
    let wanted = match (own, peer) {
        (Role::Tor, Role::Hypervisor) => format!("if net !~ HOSTS{family} then reject; "),
        (Role::Hypervisor, _) => format!("if net != {} then reject; ", default(family)),
        _ => String::new(),
    };
    format!("filter {{ {wanted}honour_gshut(); accept; }}")
}

fn export(own: Role, peer: Role, family: u8) -> String {
    let wanted = match (own, peer) {
        (Role::Tor, Role::Hypervisor) => format!("net = {}", default(family)),
        (Role::Hypervisor, _) => return EXPORT.to_owned(),
        _ => "source = RTS_BGP || source = RTS_STATIC".to_owned(),
    };
    format!("filter {{ if !({wanted}) then reject; send_gshut(); accept; }}")
}

fn default(family: u8) -> &'static str {
    if family == 4 { "0.0.0.0/0" } else { "::/0" }
}

//! Builds a fabric's namespaces, links, addresses and settings.
//!
//! Links are made in bulk by one `ip -batch`, each with both ends in their
//! namespaces from the start. Owns no state: everything goes with the
//! namespaces.

use std::fmt::Write as _;

use crate::{
    Result,
    fabric::{Fabric, GATEWAY4, GATEWAY6, Node, VM_PREFIX4, Vm},
    netns,
    topology::Role,
};

/// Metric of the floor default route: 200 in the high byte, which zebra takes
/// as distance. Any BGP default beats it; it holds the traffic while a routing
/// daemon restarts.
const FLOOR_METRIC: u32 = 200 << 24;

/// MTU of the fabric's links in bytes, as usual in data centres: room for guests'
/// 1500 and what a tunnel puts around them.
const MTU: u32 = 9000;

const ROUTER: &[(&str, &str)] = &[
    // Interfaces made later copy `default`; `all` covers lo.
    ("ipv6.conf.all.accept_dad", "0"),
    ("ipv6.conf.default.accept_dad", "0"),
    // The fabric's advertisements are for the daemons, not for the kernel.
    ("ipv6.conf.all.accept_ra", "0"),
    ("ipv6.conf.default.accept_ra", "0"),
    ("ipv4.conf.all.rp_filter", "0"),
    ("ipv4.conf.default.rp_filter", "0"),
    ("ipv4.conf.all.ignore_routes_with_linkdown", "1"),
    ("ipv4.conf.default.ignore_routes_with_linkdown", "1"),
    ("ipv6.conf.all.ignore_routes_with_linkdown", "1"),
    ("ipv6.conf.default.ignore_routes_with_linkdown", "1"),
    // `path` asks hops many times a second.
    ("ipv4.icmp_ratelimit", "0"),
    ("ipv6.icmp.ratelimit", "0"),
];

/// What only switches get; on a hypervisor this is the agent's work.
const SWITCH: &[(&str, &str)] = &[
    ("ipv4.ip_forward", "1"),
    ("ipv6.conf.all.forwarding", "1"),
    ("ipv4.fib_multipath_hash_policy", "1"),
    ("ipv6.fib_multipath_hash_policy", "1"),
];

const GUEST: &[(&str, &str)] = &[
    ("ipv6.conf.default.accept_dad", "0"),
    ("ipv6.conf.default.accept_ra", "0"),
];

/// How a lab's namespaces are named.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Those of the lab `lab`.
    #[must_use]
    pub fn of(lab: &str) -> Self {
        Self {
            prefix: format!("l2i-{lab}-"),
        }
    }

    /// What all of them start with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The namespace of a router or VM.
    #[must_use]
    pub fn of_node(&self, node: &str) -> String {
        format!("{}{node}", self.prefix)
    }
}

/// Makes the namespaces and their settings.
///
/// # Errors
/// A namespace exists already, or a setting isn't there.
pub fn namespaces(fabric: &Fabric, names: &Names) -> Result<()> {
    let all: Vec<String> = fabric.names().map(|n| names.of_node(n)).collect();
    netns::create(&all)?;
    netns::each(&fabric.nodes, |node| {
        let namespace = names.of_node(&node.name);
        netns::sysctl(&namespace, ROUTER)?;
        if node.role == Role::Hypervisor {
            return Ok(());
        }
        netns::sysctl(&namespace, SWITCH)
    })?;
    netns::each(&fabric.vms, |vm| {
        netns::sysctl(&names.of_node(&vm.name), GUEST)
    })
}

/// Makes all links, down, without addresses.
///
/// # Errors
/// `ip` refuses one.
pub fn links(fabric: &Fabric, names: &Names) -> Result<()> {
    let mut lines = String::new();
    for link in &fabric.links {
        let [a, b] = &link.ends;
        let _ = writeln!(
            lines,
            "link add name {} netns {} address {} type veth peer name {} netns {} address {}",
            b.node,
            names.of_node(&a.node),
            a.mac,
            a.node,
            names.of_node(&b.node),
            b.mac,
        );
    }
    for vm in &fabric.vms {
        lines += &tap_line(vm, names);
    }
    netns::batch(None, &lines)
}

/// A VM's tap, with the guest's end in its namespace.
fn tap_line(vm: &Vm, names: &Names) -> String {
    format!(
        "link add name {} netns {} type veth peer name eth0 netns {} address {}\n",
        vm.tap,
        names.of_node(&vm.host),
        names.of_node(&vm.name),
        vm.mac,
    )
}

/// Gives routers their loopbacks, brings links up, sets the floor route.
///
/// # Errors
/// `ip` refuses something.
pub fn routers(fabric: &Fabric, names: &Names) -> Result<()> {
    netns::each(&fabric.nodes, |node| {
        netns::batch(Some(&names.of_node(&node.name)), &router_lines(node))
    })
}

fn router_lines(node: &Node) -> String {
    let mut lines = String::from("link set dev lo up\n");
    let _ = writeln!(lines, "address add {}/32 dev lo", node.loopback4);
    let _ = writeln!(lines, "address add {}/128 dev lo nodad", node.loopback6);
    for interface in &node.interfaces {
        let _ = writeln!(lines, "link set dev {} mtu {MTU} up", interface.peer);
    }
    if node.role == Role::Hypervisor && !node.interfaces.is_empty() {
        let mut hops4 = String::new();
        let mut hops6 = String::new();
        for i in &node.interfaces {
            let (address, device) = (i.peer_address, &i.peer);
            let _ = write!(hops4, " nexthop via inet6 {address} dev {device}");
            let _ = write!(hops6, " nexthop via {address} dev {device}");
        }
        let head = format!("add default proto static metric {FLOOR_METRIC}");
        // 0.0.0.0/0 rather than `default`, whose family ip takes from the
        // next hop.
        let head4 = head.replace("default", "0.0.0.0/0");
        let head6 = head.replace("default", "::/0");
        let _ = writeln!(lines, "route {head4}{hops4}");
        let _ = writeln!(lines, "route {head6}{hops6}");
    }
    lines
}

/// Sets guests up and their taps with them, as Nova would when it starts one.
///
/// # Errors
/// `ip` refuses something.
pub fn guests(fabric: &Fabric, names: &Names) -> Result<()> {
    netns::each(&fabric.vms, |vm| {
        netns::batch(Some(&names.of_node(&vm.name)), &guest_lines(vm))
    })?;
    let hypervisors: Vec<&Node> = fabric.role(Role::Hypervisor).collect();
    netns::each(&hypervisors, |node| {
        let lines: String = fabric
            .vms_on(&node.name)
            .map(|vm| format!("link set dev {} up\n", vm.tap))
            .collect();
        netns::batch(Some(&names.of_node(&node.name)), &lines)
    })
}

/// Makes a VM's tap again that was deleted, and sets its guest up again, as
/// Nova does when an instance is started again: a device of the same name and
/// another index.
///
/// # Errors
/// The tap is there still, or `ip` refuses something else.
pub fn tap_again(vm: &Vm, names: &Names) -> Result<()> {
    netns::batch(None, &tap_line(vm, names))?;
    netns::batch(Some(&names.of_node(&vm.name)), &guest_lines(vm))?;
    let up = format!("link set dev {} up\n", vm.tap);
    netns::batch(Some(&names.of_node(&vm.host)), &up)
}

pub(crate) fn guest_lines(vm: &Vm) -> String {
    format!(
        "link set dev lo up\n\
         link set dev eth0 up\n\
         address add {}/{} dev eth0\n\
         address add {}/128 dev eth0 nodad\n\
         route add 0.0.0.0/0 via {GATEWAY4}\n\
         route add ::/0 via {GATEWAY6} dev eth0\n",
        vm.address4, VM_PREFIX4.1, vm.address6,
    )
}

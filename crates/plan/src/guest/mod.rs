//! What guests are told: from ports and subnets to files for dnsmasq, and to
//! what the agent answers itself.
//!
//! ```text
//!   dnsmasq ── DHCPv4: two files a port, and the server's arguments
//!   ipv6    ── router advertisements, neighbour discovery, DHCPv6
//!   metadata ── a document for the metadata proxy
//!   name    ── which host names are legal
//!   option4, option6 ── Neutron's extra_dhcp_opts, checked and encoded
//! ```
//!
//! A tap is planned by itself, so a change of one port costs what that one
//! costs. What can't be served is left out and named; the rest is served.

pub mod dnsmasq;
mod ipv6;
pub mod metadata;
mod name;
pub mod option4;
mod option6;
mod order;

use std::net::IpAddr;

use l2isolate_model::{
    IfName,
    document::ObjectId,
    guest::{Objects, ipv6::Answers},
    port::CheckedPort,
    problem::Problem,
};

pub use dnsmasq::{DHCP_ADDRESS, serves_dhcp};
pub use name::check as check_name;
pub use option4::Known;
pub use order::{GuestRules, Owner};

/// What an operator decides about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// Whether DHCPv4 is served.
    pub dhcp: bool,
    /// Whether the agent answers IPv6 solicitations and DHCPv6 on taps.
    pub ipv6: bool,
    /// Name servers of subnets that name none of a family, in order.
    pub dns: Vec<IpAddr>,
    /// Domain of all guests.
    pub domain: Option<String>,
    /// How long leases and what is advertised hold, in seconds.
    pub lifetime: u32,
    /// Whether guests get a route to the metadata proxy.
    pub metadata: bool,
    /// The options that dnsmasq knows by name.
    pub known: Known,
}

/// What a tap's port comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files.
    pub objects: Objects,
    /// What the agent answers itself.
    pub ipv6: Option<Answers>,
    /// What was left out, and why.
    pub problems: Vec<Problem>,
}

/// Plans one tap; `port` is the port that has it.
#[must_use]
pub fn plan(tap: IfName, port: Option<&CheckedPort>, config: &GuestConfig) -> Plan {
    let mut plan = Plan::default();
    let Some(port) = port.filter(|port| port.port.admin_state_up) else {
        return plan;
    };
    let mut problems = Problems::of(port);
    let hostname = port.port.hostname.as_deref();
    let hostname = hostname.map(|name| (name, name::check(name)));
    if let Some((_, Err(reason))) = &hostname {
        problems.add("hostname", format!("{reason}; the guest gets none"));
    }
    let hostname = match hostname {
        Some((name, Ok(()))) => Some(Hostname::Given(name)),
        Some((_, Err(_))) => None,
        None => Some(Hostname::Made),
    };
    for (place, option) in port.port.dhcp_options.iter().enumerate() {
        if !matches!(option.ip_version, 4 | 6) {
            let reason = format!("{} is no IP version; 4 and 6 are", option.ip_version);
            problems.add(&format!("dhcp_options[{place}].ip_version"), reason);
        }
    }
    if config.dhcp {
        plan.objects = dnsmasq::files(tap, port, hostname, config, &mut problems);
    }
    if config.ipv6 {
        plan.ipv6 = ipv6::plan(port, hostname, config, &mut problems);
    }
    plan.problems = problems.found;
    plan
}

/// A guest's name.
#[derive(Debug, Clone, Copy)]
enum Hostname<'a> {
    /// By its port.
    Given(&'a str),
    /// From its address, as Neutron does it.
    Made,
}

impl Hostname<'_> {
    fn text(self, address: IpAddr) -> String {
        match self {
            Self::Given(name) => name.to_owned(),
            Self::Made => format!("host-{}", address.to_string().replace(['.', ':'], "-")),
        }
    }
}

/// Collects what is wrong with a port.
#[derive(Debug)]
struct Problems {
    object: String,
    found: Vec<Problem>,
}

impl Problems {
    fn of(port: &CheckedPort) -> Self {
        Self {
            object: ObjectId::Port(port.port.id.clone()).to_string(),
            found: Vec::new(),
        }
    }

    fn add(&mut self, field: &str, reason: String) {
        self.found.push(Problem {
            origin: String::new(),
            object: self.object.clone(),
            field: field.to_owned(),
            reason,
        });
    }
}

/// The name servers of one family: the subnet's, or else the default ones. A
/// subnet that names 0.0.0.0 or :: wants none, as with Neutron.
fn dns<'a>(subnet: &'a [IpAddr], default: &'a [IpAddr], v4: bool) -> Vec<IpAddr> {
    let of = |all: &'a [IpAddr]| all.iter().copied().filter(move |ip| ip.is_ipv4() == v4);
    let own: Vec<IpAddr> = of(subnet).collect();
    let mut chosen = if own.is_empty() {
        of(default).collect()
    } else {
        own
    };
    chosen.retain(|ip| !ip.is_unspecified());
    chosen
}

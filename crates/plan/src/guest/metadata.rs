//! What the metadata proxy knows of each tap: who is on it, and what that
//! guest is told.
//!
//! | the tap's port is | entry |
//! |---|---|
//! | administratively up, whatever its binding | yes |
//! | administratively down, or not there | no |
//! | on a tap that isn't there | no: nobody can ask |

use std::net::IpAddr;

use l2isolate_model::{
    IfName,
    metadata::entry::{Entry, Method, Network, VERSION},
    port::CheckedPort,
    subnet::Subnet,
};

use crate::{Config, TapView};

/// Plans the entry of one tap; see the table above.
#[must_use]
pub fn plan(
    name: IfName,
    view: Option<&TapView<'_>>,
    port: Option<&CheckedPort>,
    config: &Config,
) -> Option<Entry> {
    let (view, checked) = (view?, port?);
    let port = &checked.port;
    if !config.metadata || !port.admin_state_up {
        return None;
    }
    let metadata = port.metadata.clone().unwrap_or_default();
    Some(Entry {
        version: VERSION,
        tap: name,
        index: view.tap.index,
        port: port.id.clone(),
        mac: port.mac,
        mtu: port.mtu,
        instance: port.instance.clone(),
        project: port.project.clone(),
        hostname: (port.hostname.clone())
            .or_else(|| metadata.name.clone())
            .unwrap_or_else(|| name_of(checked)),
        networks: (checked.addresses.iter())
            .map(|(address, subnet)| network(*address, subnet, checked.dhcp(subnet)))
            .collect(),
        metadata,
    })
}

fn network(address: IpAddr, subnet: &Subnet, dhcp: bool) -> Network {
    let method = match (address, subnet.ipv6_address_mode) {
        (_, _) if !dhcp => Method::Static,
        (IpAddr::V6(_), Some(mode)) => Method::Ipv6(mode),
        // Neutron: without a mode nothing of ours gives out IPv6 addresses.
        (IpAddr::V6(_), None) => Method::Static,
        (IpAddr::V4(_), _) => Method::Dhcp,
    };
    Network {
        subnet: subnet.id.clone(),
        address,
        cidr: subnet.cidr,
        gateway: subnet.gateway,
        dns: subnet.dns.clone(),
        routes: subnet.host_routes.clone(),
        method,
    }
}

/// A name for a guest without one, as Neutron makes it: `host-10-252-0-5`.
fn name_of(port: &CheckedPort) -> String {
    let mut addresses = port.addresses.iter().map(|(address, _)| *address);
    match addresses.next() {
        Some(address) => format!("host-{}", address.to_string().replace(['.', ':'], "-")),
        None => "host".to_owned(),
    }
}

//! `network_data.json`: how to configure the guest's interfaces
//! (nova/virt/netutils.py).

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use l2isolate_model::{
    metadata::entry::{Entry, Method, Network},
    subnet::Ipv6Mode,
};
use serde_json::{Value, json};

/// The document for these ports of an instance.
pub(super) fn data(entries: &[Arc<Entry>]) -> Value {
    let links: Vec<Value> = entries.iter().map(|entry| link(entry)).collect();
    let networks = entries.iter().flat_map(|entry| {
        let networks = entry.networks.iter();
        networks.map(move |network| (entry, network))
    });
    let networks: Vec<Value> = networks
        .enumerate()
        .map(|(number, (entry, one))| network(number, entry, one))
        .collect();
    let servers = entries.iter().flat_map(|entry| &entry.networks);
    let mut servers: Vec<IpAddr> = servers
        .flat_map(|network| network.dns.iter().copied())
        .collect();
    servers.sort();
    servers.dedup();
    let services: Vec<Value> = servers.into_iter().map(service).collect();
    json!({ "links": links, "networks": networks, "services": services })
}

fn link(entry: &Entry) -> Value {
    json!({
        "id": entry.tap,
        "vif_id": entry.port,
        "type": "phy",
        "mtu": entry.mtu,
        "ethernet_mac_address": entry.mac,
    })
}

fn network(number: usize, entry: &Entry, network: &Network) -> Value {
    let family = match network.address {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    };
    let method = match network.method {
        Method::Static => "",
        Method::Dhcp => "_dhcp",
        Method::Ipv6(Ipv6Mode::Slaac) => "_slaac",
        Method::Ipv6(Ipv6Mode::Dhcpv6Stateless) => "_dhcpv6-stateless",
        Method::Ipv6(Ipv6Mode::Dhcpv6Stateful) => "_dhcpv6-stateful",
    };
    let mut value = json!({
        "id": format!("network{number}"),
        "type": format!("{family}{method}"),
        "link": entry.tap,
        "network_id": network.subnet,
    });
    // Whoever asks a DHCP server is told all the rest by it.
    if let (Value::Object(fields), true) = (&mut value, network.method != Method::Dhcp) {
        let dns = network.dns.iter().copied().map(service);
        let details = json!({
            "ip_address": network.address,
            "netmask": network.cidr.netmask(),
            "routes": routes(network),
            "services": dns.collect::<Vec<_>>(),
        });
        fields.extend(details.as_object().cloned().unwrap_or_default());
    }
    value
}

fn routes(network: &Network) -> Vec<Value> {
    let route = |to: IpNet, gateway: IpAddr| json!({"network": to.network(), "netmask": to.netmask(), "gateway": gateway});
    let everywhere: Option<IpNet> = match network.address {
        IpAddr::V4(_) => "0.0.0.0/0".parse().ok(),
        IpAddr::V6(_) => "::/0".parse().ok(),
    };
    let default = network
        .gateway
        .zip(everywhere)
        .map(|(gateway, to)| route(to, gateway));
    let further = network.routes.iter();
    let further = further.map(|host| route(host.destination, host.nexthop));
    default.into_iter().chain(further).collect()
}

fn service(address: IpAddr) -> Value {
    json!({"type": "dns", "address": address})
}

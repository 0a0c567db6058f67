//! What tests of several modules need.

use l2isolate_model::metadata::{
    Metadata,
    entry::{Entry, Method, Network, VERSION},
};

/// An entry of a tap whose guest has these addresses.
pub(super) fn entry(tap: &str, addresses: &[&str]) -> Entry {
    let network = |address: &&str| {
        let address: std::net::IpAddr = address.parse().unwrap();
        let (cidr, gateway, method) = match address {
            std::net::IpAddr::V4(_) => ("10.0.0.0/16", "10.0.0.1", Method::Dhcp),
            std::net::IpAddr::V6(_) => ("2001:db8::/64", "fe80::1", Method::Static),
        };
        Network {
            subnet: "s".parse().unwrap(),
            address,
            cidr: cidr.parse().unwrap(),
            gateway: gateway.parse().ok(),
            dns: Vec::new(),
            routes: Vec::new(),
            method,
        }
    };
    Entry {
        version: VERSION,
        tap: tap.parse().unwrap(),
        index: 7,
        port: format!("port-of-{tap}").parse().unwrap(),
        mac: "fa:16:3e:00:00:05".parse().unwrap(),
        mtu: 1500,
        instance: Some(format!("instance of {tap}")),
        project: Some("project".to_owned()),
        hostname: "web-1".to_owned(),
        networks: addresses.iter().map(network).collect(),
        metadata: Metadata::default(),
    }
}

//! What an operator decides about the firewall.

use std::{collections::BTreeSet, net::Ipv6Addr};

use ipnet::IpNet;
use l2isolate_model::{IfName, filter::Limit};

/// Settings of the firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterConfig {
    /// How names of taps begin: a device that is called so and isn't known is
    /// dropped.
    pub tap_prefix: IfName,
    /// Ask the kernel to keep strangers out of our tables.
    pub owned: bool,
    /// Prefixes that guests can't reach through this host.
    pub protected: Vec<IpNet>,
    /// Link-local address of every tap's host end, which guests may ping.
    pub gateway_link_local: Option<Ipv6Addr>,
    /// Guests may ask for metadata (169.254.169.254, fe80::a9fe:a9fe, port 80).
    pub metadata: bool,
    /// Guests may ask the gateway for names (port 53).
    pub dns: bool,
    /// UDP port of the tunnel by which what arrives for guests that have left
    /// follows them: open to the peers of migrations alone.
    pub tunnel: Option<u16>,
    /// Interfaces to switches: nothing is passed on from one of them to one of them.
    pub uplinks: Vec<IfName>,
    /// NFLOG group to which ICMP errors from the fabric are shown that are of no known
    /// flow.
    pub strays: Option<u16>,
    /// What one tap may use of the host.
    pub limits: Limits,
    /// NFLOG group to which dropped packets are shown.
    pub log_group: u16,
    /// Ports and groups (by id) of which dropped packets are shown.
    pub log: BTreeSet<String>,
}

/// What one tap may use of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// First packets of connections.
    pub new: Limit,
    /// Connections at once, each way.
    pub connections: u32,
    /// Connections to the host's own services at once.
    pub host_connections: u32,
    /// ARP packets.
    pub arp: Limit,
    /// ICMPv6 to the host: neighbour discovery, and ping of the gateway.
    pub nd: Limit,
    /// DHCP packets.
    pub dhcp: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        let limit = |rate, burst| Limit { rate, burst };
        Self {
            new: limit(2000, 4000),
            connections: 10_000,
            host_connections: 256,
            arp: limit(100, 200),
            nd: limit(100, 200),
            dhcp: limit(20, 40),
        }
    }
}

impl Default for FilterConfig {
    fn default() -> Self {
        let prefixes = ["127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10"];
        Self {
            tap_prefix: IfName::TAP,
            owned: true,
            protected: prefixes
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            gateway_link_local: None,
            metadata: true,
            dns: false,
            tunnel: None,
            uplinks: Vec::new(),
            strays: None,
            limits: Limits::default(),
            log_group: 76,
            log: BTreeSet::new(),
        }
    }
}

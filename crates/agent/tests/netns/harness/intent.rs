//! Documents of intent, written as a source would write them.

use std::net::IpAddr;

use l2isolate_lab::netns;
use serde_json::{Value, json};

/// The gateway of the subnet that all guests are in.
pub(crate) const GATEWAY4: &str = "10.252.0.1";
/// The same for IPv6.
pub(crate) const GATEWAY6: &str = "2001:db8:252::1";
/// The router's link-local address on every tap.
pub(crate) const LINK_LOCAL: &str = "fe80::1";
/// Every tap's own hardware address.
pub(crate) const TAP_MAC: &str = "02:4c:32:49:53:4f";

/// The two subnets.
pub(super) fn subnets() -> String {
    json!({ "version": 1, "subnets": [
        { "id": "net4", "cidr": "10.252.0.0/16", "gateway": GATEWAY4 },
        { "id": "net6", "cidr": "2001:db8:252::/64", "gateway": GATEWAY6 },
    ] })
    .to_string()
}

/// A port's document.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) document: Value,
    /// While the guest was expected it was seen.
    pub(crate) seen: bool,
}

impl Port {
    /// A port with an address of each family; all of it follows from `number`.
    pub(crate) fn new(number: u32) -> Self {
        let id = format!("{number:08x}-0000-4000-8000-{number:012x}");
        let tap = format!("tap{}", &id[..11]);
        let [_, _, high, low] = (number + 256).to_be_bytes();
        let document = json!({
            "id": id,
            "revision": 1,
            "created": "2026-11-23T05:00:00Z",
            "tap": tap,
            "mac": format!("02:00:00:00:{high:02x}:{low:02x}"),
            "addresses": [
                { "address": format!("10.252.{high}.{low}"), "subnet": "net4" },
                { "address": format!("2001:db8:252::{number:x}:2"), "subnet": "net6" },
            ],
            "mtu": 1500,
            "admin_state_up": true,
            "project": "p1",
            "instance": "i1",
            "hostname": format!("vm{number}"),
            "binding": { "state": "active" },
        });
        Self {
            document,
            seen: false,
        }
    }

    /// The same with another value in one field.
    pub(crate) fn with(&self, field: &str, value: impl Into<Value>) -> Self {
        let mut document = self.document.clone();
        document[field] = value.into();
        Self {
            document,
            seen: self.seen,
        }
    }

    /// The same with other IPv4 and IPv6 addresses.
    pub(crate) fn with_addresses(&self, addresses: &[(&str, &str)]) -> Self {
        let list = |(address, subnet)| json!({ "address": address, "subnet": subnet });
        self.with(
            "addresses",
            addresses.iter().copied().map(list).collect::<Vec<_>>(),
        )
    }

    /// The same when the guest, which was expected, has been seen.
    pub(crate) fn seen(&self) -> Self {
        Self {
            seen: true,
            ..self.clone()
        }
    }

    /// The same in another state of binding.
    pub(crate) fn bound(&self, state: &str) -> Self {
        self.with("binding", json!({ "state": state }))
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.document[field].as_str().unwrap()
    }

    pub(crate) fn id(&self) -> &str {
        self.text("id")
    }

    pub(crate) fn tap(&self) -> &str {
        self.text("tap")
    }

    pub(crate) fn mac(&self) -> &str {
        self.text("mac")
    }

    /// Its addresses, in order.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let list = self.document["addresses"].as_array().unwrap();
        list.iter()
            .map(|entry| entry["address"].as_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Its first IPv4 address.
    pub(crate) fn v4(&self) -> String {
        self.addresses()
            .into_iter()
            .find(IpAddr::is_ipv4)
            .unwrap()
            .to_string()
    }

    /// Its first IPv6 address.
    pub(crate) fn v6(&self) -> String {
        self.addresses()
            .into_iter()
            .find(IpAddr::is_ipv6)
            .unwrap()
            .to_string()
    }

    /// The file it is in.
    pub(crate) fn file(&self) -> String {
        format!("{}.json", self.id())
    }

    /// The document with it alone.
    pub(crate) fn to_document(&self) -> String {
        document(&[self])
    }
}

/// A document with several ports.
pub(crate) fn document(ports: &[&Port]) -> String {
    let ports: Vec<&Value> = ports.iter().map(|port| &port.document).collect();
    json!({ "version": 1, "ports": ports }).to_string()
}

/// Runs `ip` in a namespace; the arguments are parted by spaces.
pub(crate) fn ip(namespace: &str, arguments: &str) -> String {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    netns::ip(namespace, &arguments).unwrap()
}

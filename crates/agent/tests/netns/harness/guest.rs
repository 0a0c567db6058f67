//! A guest: a namespace at the far end of a tap.

use std::process::Stdio;

use l2isolate_lab::netns;

use super::{Port, intent::ip};

/// A guest.
pub(crate) struct Guest {
    pub(crate) namespace: String,
    /// Its port, as it was at first.
    pub(crate) port: Port,
}

impl Guest {
    pub(super) fn new(namespace: String, port: Port) -> Self {
        Self { namespace, port }
    }

    /// What the guest does with what it was told by DHCP: IPv4 with the whole
    /// subnet on its link, IPv6 with its address alone and a router.
    pub(crate) fn set_up(&self) {
        let (mac, v4, v6) = (self.port.mac(), self.port.v4(), self.port.v6());
        let lines = format!(
            "link set eth0 address {mac}\nlink set eth0 up\n\
             addr replace {v4}/16 dev eth0\nroute replace default via {}\n\
             addr replace {v6}/128 dev eth0 nodad\nroute replace default via {} dev eth0\n",
            super::GATEWAY4,
            super::LINK_LOCAL,
        );
        netns::batch(Some(&self.namespace), &lines).unwrap();
    }

    /// The guest stops: it says nothing, until it is set up again.
    pub(crate) fn pause(&self) {
        self.ip("link set eth0 down");
    }

    /// Runs `ip` in the guest; the arguments are parted by spaces.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&self.namespace, arguments)
    }

    /// Whether an address answers, tried for as long as a patient person would.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        (0..5).any(|_| self.ping(address, "1"))
    }

    /// Whether an address is out of reach: the opposite, tried shortly.
    pub(crate) fn misses(&self, address: &str) -> bool {
        !(0..2).any(|_| self.ping(address, "0.2"))
    }

    fn ping(&self, address: &str, seconds: &str) -> bool {
        let mut command = netns::command(&self.namespace, "ping");
        command.args(["-n", "-q", "-c", "1", "-W", seconds]);
        if address.starts_with("fe80:") {
            command.args(["-I", "eth0"]);
        }
        let status = command
            .arg(address)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.unwrap().success()
    }

    /// The hardware address under which the guest knows a neighbour.
    pub(crate) fn knows(&self, address: &str) -> Option<String> {
        let listing = self.ip(&format!("-j neigh show {address} dev eth0"));
        let entries: serde_json::Value = serde_json::from_str(&listing).unwrap();
        entries[0]["lladdr"].as_str().map(str::to_owned)
    }

    /// Forgets all neighbours.
    pub(crate) fn forget(&self) {
        self.ip("neigh flush dev eth0");
    }
}

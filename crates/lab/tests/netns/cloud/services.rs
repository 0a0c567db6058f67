//! What guests are told by the host they are on: addresses and name servers by
//! DHCP, the rest by metadata.

use std::{path::PathBuf, process::Stdio, time::Duration};

use l2isolate_lab::{dhcp, netns, nova};
use serde_json::Value;

use super::site::{Cloud, Guest};

const SECRET: &str = "between Nova and hosts";

/// Nova's metadata API, and the proxy of one hypervisor; ends with its value.
pub(super) struct Metadata {
    proxy: std::process::Child,
    _nova: nova::Nova,
}

impl Metadata {
    /// Starts both on a hypervisor.
    pub(super) fn start(cloud: &Cloud, host: &str) -> Self {
        let namespace = cloud.namespace(host);
        let options = nova::Options {
            secret: SECRET.to_owned(),
            ..nova::Options::default()
        };
        let nova = nova::Nova::start(&namespace, "127.0.0.1:0".parse().unwrap(), options).unwrap();
        let config: PathBuf = cloud.agent_config(host).with_file_name("metadata.ini");
        let text = format!(
            "[DEFAULT]\nnova_metadata_host = {}\nmetadata_proxy_shared_secret = {SECRET}\n\
             [l2isolate]\nmetadata_source = nova\n",
            nova.address
        );
        std::fs::write(&config, text).unwrap();
        let proxy = netns::command(&namespace, cloud.program())
            .args(["metadata", "--config-file"])
            .arg(cloud.agent_config(host))
            .arg("--config-file")
            .arg(config)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { proxy, _nova: nova }
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        // It fails only if it has ended by itself.
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

/// What Nova is asked when a guest asks for its metadata; null while nobody
/// answers.
pub(super) fn metadata(guest: &Guest) -> Value {
    let output = netns::command(&guest.namespace, "curl")
        .args(["--silent", "--fail", "--max-time", "5"])
        .arg("http://169.254.169.254/openstack/latest/meta_data.json")
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// The lease that a guest gets, if it gets one.
pub(super) fn lease(guest: &Guest) -> Option<dhcp::Answer> {
    let mut client = dhcp::Client::open(&guest.namespace, "eth0", mac(guest)).unwrap();
    client.lease(Duration::from_millis(500), Duration::from_secs(5))
}

/// What comes of a guest's request for the lease that it has, on the second try or
/// the tenth: it asks whoever is there, as when its own server doesn't answer
/// (RFC 2131, 4.4.5).
pub(super) fn renew(guest: &Guest) -> Option<dhcp::Answer> {
    let address = guest.addresses[0].parse().unwrap();
    let mut client = dhcp::Client::open(&guest.namespace, "eth0", mac(guest)).unwrap();
    let answer = (0..10).find_map(|_| {
        client
            .send_from(dhcp::REQUEST, mac(guest), address, &[])
            .unwrap();
        client.answer(Duration::from_secs(1))
    });
    answer.filter(|answer| answer.kind == dhcp::ACK)
}

fn mac(guest: &Guest) -> [u8; 6] {
    let parsed: l2isolate_model::Mac = guest.mac.parse().unwrap();
    parsed.bytes()
}

//! Metadata without Nova: made from the port's intent.
//!
//! Two layouts, as Nova has them: OpenStack's below `/openstack`, and EC2's
//! below `/latest` and its dates. Pure: an instance and a path in, a document
//! out.

mod ec2;
mod network;
mod openstack;

use std::sync::Arc;

use bytes::Bytes;
use l2isolate_model::metadata::{Metadata, entry::Entry};

/// The version of either layout that is always there.
const LATEST: &str = "latest";

/// An instance: the port that asks, and all ports of its on this host.
#[derive(Debug)]
pub(super) struct Instance {
    /// The port that asks.
    pub(super) own: Arc<Entry>,
    /// All, in order of their taps, this one among them.
    pub(super) all: Vec<Arc<Entry>>,
}

/// A document, and what kind it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) kind: &'static str,
    pub(super) content: Bytes,
}

impl Document {
    fn text(content: impl Into<Bytes>) -> Self {
        Self {
            kind: "text/plain; charset=utf-8",
            content: content.into(),
        }
    }

    fn json(value: &serde_json::Value) -> Self {
        Self {
            kind: "application/json",
            content: value.to_string().into(),
        }
    }

    fn bytes(content: &[u8]) -> Self {
        Self {
            kind: "application/octet-stream",
            content: Bytes::copy_from_slice(content),
        }
    }

    fn list<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> Self {
        let lines: Vec<T> = lines.into_iter().collect();
        let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        Self::text(lines.join("\n"))
    }
}

impl Instance {
    /// What its guest is told, which may stand at another of its ports.
    fn metadata(&self) -> &Metadata {
        let own = std::iter::once(&self.own).chain(&self.all);
        own.map(|entry| &entry.metadata)
            .find(|metadata| **metadata != Metadata::default())
            .unwrap_or(&self.own.metadata)
    }

    /// Its id: cloud-init runs anew when it is another one.
    fn id(&self) -> &str {
        let own = self.own.instance.as_deref();
        own.unwrap_or_else(|| self.own.port.as_str())
    }

    fn name(&self) -> &str {
        self.metadata()
            .name
            .as_deref()
            .unwrap_or(&self.own.hostname)
    }
}

/// The document at a path; none if there is nothing. `seed` is randomness for
/// the guest.
pub(super) fn document(instance: &Instance, path: &str, seed: &[u8]) -> Option<Document> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["openstack", rest @ ..] => openstack::document(instance, rest, seed),
        parts => ec2::document(instance, parts),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::metadata::testing;

    fn metadata() -> Metadata {
        serde_json::from_value(json!({
            "name": "Web 1", "availability_zone": "rack-1", "instance_type": "m1.small",
            "public_keys": {"you": "ssh-ed25519 AAAA you", "me": "ssh-rsa BBBB me"},
            "user_data": {"base64": "H4sIAP8="},
            "vendor_data": {"cloud-init": "#cloud-config\n"}, "meta": {"role": "web"},
        }))
        .unwrap()
    }

    fn instance() -> Instance {
        let mut own = testing::entry("tap1", &["10.0.0.5", "2001:db8::5"]);
        own.instance = Some("i-1".to_owned());
        own.metadata = metadata();
        let own = Arc::new(own);
        let mut second = testing::entry("tap2", &["10.0.0.6"]);
        second.instance = Some("i-1".to_owned());
        Instance {
            all: vec![Arc::clone(&own), Arc::new(second)],
            own,
        }
    }

    fn get(path: &str) -> Option<String> {
        let found = document(&instance(), path, b"seed")?;
        Some(String::from_utf8_lossy(&found.content).into_owned())
    }

    fn json_at(path: &str) -> Value {
        serde_json::from_str(&get(path).unwrap()).unwrap()
    }

    /// The lists lead to every document, in both layouts: clients walk them.
    #[test]
    fn lists_lead_to_documents() {
        let mut seen = 0;
        let mut queue = vec!["/".to_owned(), "/openstack/".to_owned()];
        while let Some(directory) = queue.pop() {
            for line in get(&directory).unwrap().lines() {
                let path = match line.split_once('=') {
                    Some((number, _)) => format!("{directory}{number}/"),
                    None => format!("{directory}{line}"),
                };
                // Versions are listed without a slash; EC2's files as well.
                let directory = directory == "/" || directory == "/openstack/";
                assert!(get(&path).is_some(), "{path}");
                match path.ends_with('/') || directory {
                    true => queue.push(format!("{}/", path.trim_end_matches('/'))),
                    false => seen += 1,
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }

    /// What cloud-init's OpenStack data source reads.
    #[test]
    fn openstack() {
        assert_eq!(
            json_at("/openstack/latest/meta_data.json"),
            json!({
                "uuid": "i-1", "name": "Web 1", "hostname": "web-1", "launch_index": 0,
                "project_id": "project", "availability_zone": "rack-1", "devices": [],
                "public_keys": {"me": "ssh-rsa BBBB me", "you": "ssh-ed25519 AAAA you"},
                "keys": [{"name": "me", "type": "ssh", "data": "ssh-rsa BBBB me"},
                         {"name": "you", "type": "ssh", "data": "ssh-ed25519 AAAA you"}],
                "meta": {"role": "web"}, "random_seed": "c2VlZA==",
            })
        );
        let found = document(&instance(), "/openstack/latest/user_data", b"").unwrap();
        assert_eq!(&found.content[..], [0x1f, 0x8b, 8, 0, 255]);
        assert_eq!(
            json_at("/openstack/2018-08-27/vendor_data.json"),
            json!({"cloud-init": "#cloud-config\n"})
        );
        assert_eq!(
            json_at("/openstack/latest/vendor_data2.json"),
            json!({"static": {"cloud-init": "#cloud-config\n"}})
        );
        let versions = get("/openstack").unwrap();
        assert!(versions.lines().any(|line| line == "2018-08-27"));
        assert_eq!(versions.lines().last(), Some("latest"));
        for nothing in [
            "/openstack/1999-01-01",
            "/openstack/latest/content",
            "/openstack/latest/../latest/meta_data.json",
            "/openstack/2012-08-10/network_data.json",
        ] {
            assert_eq!(get(nothing), None, "{nothing}");
        }
    }

    /// What cloud-init's EC2 data source, and curl in image scripts, read.
    #[test]
    fn ec2() {
        for nothing in ["/latest/api/token", "/latest/meta-data/public-keys/2"] {
            assert_eq!(get(nothing), None, "{nothing}");
        }
        let get = |path: &str| get(path).unwrap();
        assert_eq!(get("/latest/"), "meta-data/\nuser-data");
        assert_eq!(get("/2009-04-04/meta-data/instance-id"), "i-1");
        for (path, text) in [
            ("hostname", "web-1"),
            ("local-hostname", "web-1"),
            ("local-ipv4", "10.0.0.5"),
            ("mac", "fa:16:3e:00:00:05"),
            ("instance-type", "m1.small"),
            ("placement/availability-zone", "rack-1"),
            ("public-keys/", "0=me\n1=you"),
            ("public-keys/1/", "openssh-key"),
            ("public-keys/1/openssh-key", "ssh-ed25519 AAAA you"),
        ] {
            assert_eq!(get(&format!("/latest/meta-data/{path}")), text, "{path}");
        }
    }

    /// A guest that configures itself statically finds all it needs, on each of
    /// its interfaces.
    #[test]
    fn network_data() {
        let data = json_at("/openstack/latest/network_data.json");
        assert_eq!(
            data["links"],
            json!([
                {"id": "tap1", "vif_id": "port-of-tap1", "type": "phy", "mtu": 1500,
                 "ethernet_mac_address": "fa:16:3e:00:00:05"},
                {"id": "tap2", "vif_id": "port-of-tap2", "type": "phy", "mtu": 1500,
                 "ethernet_mac_address": "fa:16:3e:00:00:05"},
            ])
        );
        assert_eq!(
            data["networks"],
            json!([
                {"id": "network0", "type": "ipv4_dhcp", "link": "tap1", "network_id": "s"},
                {"id": "network1", "type": "ipv6", "link": "tap1", "network_id": "s",
                 "ip_address": "2001:db8::5", "netmask": "ffff:ffff:ffff:ffff::",
                 "routes": [{"network": "::", "netmask": "::", "gateway": "fe80::1"}], "services": []},
                {"id": "network2", "type": "ipv4_dhcp", "link": "tap2", "network_id": "s"},
            ])
        );
    }

    /// The smallest port has a whole set of documents.
    #[test]
    fn nothing_is_needed() {
        let mut own = testing::entry("tap1", &[]);
        (own.instance, own.project) = (None, None);
        let own = Arc::new(own);
        let bare = Instance {
            all: vec![Arc::clone(&own)],
            own,
        };
        let get = |path: &str| document(&bare, path, b"").map(|d| d.content);
        let meta = get("/openstack/latest/meta_data.json").unwrap();
        let meta: Value = serde_json::from_slice(&meta).unwrap();
        assert_eq!(meta["uuid"], "port-of-tap1");
        assert_eq!(meta["name"], "web-1");
        assert_eq!(get("/openstack/latest/user_data"), None);
        assert_eq!(get("/latest/user-data"), None);
        assert_eq!(get("/latest/meta-data/public-keys/"), None);
        assert_eq!(get("/latest/meta-data/local-ipv4"), None);
        assert_eq!(get("/openstack/latest/vendor_data.json").unwrap(), "{}");
    }

    proptest! {
        /// A guest says whatever path it likes.
        #[test]
        fn no_path_breaks_it(path in "(/(openstack|latest|meta-data|public-keys|0|user_data|\\.\\.|.{0,6})){0,6}/?") {
            document(&instance(), &path, b"");
        }
    }
}

//! What tests of several modules need, and fuzz targets (feature `testing`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail loudly"
)]

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, watch},
};

use super::{
    Limits,
    connection::{End, Shared, converse},
    map::Map,
    proxy::{Answers, Proxy, Tap},
    throttle::Throttle,
};
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

/// What a guest gets that sends these bytes and closes its side then: a
/// connection as any, but in memory, answered from the intent.
///
/// # Panics
/// The system refuses what every process needs.
#[must_use]
pub fn answers_to(bytes: &[u8]) -> Vec<u8> {
    let entry = Arc::new(entry("tap1", &["10.0.0.5", "2001:db8::5"]));
    let tap = Tap {
        name: entry.tap,
        index: entry.index,
        log: Throttle::default(),
    };
    let map = Map::default();
    map.set(entry.tap, Some(entry));
    let shared = Shared {
        proxy: Proxy {
            answers: Answers::Intent,
            map,
        },
        limits: Limits::default(),
        log: Throttle::default(),
    };
    let (_never, stop) = watch::channel(false);
    let (alive, _ended) = mpsc::channel(1);
    let end = End {
        stop,
        _alive: alive,
    };
    let (mut guest, host) = tokio::io::duplex(1 << 16);
    let asking = async {
        // The proxy may have heard enough before the end.
        let _ = guest.write_all(bytes).await;
        let _ = guest.shutdown().await;
        let mut answer = Vec::new();
        let _ = guest.read_to_end(&mut answer).await;
        answer
    };
    let peer = (std::net::Ipv4Addr::new(10, 0, 0, 5), 1024).into();
    let answering = converse(&shared, &tap, host, peer, end);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().build().expect("a runtime");
    runtime
        .block_on(async { tokio::join!(asking, answering) })
        .0
}

#[test]
fn a_connection_in_memory_is_answered() {
    let answer = answers_to(b"GET /latest/meta-data/hostname HTTP/1.1\r\nHost: a\r\n\r\n");
    let text = String::from_utf8(answer).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nweb-1"), "{text}");
    let twice = answers_to(b"GET / HTTP/1.0\r\n\r\nGARBAGE\r\n\r\n");
    assert!(twice.starts_with(b"HTTP/1.0 200 OK"));
    assert!(answers_to(b"\x16\x03\x01").starts_with(b"HTTP/1.1 400"));
    assert_eq!(answers_to(b""), b"");
}

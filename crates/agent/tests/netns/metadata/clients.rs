//! What real clients get, by both families, from the intent.

use std::process::Command;

use l2isolate_lab::netns;
use serde_json::json;

use super::{get, served};
use crate::harness::{Guest, Port};

/// Every byte there is, 64 KiB of them: the most that user data may have.
fn full() -> Vec<u8> {
    (0..=255_u8).cycle().take(64 * 1024).collect()
}

fn base64(bytes: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = Command::new("base64")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn with_metadata(port: &Port) -> Port {
    port.with(
        "metadata",
        json!({
            "name": "Web 1", "public_keys": {"me": "ssh-ed25519 AAAA me"},
            "user_data": {"base64": base64(&full())}, "meta": {"role": "web"},
        }),
    )
}

fn curl(guest: &Guest, arguments: &[&str]) -> Vec<u8> {
    let output = netns::command(&guest.namespace, "curl")
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--globoff",
            "--max-time",
            "20",
        ])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output.stdout
}

/// curl and busybox's wget, IPv4 and IPv6, both layouts; user data to the byte.
#[test]
fn curl_and_busybox_get_it() {
    let (host, [one], _proxy) = served("firewall = true", "");
    host.tell(&[&with_metadata(&one.port)]);
    let v4 = "http://169.254.169.254";
    let v6 = "http://[fe80::a9fe:a9fe%25eth0]";
    host.until("the map is read", || {
        get(&one, 4, "/latest/user-data").status == 200
    });
    for root in [v4, v6] {
        let get = |path: &str| curl(&one, &[&format!("{root}{path}")]);
        let meta: serde_json::Value =
            serde_json::from_slice(&get("/openstack/latest/meta_data.json")).unwrap();
        assert_eq!(
            (
                &meta["uuid"],
                &meta["hostname"],
                &meta["name"],
                &meta["meta"]["role"]
            ),
            (&json!("i1"), &json!("vm1"), &json!("Web 1"), &json!("web"))
        );
        assert_eq!(get("/openstack/latest/user_data"), full());
        assert_eq!(get("/latest/user-data"), full());
        assert_eq!(
            get("/latest/meta-data/local-ipv4"),
            one.port.v4().as_bytes()
        );
        assert_eq!(
            get("/2009-04-04/meta-data/public-keys/0/openssh-key"),
            b"ssh-ed25519 AAAA me"
        );
        // Several on one connection.
        let urls = [
            format!("{root}/latest/meta-data/mac"),
            format!("{root}/latest/meta-data/instance-id"),
        ];
        let both = curl(&one, &[&urls[0], &urls[1]]);
        assert_eq!(
            String::from_utf8(both).unwrap(),
            format!("{}i1", one.port.mac())
        );
    }
    let network: serde_json::Value = serde_json::from_slice(&curl(
        &one,
        &[&format!("{v4}/openstack/latest/network_data.json")],
    ))
    .unwrap();
    assert_eq!(network["links"][0]["ethernet_mac_address"], one.port.mac());
    let missing = netns::command(&one.namespace, "curl")
        .args([
            "--silent",
            "--fail",
            &format!("{v4}/openstack/latest/nothing"),
        ])
        .status();
    assert_eq!(missing.unwrap().code(), Some(22), "an error of HTTP");
    let written = netns::command(&one.namespace, "curl")
        .args([
            "--silent",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "PUT",
        ])
        .arg(format!("{v4}/latest/api/token"))
        .output()
        .unwrap();
    assert_eq!(written.stdout, b"405");

    let wget = netns::command(&one.namespace, "busybox")
        .args([
            "wget",
            "-q",
            "-O",
            "-",
            &format!("{v4}/latest/meta-data/hostname"),
        ])
        .output()
        .unwrap();
    assert_eq!(
        (wget.stdout.as_slice(), wget.status.success()),
        (&b"vm1"[..], true)
    );
}

/// A guest that asks as one would by hand: HTTP/1.0, and its side closed once
/// it has asked.
#[test]
fn netcat_gets_it() {
    let (_host, [one], _proxy) = served("firewall = true", "");
    for words in [
        "GET /latest/meta-data/hostname HTTP/1.0\\r\\n\\r\\n",
        "GET /latest/meta-data/hostname HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n",
    ] {
        let script = format!("printf '{words}' | busybox nc 169.254.169.254 80");
        let output = netns::command(&one.namespace, "timeout")
            .args(["20", "sh", "-c", &script])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains(" 200 OK") && said.ends_with("vm1"),
            "{said:?}"
        );
    }
}

//! Who asks is known by the tap and the address, whatever the guest says.

use std::{net::TcpStream, process::Stdio, time::Duration};

use l2isolate_lab::netns;

use super::{V4, ask, get, listens, served, served_by_nova, talk};
use crate::harness::Proxy;

/// Nova is told the port's instance and project, by both families and for every
/// method and path; what a guest says of itself is dropped.
#[test]
fn nova_is_told_who_asks_and_nothing_else() {
    let (_host, [one, two], _proxy, _nova) = served_by_nova("firewall = true");
    for guest in [&one, &two] {
        for family in [4, 6] {
            let fields = "X-Instance-ID: other\r\nx_instance_id: other\r\nX-Tenant-ID: other\r\n\
                X-Forwarded-For: 10.252.1.1\r\nX-Instance-ID-Signature: 00\r\nX-Metadata-Provider: lb\r\n\
                Connection: X-Hop\r\nX-Hop: 1\r\nAccept: text/*\r\nUser-Agent: test\r\n";
            let path = "/openstack/latest/password?a=b%20c";
            let said = ask(guest, family, "POST", path, fields, "word").echo();
            assert_eq!(said["method"], "POST");
            assert_eq!(said["path"], path);
            assert_eq!(said["body"], "word");
            let mut headers = said["headers"].as_object().unwrap().clone();
            let signature = headers.remove("x-instance-id-signature").unwrap();
            assert_eq!(signature.as_str().unwrap().len(), 64);
            let host = headers.remove("host").unwrap();
            assert!(host.as_str().unwrap().starts_with("127.0.0.1:"), "{host}");
            let expected = serde_json::json!({
                "x-instance-id": guest.port.text("instance"),
                "x-tenant-id": "p1",
                "x-forwarded-for": guest.port.v4(),
                "accept": "text/*", "user-agent": "test", "content-length": "4",
            });
            assert_eq!(serde_json::Value::Object(headers), expected);
        }
    }
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let answer = ask(&one, 4, method, "/x", "", "");
        assert_eq!(answer.status, 200, "{method}");
        assert!(answer.head.contains("content-length"), "{answer:?}");
        assert_eq!(answer.body.is_empty(), method == "HEAD", "{answer:?}");
    }
    // Neither is a request that a proxy could be meant to pass on elsewhere.
    let elsewhere = talk(&one, 4, b"CONNECT 198.51.100.1:22 HTTP/1.1\r\n\r\n");
    assert!(elsewhere.starts_with("HTTP/1.1 400"), "{elsewhere}");
    let absolute = talk(
        &one,
        4,
        b"GET http://198.51.100.1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(absolute.contains("\"path\":\"/x\""), "{absolute}");
}

/// The firewall keeps guests to their addresses; where there is none, or the
/// port may use others, the proxy still answers its own addresses alone.
#[test]
fn a_foreign_address_gets_nothing() {
    let (host, [one, two], _proxy, nova) = served_by_nova("");
    assert_eq!(get(&one, 4, "/").status, 200);
    let before = nova.requests();
    // The port has lost this address to the other one, or so the map says.
    let entry = host.entry(&two.port).unwrap();
    let text = entry.to_json().unwrap();
    let text = text.replace(&two.port.v4(), "10.252.77.77");
    host.tell_text(&two.port, &text);
    host.until("the map is read", || get(&two, 4, "/").status == 403);
    assert_eq!(
        get(&two, 4, "/").body,
        "this address is not one of the port's own\n"
    );
    // Its link-local address is still its own, and stands for the new one.
    let said = get(&two, 6, "/").echo();
    assert_eq!(said["headers"]["x-forwarded-for"], "10.252.77.77");
    assert_eq!(nova.requests(), before + 1);
    assert!(
        host.proxy_log().contains("not its own"),
        "{}",
        host.proxy_log()
    );
    assert_eq!(get(&one, 4, "/").status, 200);
}

/// Neither the host itself nor the world finds the proxy, without any firewall:
/// its sockets are the taps'.
#[test]
fn only_taps_reach_it() {
    let (host, [one], _proxy) = served("", "");
    assert_eq!(get(&one, 4, "/").status, 200);
    // The kernel delivers what the host says to itself as from a tap.
    let device = one.port.tap();
    for [protocol, server] in [["-4", V4], ["-6", "[fe80::a9fe:a9fe%25TAP]"]] {
        let url = format!("http://{}/", server.replace("TAP", device));
        let output = netns::command(&host.hv, "curl")
            .args([protocol, "--silent", "--globoff", "--max-time", "10", &url])
            .output()
            .unwrap();
        assert!(output.stdout.is_empty(), "{url}: {output:?}");
        // Nothing received, or a reset, since the request wasn't read.
        let code = output.status.code();
        assert!(matches!(code, Some(52 | 56)), "{url}: {output:?}");
    }
    assert_eq!(get(&one, 6, "/").status, 200);
    // The world sends what is for 169.254.169.254 here, and is turned down.
    let outside = netns::inside(&host.world, || {
        let address = (V4.parse::<std::net::IpAddr>().unwrap(), 80).into();
        TcpStream::connect_timeout(&address, Duration::from_millis(500))
    });
    assert!(outside.unwrap().is_err(), "the world reaches it");
    let status = netns::command(&one.namespace, "ping")
        .args(["-n", "-q", "-c", "1", "-W", "5", "198.51.100.1"])
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success(), "the world is there, though");
}

/// A tap of the same name is another guest's, or the same one's after a
/// restart: the socket follows the device, not its name.
#[test]
fn a_tap_that_is_made_anew_is_served_anew() {
    let (host, [one], _proxy) = served("", "");
    assert_eq!(get(&one, 4, "/").status, 200);
    host.ip(&format!("link del {}", one.port.tap()));
    host.tap(one.port.tap(), &one.namespace, "eth0");
    one.set_up();
    host.wired(&[&one.port]);
    // The agent has not said so yet: the old socket is deaf.
    host.tell(&[&one.port]);
    listens(&host, &one);
    host.until("it is served", || get(&one, 4, "/").status == 200);
    // A port that is gone takes its sockets along.
    std::fs::remove_file(
        host.metadata_directory()
            .join(format!("{}.json", one.port.tap())),
    )
    .unwrap();
    for family in [4, 6] {
        host.until("nobody listens", || super::connect(&one, family).is_err());
    }
}

fn is_bare(proxy: &Proxy, uid: &str) {
    assert_eq!(proxy.status("Uid:"), uid);
    assert_eq!(proxy.status("Threads:"), "1");
    assert_eq!(proxy.status("NoNewPrivs:"), "1");
    for inherited in ["CapInh:", "CapAmb:"] {
        assert_eq!(proxy.status(inherited), "0000000000000000", "{inherited}");
    }
    // CAP_NET_BIND_SERVICE is number 10.
    for own in ["CapPrm:", "CapEff:"] {
        assert_eq!(proxy.status(own), "0000000000000400", "{own}");
    }
}

/// Tenants' bytes are parsed by a process that can do nothing to the network,
/// whichever way it is started.
#[test]
fn it_has_no_privilege_but_one() {
    let (host, [one], proxy) = served("", "");
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let uid = nobody.uid.to_string();
    is_bare(&proxy, &uid);
    drop(proxy);
    let config = host.path("metadata.conf");
    let child = netns::command(&host.hv, crate::harness::PROGRAM)
        .args(["metadata", "--config-file"])
        .arg(&config)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let from_root = Proxy::new(child);
    listens(&host, &one);
    is_bare(&from_root, &uid);
    assert_eq!(from_root.status("CapBnd:"), "0000000000000000");
    drop(from_root);
    // Root is never kept, nor is a user that doesn't exist taken for one.
    for (user, reason) in [("root", "is root"), ("l2isolate-nobody", "no user")] {
        let text = std::fs::read_to_string(&config).unwrap();
        let other = host.path("other.conf");
        let text = text.replace("metadata_user = nobody", &format!("metadata_user = {user}"));
        std::fs::write(&other, text).unwrap();
        let arguments = ["metadata", "--config-file", other.to_str().unwrap()];
        let output = crate::harness::run(&arguments);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(reason), "{said}");
    }
}

/// A port that is no instance's has nothing to ask Nova for.
#[test]
fn a_port_without_instance_is_told_so() {
    let (host, [one], _proxy, nova) = served_by_nova("");
    let bare = one.port.with("instance", serde_json::Value::Null);
    host.tell(&[&bare]);
    host.until("the map is read", || get(&one, 4, "/").status == 404);
    let before = nova.requests();
    assert_eq!(get(&one, 6, "/latest/meta-data/").status, 404);
    assert_eq!(nova.requests(), before);
    host.until("the log says why", || {
        host.proxy_log().contains("has no instance")
    });
}

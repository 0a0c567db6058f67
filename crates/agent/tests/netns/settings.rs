//! Each setting of a tap by its effect on packets.

use std::{net::UdpSocket, time::Duration};

use l2isolate_lab::netns;

use crate::harness::{Guest, Host, TAP_MAC, advertise_router, array, ip};

/// Whether a datagram from `source`, which the guest has beside its own
/// address, arrives at another guest.
fn arrives(from: &Guest, source: &str, to: &Guest) -> bool {
    let bind = |namespace: &str, address: &str| {
        netns::inside(namespace, || UdpSocket::bind((address, 0)).unwrap()).unwrap()
    };
    let input = bind(&to.namespace, &to.port.v4());
    let output = bind(&from.namespace, source);
    let target = input.local_addr().unwrap();
    input
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    (0..10).any(|_| {
        output.send_to(b"pair", target).unwrap();
        matches!(input.recv_from(&mut [0; 16]), Ok((_, sender)) if sender.ip().to_string() == source)
    })
}

/// Allowed address pairs have no route to the tap: a reverse path filter would
/// drop them. The host may come with a strict one for all devices, of which
/// the larger value counts, and somebody may set one later.
#[test]
fn an_address_pair_passes_whatever_the_host_came_with() {
    let mut host = Host::new();
    host.set_sysctl("ipv4.conf.all.rp_filter", "1");
    host.set_sysctl("ipv4.conf.default.rp_filter", "1");
    let [one, two] = host.guests();
    let pair = "10.252.200.200";
    one.ip(&format!("addr add {pair}/32 dev eth0"));
    host.start();
    host.wired(&[&one.port, &two.port]);
    assert!(arrives(&one, pair, &two), "dropped");
    for key in ["all".to_owned(), one.port.tap().to_owned()] {
        let key = format!("ipv4.conf.{key}.rp_filter");
        host.set_sysctl(&key, "1");
        host.until("the reverse path filter is off again", || {
            host.sysctl(&key) == "0"
        });
    }
    assert!(
        arrives(&one, pair, &two),
        "dropped after somebody had set it"
    );
}

/// A guest that says it is a router mustn't become the hypervisor's. A device
/// beside the tap that does accept routers shows that the message is a good one.
#[test]
fn a_router_advertisement_of_a_guest_changes_nothing() {
    let mut host = Host::new();
    let [guest] = host.guests();
    host.tap("up1", &guest.namespace, "eth1");
    guest.ip("link set eth1 up");
    host.ip("link set up1 up");
    host.set_sysctl("ipv6.conf.up1.accept_ra", "2");
    // Worse than what a tap has by default: it would be believed.
    host.set_sysctl(&format!("ipv6.conf.{}.accept_ra", guest.port.tap()), "2");
    host.start();
    host.wired(&[&guest.port]);
    let believed = |device: &str| {
        let routes = host.ip(&format!("-6 route show dev {device} proto ra"));
        let addresses = host.ip(&format!("-6 addr show dev {device}"));
        !routes.is_empty() || addresses.contains("2001:db8:bad:")
    };
    host.until("the message is believed where it is welcome", || {
        advertise_router(&guest.namespace, "eth0");
        advertise_router(&guest.namespace, "eth1");
        believed("up1")
    });
    assert!(!believed(guest.port.tap()));
    host.wired(&[&guest.port]);
}

/// The MTU of the port is the tap's, and what it becomes later: larger packets
/// are told so.
#[test]
fn the_mtu_of_the_port_is_the_mtu_of_the_tap() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    let smaller = two.port.with("mtu", 1400).with("revision", 2);
    host.write(&smaller);
    host.wired(&[&one.port, &smaller]);
    let size = |payload: &str| {
        let arguments = [
            "-n",
            "-c",
            "1",
            "-W",
            "2",
            "-M",
            "do",
            "-s",
            payload,
            &two.port.v4(),
        ];
        let output = netns::command(&one.namespace, "ping")
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // 20 bytes of IPv4 and 8 of ICMP come on top.
    assert!(size("1372").contains("1 received"), "{}", size("1372"));
    assert!(size("1373").contains("mtu = 1400"), "{}", size("1373"));
    host.ip(&format!("link set {} mtu 1300", two.port.tap()));
    host.wired(&[&one.port, &smaller]);
}

/// Whoever changes a tap's hardware address or switches it off, it is set back,
/// and the routes that went with the link are back as well.
#[test]
fn hardware_address_and_link_are_set_back() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    host.ip(&format!(
        "link set {} address 02:00:00:00:99:99",
        one.port.tap()
    ));
    host.wired(&[&one.port, &two.port]);
    host.ip(&format!("link set {} down", one.port.tap()));
    host.wired(&[&one.port, &two.port]);
    one.forget();
    assert!(one.reaches(&two.port.v4()));
    assert!(two.reaches(&one.port.v6()));
    assert_eq!(one.knows(&two.port.v4()).as_deref(), Some(TAP_MAC));
}

/// A real tap device whose other end nobody has opened yet, as before the
/// guest is started: all of it is in place but for the carrier.
#[test]
fn a_tap_that_nobody_has_opened_is_wired() {
    let mut host = Host::new();
    let guest = host.guest(1);
    let real = crate::harness::Port::new(2);
    host.ip(&format!("tuntap add dev {} mode tap", real.tap()));
    host.start();
    host.write(&guest.port);
    host.write(&real.with("mtu", 1450));
    let ports = [&guest.port, &real.with("mtu", 1450)];
    host.wired(&ports);
    let link = &array(&host.hv, &format!("-j link show {}", real.tap()))[0];
    assert!(
        link["flags"]
            .as_array()
            .unwrap()
            .iter()
            .any(|flag| flag == "NO-CARRIER")
    );
    host.ip(&format!("link set {} down", real.tap()));
    host.wired(&ports);
    host.ip(&format!(
        "link set {} address 02:00:00:00:99:99 mtu 1500",
        real.tap()
    ));
    host.wired(&ports);
    assert!(guest.reaches(crate::harness::OUTSIDE4));
    // Of link-local addresses there are the gateway's and metadata's and none of
    // its own.
    let addresses = host.ip(&format!("-6 addr show dev {}", guest.port.tap()));
    assert_eq!(addresses.matches("inet6 fe80:").count(), 2, "{addresses}");
    for ours in ["fe80::1/64", "fe80::a9fe:a9fe/128"] {
        assert!(addresses.contains(ours), "{addresses}");
    }
}

/// Settings of the host as a whole, and that they are left alone where the
/// operator says so.
#[test]
fn the_host_is_made_a_router_unless_told_otherwise() {
    let keys = [
        "ipv4.ip_forward",
        "ipv6.conf.all.forwarding",
        "ipv4.fib_multipath_hash_policy",
    ];
    for (option, wanted) in [("", "1"), ("manage_host = false", "0")] {
        let mut host = Host::with(option);
        for key in keys {
            host.set_sysctl(key, "0");
        }
        host.start();
        host.wired(&[]);
        host.settled();
        for key in keys {
            assert_eq!(host.sysctl(key), wanted, "{key} with {option:?}");
        }
        assert_eq!(
            ip(&host.hv, "-4 route show default").trim(),
            "default via 192.0.2.2 dev up0"
        );
    }
}

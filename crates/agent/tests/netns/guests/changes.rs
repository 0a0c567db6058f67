//! What changes in the cloud reaches guests, without dnsmasq being started
//! anew, and without a word to those whom it doesn't concern.

use serde_json::json;

use super::{Cloud, LONG, PAUSE, net4};

/// Other name servers, other options, another MTU, another address: told at
/// the next renewal. What is taken back is gone as well.
#[test]
fn changes_are_told_at_the_next_renewal() {
    let mut cloud = Cloud::new("");
    let options = json!([{"name": "ntp-server", "value": "10.255.0.123"}]);
    let port = Cloud::port(1, &[("10.252.1.10", "net4")]).with("dhcp_options", options);
    let machine = cloud.boot(&port);
    let other = cloud.boot(&Cloud::port(2, &[("10.252.1.11", "net4")]));
    cloud.start();
    assert_eq!(machine.lease().addresses(42).len(), 1);
    other.lease();
    let pid = cloud.server();
    let servers = |lease: &l2isolate_lab::dhcp::Answer| lease.addresses(6).len();

    let mut subnet = net4();
    subnet["dns"] = json!(["10.255.0.99"]);
    cloud.subnet(subnet.clone());
    cloud
        .host
        .until("the name server is told", || servers(&machine.lease()) == 1);
    subnet["dns"] = json!([]);
    cloud.subnet(subnet);
    cloud
        .host
        .until("none is told any more", || servers(&machine.lease()) == 0);

    let port = port.with("dhcp_options", json!([])).with("mtu", 1300);
    cloud.host.write(&port);
    cloud.host.until("the option is gone", || {
        let lease = machine.lease();
        lease.addresses(42).is_empty() && lease.options[&26] == 1300_u16.to_be_bytes()
    });
    let moved = port.with_addresses(&[("10.252.1.77", "net4")]);
    cloud.host.write(&moved);
    cloud.host.until("the address is another", || {
        machine.lease().address.to_string() == "10.252.1.77"
    });
    let named = moved.with("hostname", "renamed");
    cloud.host.write(&named);
    cloud.host.until("the name is another", || {
        machine.lease().text(12) == "renamed"
    });
    // The hardware address of a port can be changed while no guest runs.
    cloud.host.write(&named.with("mac", "02:00:00:00:77:77"));
    cloud.host.until("another hardware address has it", || {
        let mut client =
            l2isolate_lab::dhcp::Client::open(&machine.namespace, "eth0", [2, 0, 0, 0, 0x77, 0x77])
                .unwrap();
        machine.ip("link set eth0 address 02:00:00:00:77:77");
        client
            .lease(PAUSE, PAUSE)
            .is_some_and(|lease| lease.address.to_string() == "10.252.1.77")
    });
    assert_eq!(cloud.server(), pid, "dnsmasq was started anew");
    assert_eq!(other.lease().address.to_string(), "10.252.1.11");
    assert_eq!(cloud.host.status()["dhcp"]["restarts"], 0);
}

/// A subnet that nobody had before is served without a restart, also to a port
/// that moves into it.
#[test]
fn a_new_subnet_needs_no_restart() {
    let mut cloud = Cloud::new("");
    let machine = cloud.boot(&Cloud::port(1, &[("10.252.1.10", "net4")]));
    cloud.start();
    machine.lease();
    let pid = cloud.server();
    cloud.subnet(json!({"id": "new", "cidr": "198.18.0.0/15", "gateway": "198.18.0.1", "dns": ["198.18.0.2"]}));
    let newcomer = cloud.boot(&Cloud::port(2, &[("198.19.7.7", "new")]));
    let lease = newcomer.lease();
    assert_eq!(lease.address.to_string(), "198.19.7.7");
    assert_eq!(lease.addresses(1)[0].to_string(), "255.254.0.0");
    assert_eq!(lease.addresses(3)[0].to_string(), "198.18.0.1");
    cloud.host.write(&Cloud::port(1, &[("198.19.7.8", "new")]));
    cloud.host.until("it has moved", || {
        machine.lease().address.to_string() == "198.19.7.8"
    });
    // And back: the lease of the old address is nobody's hindrance.
    cloud
        .host
        .write(&Cloud::port(1, &[("10.252.1.10", "net4")]));
    cloud.host.until("it is back", || {
        machine.lease().address.to_string() == "10.252.1.10"
    });
    assert_eq!(cloud.server(), pid);
}

/// An address goes from one port to the next, whose hardware address dnsmasq
/// has never seen: stock dnsmasq refuses it for as long as the old lease lasts.
#[test]
fn an_address_is_used_again() {
    let mut cloud = Cloud::new("");
    let first = cloud.boot(&Cloud::port(1, &[("10.252.1.10", "net4")]));
    cloud.start();
    first.lease();
    let pid = cloud.server();
    for number in 2..6 {
        let last = Cloud::port(number - 1, &[]);
        let next = Cloud::port(number, &[("10.252.1.10", "net4")]);
        cloud.host.remove(&last);
        let machine = cloud.boot(&next);
        let lease = machine.lease();
        assert_eq!(lease.address.to_string(), "10.252.1.10");
        assert_eq!(lease.text(12), format!("vm{number}"));
    }
    // The first one is heard no more, whatever it says.
    let mut client = first.client();
    assert_eq!(client.lease(PAUSE, PAUSE), None);
    assert_eq!(cloud.server(), pid);
    let log = cloud.host.whole_log();
    assert!(
        log.contains("released an old lease"),
        "the lease was never in the way"
    );
    cloud.host.until("all is in place", || {
        cloud.host.status()["differences"] == 0
    });
    let _ = LONG;
}

//! Intent over RabbitMQ: from the cloud to the kernel, and back to the cloud.

use l2isolate_lab::netns;

use crate::harness::{Flow, Neutron, Port};

/// A boot as Nova does it: the port is there, then the tap; a change; an end.
#[test]
fn a_boot_a_change_and_an_end() {
    let mut neutron = Neutron::new();
    neutron.start();
    let one = neutron.boot(1);
    let two = neutron.boot(2);
    neutron.wired(&[&one.port, &two.port]);
    neutron.active(&[&one.port, &two.port]);
    assert!(one.reaches(&two.port.v4()));
    let other = two.port.with_addresses(&[("10.252.9.9", "net4")]);
    neutron.put(&other);
    neutron.wired(&[&one.port, &other]);
    let off = one.port.with("admin_state_up", false);
    neutron.put(&off);
    neutron.wired(&[&off, &other]);
    neutron.active(&[&other]);
    // As Nova deletes one: the tap goes, then the port.
    neutron.ip(&format!("link del {}", other.tap()));
    neutron.active(&[]);
    neutron.cloud().remove("ports", other.id());
    neutron.until("the agent forgets it", || {
        neutron.status()["ports"]["no_tap"].is_null()
    });
    let status = neutron.status();
    let contact = &status["source"]["contact"];
    assert_eq!(contact["connected"], "127.0.0.1:5672", "{status:#}");
    assert_eq!(status["source"]["away"], serde_json::Value::Null);
    assert!(contact["last_sync"].is_string() && contact["next_sync"].is_string());
    assert_eq!(status["in_sync"], true, "{status:#}");
}

/// What operators see in Neutron of the agent.
#[test]
fn figures_reach_neutron() {
    let mut neutron = Neutron::new();
    neutron.start();
    let one = neutron.boot(1);
    neutron.active(&[&one.port]);
    neutron.until("the figures show the port", || {
        let reports = neutron.cloud().calls_of("report_state");
        let Some(last) = reports.last() else {
            return false;
        };
        let figures = &last["agent_state"]["agent_state"]["configurations"];
        figures["ports_by_state"]["wired"] == 1
            && figures["underlay_address"] == "10.255.1.1"
            && figures["version"] == env!("CARGO_PKG_VERSION")
    });
}

/// The destination of a live migration is wired without being announced, and
/// Nova hears that it is plugged in; then the guest is here.
#[test]
fn a_guest_that_arrives() {
    let mut neutron = Neutron::new();
    neutron.start();
    let coming = Port::new(1).bound("incoming");
    neutron.put(&coming);
    neutron
        .cloud()
        .statuses
        .insert(coming.id().to_owned(), "ACTIVE".to_owned());
    let guest = neutron.paused_guest(1);
    neutron.wired(&[&coming]);
    let told = || {
        let calls = neutron.cloud().calls_of("update_device_list");
        let up = calls
            .iter()
            .filter(|call| call["devices_up"][0] == coming.id());
        up.count()
    };
    neutron.until("Nova is told", || told() == 1);
    neutron
        .cloud()
        .statuses
        .insert(coming.id().to_owned(), "DOWN".to_owned());
    neutron.put(&guest.port);
    neutron.wired(&[&guest.port]);
    neutron.active(&[&guest.port]);
    assert_eq!(told(), 2);
}

/// RabbitMQ is killed while 50 machines boot, and so is the server. What is
/// wired keeps forwarding; when they are back, everything is caught up.
#[test]
fn the_broker_dies_during_fifty_boots() {
    const MANY: u32 = 50;
    let mut neutron = Neutron::crowded();
    neutron.start();
    let one = neutron.boot(1001);
    let two = neutron.boot(1002);
    neutron.wired(&[&one.port, &two.port]);
    let flow = Flow::start(&one, &two, 4);
    let far = neutron.namespace("guests");
    let ports: Vec<Port> = (1..=MANY).map(Port::new).collect();
    for (number, port) in ports.iter().enumerate() {
        neutron.put(port);
        let tap = port.tap();
        let peer = format!("p{}", &tap[3..]);
        let veth = format!("link add {tap} type veth peer name {peer} netns {far}\n");
        netns::batch(Some(&neutron.hv), &veth).unwrap();
        if number == 20 {
            neutron.broker.kill().unwrap();
        }
    }
    neutron.until("the agent says so", || {
        let away = neutron.status()["source"]["away"].to_string();
        away.contains("127.0.0.1:5672")
    });
    neutron.broker.start().unwrap();
    neutron.serve();
    let all: Vec<&Port> = ports.iter().chain([&one.port, &two.port]).collect();
    neutron.wired(&all);
    neutron.active(&all);
    neutron.until("all is well", || neutron.status()["in_sync"] == true);
    flow.unharmed();
}

/// Killed and started again while there is neither broker nor server: nothing
/// is written, what comes is wired from what is known; and Neutron hears of
/// nothing that it knows.
#[test]
fn a_restart_without_a_cloud_is_no_event() {
    let mut neutron = Neutron::new();
    neutron.start();
    let one = neutron.boot(1);
    let two = neutron.boot(2);
    let ports = [&one.port, &two.port];
    neutron.wired(&ports);
    neutron.active(&ports);
    neutron.until("the intent is on disk", || {
        let id = two.port.id();
        neutron
            .path("state/intent/ports")
            .join(format!("{id}.json"))
            .is_file()
    });
    let flow = Flow::start(&one, &two, 4);
    neutron.kill();
    neutron.broker.kill().unwrap();
    neutron.start();
    neutron.until("it says why", || {
        let away = neutron.status()["source"]["away"].to_string();
        away.contains("can't be reached")
    });
    assert_eq!(neutron.status()["written"], 0);
    neutron.wired(&ports);
    flow.unharmed();
    // A tap of a known port comes anew.
    neutron.ip(&format!("link del {}", two.port.tap()));
    neutron.tap(two.port.tap(), &two.namespace, "eth0");
    two.set_up();
    neutron.wired(&ports);
    assert!(two.reaches(&one.port.v4()));
    neutron.broker.start().unwrap();
    neutron.serve();
    neutron.cloud().calls.clear();
    neutron.synced();
    let sync = neutron.cloud().calls_of("sync")[0].clone();
    let digests = sync["digests"]["ports"].as_object().unwrap();
    assert!(digests.values().all(|digest| digest != ""), "{digests:?}");
    let flow = Flow::start(&one, &two, 4);
    neutron.kill();
    neutron.cloud().calls.clear();
    neutron.start();
    neutron.synced();
    neutron.settled();
    assert_eq!(neutron.status()["written"], 0);
    let reported = neutron.cloud().calls_of("update_device_list");
    assert!(reported.is_empty(), "{reported:?}");
    flow.unharmed();
}

/// A password in a configuration is shown to nobody, and a wrong one is named.
#[test]
fn wrong_credentials_are_named() {
    let mut neutron = Neutron::new();
    let path = neutron.path("l2isolate.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace("openstack:secret@", "openstack:wrongpass@"),
    )
    .unwrap();
    neutron.start();
    neutron.until("the agent says so", || {
        neutron.status()["source"]["away"]
            .to_string()
            .contains("refuses user `openstack`")
    });
    let log = neutron.whole_log();
    assert!(log.contains("wrong user or password"), "{log}");
    assert!(!log.contains("wrongpass"), "{log}");
}

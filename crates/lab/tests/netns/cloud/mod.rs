//! The whole of it: real neutron-servers of both releases drive real agents in a
//! fabric of two racks. Networks, groups, ports and migrations are made through
//! REST; taps appear as Nova makes them, and Nova's ears are ours.
//!
//! Needs what `scripts/neutron-env` makes, and the packages of
//! `scripts/packages`.

mod losses;
mod nova;
mod relay;
mod services;
mod site;

use l2isolate_lab::neutron::Release;
use serde_json::json;
use site::{Cloud, Guest, INSTANCE};

/// Debian 12's own.
#[test]
fn a_cloud_on_the_oldest_release() {
    story(Release::Oldest);
}

/// The newest.
#[test]
fn a_cloud_on_the_newest_release() {
    story(Release::Newest);
}

/// One cloud from its first agent to its last guest; each step is what an
/// operator or a tenant would do.
fn story(release: Release) {
    let cloud = Cloud::up(release);
    let [hv1, hv2] = cloud.hypervisors();
    let group = cloud.group("icmp");
    let one = cloud.boot(&hv1, &[&group]);
    let two = cloud.boot(&hv2, &[&group]);
    cloud.until("both ports are ACTIVE", || {
        cloud.status_of(&one) == "ACTIVE" && cloud.status_of(&two) == "ACTIVE"
    });
    cloud.nova.until_told(&one.id, "network-vif-plugged", 1);
    cloud.until("the guests reach each other across racks", || {
        cloud.pings(&one, &two) && cloud.pings(&two, &one)
    });

    a_change_of_a_group(&cloud, &group, &one, &two);
    a_change_of_a_subnet(&cloud, &one);
    metadata(&cloud, &hv1, &one);
    what_operators_see(&cloud, &hv1);
    a_restart_of_the_agent(&cloud, &hv1, &one, &two);
    let one = a_migration(&cloud, one, [&hv1, &hv2], &two);
    services_after_a_migration(&cloud, &hv2, &one);
    a_deletion(&cloud, &hv2, two);
    a_server_and_a_broker_that_die(&cloud, &hv1, &one, &group);
    cloud.down();
}

/// What a tenant takes out of a group is refused from then on, and what they
/// put in passes.
fn a_change_of_a_group(cloud: &Cloud, group: &str, one: &Guest, two: &Guest) {
    let rules = cloud.ask(
        "GET",
        &format!("security-group-rules?security_group_id={group}"),
        None,
    );
    let rules = rules["security_group_rules"].as_array().unwrap().clone();
    for rule in rules.iter().filter(|rule| rule["direction"] == "ingress") {
        let id = rule["id"].as_str().unwrap();
        cloud.ask("DELETE", &format!("security-group-rules/{id}"), None);
    }
    cloud.until("pings are refused", || cloud.refuses(one, two));
    cloud.allow_ping(group);
    cloud.until("the ping passes", || cloud.pings(one, two));
}

/// A guest is leased its address, and told of the subnet's name servers as they
/// are now.
fn a_change_of_a_subnet(cloud: &Cloud, guest: &Guest) {
    let told = |servers: &[&str]| {
        let lease = services::lease(guest);
        lease.is_some_and(|lease| {
            let all: Vec<String> = lease.addresses(6).iter().map(ToString::to_string).collect();
            lease.address.to_string() == guest.addresses[0] && all == servers
        })
    };
    cloud.until("the lease is right", || told(&["192.0.2.53"]));
    let servers = ["192.0.2.54", "192.0.2.53"];
    let body = json!({"subnet": {"dns_nameservers": servers}});
    cloud.ask("PUT", &format!("subnets/{}", cloud.subnet), Some(body));
    cloud.until("the guest is told of the change", || told(&servers));
}

/// Nova is asked in the name of the guest's instance.
fn metadata(cloud: &Cloud, host: &str, guest: &Guest) {
    let _served = services::Metadata::start(cloud, host);
    cloud.until("Nova answers the guest", || {
        let asked = services::metadata(guest);
        asked["headers"]["x-instance-id"] == INSTANCE
            && asked["headers"]["x-forwarded-for"] == guest.addresses[0]
    });
}

/// `openstack network agent show`.
fn what_operators_see(cloud: &Cloud, host: &str) {
    cloud.until("the agent's figures are in Neutron", || {
        let agent = cloud.agent(host);
        let figures = &agent["configurations"];
        agent["alive"] == true
            && figures["ports_by_state"]["wired"] == 1
            && figures["in_sync"] == true
            && figures["version"].is_string()
            && figures["underlay_address"].is_string()
            && figures["routing_daemons"]
                .as_array()
                .is_some_and(|all| !all.is_empty())
    });
}

/// For guests and for Neutron it is no event.
fn a_restart_of_the_agent(cloud: &Cloud, host: &str, one: &Guest, two: &Guest) {
    let before = cloud.nova.events_of(&one.id);
    cloud.kill_agent(host);
    assert!(cloud.pings(two, one));
    cloud.start_agent(host);
    cloud.until("the agent is in sync", || {
        cloud.agent_status(host)["in_sync"] == true
    });
    let written = cloud.agent_status(host)["written"].clone();
    assert_eq!(written, 0);
    assert_eq!(cloud.status_of(one), "ACTIVE");
    assert_eq!(cloud.nova.events_of(&one.id), before);
}

/// A live migration, step by step as Nova drives one (Nova's part of the
/// contract); returns the guest at its new place.
fn a_migration(cloud: &Cloud, guest: Guest, [from, to]: [&str; 2], other: &Guest) -> Guest {
    let id = guest.id.clone();
    // Conductor: may it come? Then the destination's tap.
    let binding = json!({"binding": {"host": to}});
    cloud.ask("POST", &format!("ports/{id}/bindings"), Some(binding));
    let plugged = cloud.nova.count(&id, "network-vif-plugged");
    let arriving = cloud.plug_destination(&guest, to);
    // The source isn't told of anything: this is the destination's word.
    cloud
        .nova
        .until_told(&id, "network-vif-plugged", plugged + 1);
    assert_eq!(cloud.status_of(&guest), "ACTIVE");
    assert!(
        cloud.pings(other, &guest),
        "the guest is still at its source"
    );
    // The binding's profile unbinds and binds the source; it says that it is up.
    let profile = json!({"port": {"binding:profile": {"migrating_to": to}}});
    cloud.ask("PUT", &format!("ports/{id}"), Some(profile));
    cloud.until("the source is up again", || {
        cloud.status_of(&guest) == "ACTIVE"
    });
    assert!(cloud.pings(other, &guest));
    // The guest is paused at its source, and runs at its destination.
    cloud.ask("PUT", &format!("ports/{id}/bindings/{to}/activate"), None);
    let guest = cloud.switch(guest, arriving);
    cloud.until("the destination is up", || {
        cloud.status_of(&guest) == "ACTIVE"
    });
    cloud.until("the guest is reached at its destination", || {
        cloud.pings(other, &guest)
    });
    cloud.ask("DELETE", &format!("ports/{id}/bindings/{from}"), None);
    cloud.until("the source forgets the port", || {
        cloud.ports_of(from).is_empty()
    });
    assert_eq!(cloud.ports_of(to).len(), 2);
    guest
}

/// The new host serves the guest as the old one did, at once: its lease is
/// renewed, and Nova is asked in its name.
fn services_after_a_migration(cloud: &Cloud, host: &str, guest: &Guest) {
    let renewed = services::renew(guest).unwrap();
    assert_eq!(renewed.address.to_string(), guest.addresses[0]);
    metadata(cloud, host, guest);
}

/// Nova takes the tap away and deletes the port.
fn a_deletion(cloud: &Cloud, host: &str, guest: Guest) {
    let id = guest.id.clone();
    cloud.unplug(&guest);
    cloud.until("the port is DOWN", || cloud.status_of(&guest) == "DOWN");
    cloud.ask("DELETE", &format!("ports/{id}"), None);
    cloud.until("the agent forgets it", || {
        !cloud.ports_of(host).contains(&id)
    });
}

/// The servers are killed, then RabbitMQ: what is wired keeps forwarding, and
/// what is booted meanwhile comes up when they are back.
fn a_server_and_a_broker_that_die(cloud: &Cloud, host: &str, one: &Guest, group: &str) {
    let late = cloud.create_port(host, &[group]);
    cloud.rig.kill_servers().unwrap();
    cloud.rig.broker().kill().unwrap();
    cloud.until("the agent says so", || {
        cloud.agent_status(host)["source"]["away"].is_string()
    });
    let late = cloud.plug(late, host);
    assert!(cloud.pings_gateway(one));
    cloud.rig.broker().start().unwrap();
    cloud.rig.start_servers().unwrap();
    cloud.until("the late guest is up", || {
        cloud.status_of(&late) == "ACTIVE"
    });
    cloud.until("it is reached", || cloud.pings(one, &late));
    cloud.until("all is well", || {
        cloud.agent_status(host)["in_sync"] == true
    });
}

//! TCP authentication of unnumbered sessions.

use std::time::Duration;

use l2isolate_lab::{
    lab::{Guard, Plan, unique_name},
    process, room,
    topology::{Mix, Options, Shape, Topology},
};

use super::LIMIT;

// FRR's `password` on link-local neighbours fails in some versions, silently
// or for good; here it works, between both flavours, and keeps out who lacks it.
#[test]
fn sessions_come_up_with_the_password_only() {
    let _room = room::shared();
    let shape = Shape {
        spines: 1,
        racks: 1,
        tors: 2,
        hypervisors: 2,
        vms: 1,
    };
    let mut topology = Topology::regular(shape, Mix::Mixed);
    topology.options = Options {
        tcp_auth: Some("s3cret".to_owned()),
        ..Options::default()
    };
    let lab = Guard::up(Plan {
        name: unique_name("auth"),
        topology,
        agent: None,
        owned: true,
    })
    .unwrap();
    let sessions_of = |node: &str| {
        let status = lab.status().unwrap();
        status.into_iter().find(|n| n.name == node).unwrap()
    };
    lab.until("sessions with the password", LIMIT, || {
        let status = lab.status()?;
        Ok(status.iter().flat_map(|n| n.down.clone()).collect())
    })
    .unwrap();
    let hypervisor = lab.fabric().node("hv1-1").unwrap();
    let other = format!(
        "vtysh -c 'configure terminal' -c 'router bgp {}' -c 'neighbor TORS password other' \
         && vtysh -c 'clear bgp *'",
        hypervisor.asn
    );
    let status = lab
        .command("hv1-1", "sh")
        .args(["-c", &other])
        .status()
        .unwrap();
    assert!(status.success());
    // Connections are tried every second.
    process::sleep(Duration::from_secs(5)).unwrap();
    assert_eq!(sessions_of("hv1-1").established, 0);
    assert_eq!(sessions_of("hv1-2").established, 2);
    lab.down().unwrap();
}

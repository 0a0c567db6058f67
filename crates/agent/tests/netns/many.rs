//! A whole host's guests at once, as after a reboot.

use l2isolate_lab::netns;

use crate::harness::{Host, Port, document};

const MANY: u32 = 300;

/// All taps come at once, then all ports in one file; and the other way round.
#[test]
fn all_of_many_are_wired() {
    for taps_first in [true, false] {
        let mut host = Host::crowded();
        let far = host.namespace("guests");
        let ports: Vec<Port> = (1..=MANY).map(Port::new).collect();
        let all: Vec<&Port> = ports.iter().collect();
        let veth = |port: &Port| {
            let far_end = &port.tap()[3..];
            format!(
                "link add {} type veth peer name p{far_end} netns {far}\n",
                port.tap()
            )
        };
        let taps: String = ports.iter().map(veth).collect();
        host.start();
        host.settled();
        if taps_first {
            netns::batch(Some(&host.hv), &taps).unwrap();
            host.write_file("all.json", &document(&all));
        } else {
            host.write_file("all.json", &document(&all));
            netns::batch(Some(&host.hv), &taps).unwrap();
        }
        host.wired(&all);
        host.settled();
        let status = host.status();
        assert_eq!(
            (&status["ports"]["wired"], &status["failed"]),
            (&MANY.into(), &0.into()),
            "{status:#}"
        );
    }
}

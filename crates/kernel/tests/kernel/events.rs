//! Events as such: there when they are due, none too many.

use std::os::fd::AsFd;

use l2isolate_kernel::{
    Event,
    testing::{in_new_netns, ip, ip_batch, tap},
};
use l2isolate_model::desired::{Key, Value};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::common::{Host, name, route};

fn readable(host: &Host) -> bool {
    let mut fds = [PollFd::new(host.kernel.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

/// The descriptor tells whether there is something to drain, also after
/// changes of our own.
#[test]
fn the_descriptor_tells() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        host.settle();
        assert!(!readable(&host));
        ip("link set tap0 mtu 1400");
        assert!(readable(&host));
        let events = host.drain();
        assert!(events.contains(&Event::Object(
            Key::Mtu(name("tap0")),
            Some(Value::Mtu(1400))
        )));
        assert!(!readable(&host));
        host.set([route("10.0.0.5/32", "tap0")]);
        assert!(readable(&host));
        assert_eq!(host.drain().len(), 1);
        assert!(!readable(&host));
    });
}

/// Others' routes, by the thousand, are heard without a word.
#[test]
fn strangers_routes_are_no_events() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        host.set([route("10.0.0.5/32", "tap0")]);
        host.settle();
        let lines = |verb: &'static str| {
            (0..5000).map(move |n| {
                format!(
                    "route {verb} 10.{}.{}.0/24 dev tap0 proto bird",
                    1 + n / 250,
                    n % 250
                )
            })
        };
        ip_batch(lines("add"));
        ip_batch(lines("replace"));
        assert!(readable(&host));
        assert_eq!(host.drain(), []);
        ip_batch(lines("del"));
        assert_eq!(host.drain(), []);
        host.settle();
    });
}

/// The same prefix with another metric, in another table, or deleted by others
/// elsewhere, is not ours.
#[test]
fn near_misses() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        tap("tap1", "vm1");
        let mut host = Host::new();
        let ours = [
            route("10.0.0.5/32", "tap0"),
            route("2001:db8::5/128", "tap0"),
        ];
        host.set(ours);
        host.settle();
        for deed in [
            "route add 10.0.0.5/32 dev tap1 metric 6",
            "route replace 10.0.0.5/32 dev tap0 metric 6",
            "route del 10.0.0.5/32 metric 6",
            "route replace 10.0.0.5/32 dev tap1 metric 5 table 100",
            "route flush table 100",
            "-6 route replace 2001:db8::5/128 dev tap1 metric 6",
            "-6 route del 2001:db8::5/128 metric 6",
            "-6 route replace 2001:db8::5/128 dev tap1 metric 5 table 300",
            "route replace 10.0.0.5/32 dev tap1 metric 5 tos 10",
            "route del 10.0.0.5/32 metric 5 tos 10",
            "route append 10.0.0.5/32 dev tap1 metric 5",
            "route del 10.0.0.5/32 dev tap1 metric 5",
        ] {
            ip(deed);
            assert_eq!(host.drain(), [], "{deed}");
            assert!(ours.iter().all(|object| host.has(object)), "{deed}");
        }
        host.settle();
    });
}

//! Events that are lost.

use l2isolate_kernel::{
    Error, Lost,
    testing::{in_new_netns, ip, ip_batch, tap},
};

use crate::common::{Host, address, route};

/// A queue that overran is told, until everything was observed anew; then the
/// map is right, and events go on.
#[test]
fn lost_until_observed() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::with_queue(8192);
        host.set([address("tap0", "10.0.0.1/32"), route("10.0.0.5/32", "tap0")]);
        host.drain();
        let strangers =
            (0..2000).map(|n| format!("route add 10.1.{}.{}/32 dev tap0", n / 250, n % 250));
        ip_batch(strangers);
        ip("address del 10.0.0.1/32 dev tap0");
        assert_eq!(host.kernel.drain(), Err(Lost));
        assert_eq!(host.kernel.drain(), Err(Lost));
        // Changes can be made all the same.
        host.set([route("10.0.0.6/32", "tap0")]);
        assert_eq!(host.kernel.drain(), Err(Lost));
        let seen = host.kernel.observe().unwrap();
        (host.objects, host.links) = (seen.objects, seen.links);
        assert!(!host.has(&route("10.0.0.5/32", "tap0")));
        assert!(host.has(&route("10.0.0.6/32", "tap0")));
        assert_eq!(host.kernel.drain(), Ok(Vec::new()));
        ip("link set tap0 down");
        host.settle();
        assert!(!host.has(&route("10.0.0.6/32", "tap0")));
    });
}

/// While everything changes as fast as it can, an observation is either
/// consistent or refused; afterwards events have made it right.
#[test]
fn observed_under_way() {
    in_new_netns(|| {
        ip_batch((0..100).flat_map(|n| {
            [
                format!("link add tap{n} type veth peer name vm{n}"),
                format!("link set tap{n} up"),
            ]
        }));
        let mut host = Host::new();
        std::thread::scope(|scope| {
            // The thread is in the namespace of the one that starts it.
            let churn = scope.spawn(|| {
                ip_batch((0..3000).map(|n| {
                    let tap = n % 100;
                    match n % 3 {
                        0 => {
                            format!("route replace 10.0.0.{tap}/32 dev tap{tap} metric 5 proto 76")
                        }
                        1 => format!("link set tap{tap} mtu {}", 1400 + n % 100),
                        _ => format!("address replace 10.9.{tap}.1/24 dev tap{tap}"),
                    }
                }));
            });
            while !churn.is_finished() {
                match host.kernel.observe() {
                    Ok(seen) => (host.objects, host.links) = (seen.objects, seen.links),
                    Err(Error::Unstable(_)) => assert_eq!(host.kernel.drain(), Err(Lost)),
                    Err(other) => panic!("{other}"),
                }
            }
        });
        let seen = host.kernel.observe().unwrap();
        (host.objects, host.links) = (seen.objects, seen.links);
        host.settle();
    });
}

//! A stranger takes away or changes what is ours: it is mended, and guests
//! beside it don't notice.

use std::{thread, time::Duration};

use l2isolate_lab::netns;

use crate::harness::{Flow, GATEWAY4, GATEWAY6, Guest, Host, SETTINGS};

/// Everything that a stranger can do to one tap, as lines for `ip -batch`.
fn vandalism(guest: &Guest) -> Vec<String> {
    let (tap, v4, v6) = (guest.port.tap(), guest.port.v4(), guest.port.v6());
    [
        format!("route del {v4}/32 metric 5"),
        format!("route del {v6}/128 metric 5"),
        format!("route del unreachable {v4}/32 metric 3372220415"),
        format!("route del unreachable {v6}/128 metric 3372220415"),
        // Ours replaced by one of the same prefix and metric that leads astray.
        format!("route replace {v4}/32 via 192.0.2.2 metric 5"),
        format!("route replace {v6}/128 via 2001:db8:aaaa::2 metric 5"),
        format!("route replace {v4}/32 dev {tap} metric 5 proto 12"),
        format!("route replace blackhole {v4}/32 metric 3372220415"),
        format!("addr del {GATEWAY4}/32 dev {tap}"),
        format!("addr del {GATEWAY6}/128 dev {tap}"),
        format!("addr del fe80::1/64 dev {tap}"),
        format!("addr flush dev {tap}"),
        format!("neigh del {v4} dev {tap}"),
        format!("neigh del {v6} dev {tap}"),
        format!("neigh replace {v4} lladdr 02:00:00:00:66:66 dev {tap} nud permanent"),
        format!("neigh replace {v6} lladdr 02:00:00:00:66:66 dev {tap} nud reachable"),
        format!("neigh flush dev {tap} nud all"),
        format!("link set {tap} mtu 1280"),
        format!("link set {tap} mtu 1000"),
        format!("link set {tap} address 02:00:00:00:66:67"),
        format!("link set {tap} down"),
        format!("link set {tap} down\nlink set {tap} up"),
        format!("link set {tap} addrgenmode none"),
    ]
    .map(|lines| lines + "\n")
    .into()
}

/// One thing after the other: each is mended, and packets flow again.
#[test]
fn each_thing_that_a_stranger_does_is_mended() {
    // Some settings change without an event: only a look at everything helps.
    let mut host = Host::with("resync_interval = 1");
    let [victim, one, two] = host.guests();
    host.start();
    let ports = [&victim.port, &one.port, &two.port];
    host.wired(&ports);
    let flows = [Flow::start(&one, &two, 4), Flow::start(&two, &one, 6)];
    for lines in vandalism(&victim) {
        netns::batch(Some(&host.hv), &lines).unwrap();
        host.wired(&ports);
    }
    for (key, _, wrong) in SETTINGS {
        host.set_sysctl(&key.replace("TAP", victim.port.tap()), wrong);
        host.wired(&ports);
    }
    host.until("nothing is left to write", || {
        host.diff().as_array().is_some_and(Vec::is_empty)
    });
    assert!(victim.reaches(&one.port.v4()));
    assert!(one.reaches(&victim.port.v6()));
    for flow in flows {
        flow.unharmed();
    }
}

/// A flood of it: what is mended is undone again at once, for a while. Others
/// lose nothing meanwhile, and at the end all is as it shall be.
#[test]
fn a_burst_of_it_harms_nobody_else() {
    let mut host = Host::new();
    let [victim, one, two] = host.guests();
    host.start();
    let ports = [&victim.port, &one.port, &two.port];
    host.wired(&ports);
    let flows = [Flow::start(&one, &two, 4), Flow::start(&two, &one, 6)];
    let lines = vandalism(&victim);
    for _ in 0..10 {
        for line in &lines {
            // Fails where the line before took away what it is about.
            let _ = netns::batch(Some(&host.hv), line);
        }
    }
    host.wired(&ports);
    host.until("nothing is left to write", || {
        host.diff().as_array().is_some_and(Vec::is_empty)
    });
    assert!(victim.reaches(&one.port.v4()));
    for flow in flows {
        flow.unharmed();
    }
}

/// Forwarding of the host as a whole, which takes that of every device along.
#[test]
fn forwarding_of_the_host_is_switched_on_again() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    for key in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
        host.set_sysctl(key, "0");
        host.until(key, || host.sysctl(key) == "1");
    }
    let family = |address: String| host.until("packets flow again", || one.reaches(&address));
    family(two.port.v4());
    family(two.port.v6());
    host.settled();
}

/// Events that the agent doesn't get, since its buffer is full: it looks at
/// everything. It is stopped here for as long as that takes.
#[test]
fn lost_events_are_made_up_for() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    let pid = host.status()["pid"].as_i64().unwrap();
    let signal =
        |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
    signal(nix::sys::signal::Signal::SIGSTOP);
    let noise: String = (0..4000)
        .map(|n| format!("route add 203.0.{}.{}/32 dev up0\n", n / 200, n % 200))
        .collect();
    let quiet = noise.replace("route add", "route del");
    for _ in 0..8 {
        netns::batch(Some(&host.hv), &noise).unwrap();
        netns::batch(Some(&host.hv), &quiet).unwrap();
    }
    host.ip(&format!("route del {}/32 metric 5", one.port.v4()));
    host.ip(&format!(
        "neigh del {} dev {}",
        one.port.v6(),
        one.port.tap()
    ));
    host.ip(&format!("link set {} mtu 1300", one.port.tap()));
    thread::sleep(Duration::from_millis(10));
    signal(nix::sys::signal::Signal::SIGCONT);
    host.wired(&[&one.port, &two.port]);
    assert!(two.reaches(&one.port.v4()));
}

//! How long the kernel crate takes on a full host: `cargo bench -p
//! l2isolate-kernel`, as root. 1,000 wired taps and 20,000 routes of others,
//! in a network namespace of its own.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement tells, or fails loudly"
)]

use std::time::{Duration, Instant};

use l2isolate_kernel::{
    Config, Kernel,
    testing::{in_new_netns, ip_batch, set_sysctl},
};
use l2isolate_model::{
    IfName,
    desired::{Key, Knob, Target, Value},
};
use l2isolate_reconcile::Change;

const TAPS: u32 = 1000;
const STRANGERS: u32 = 20_000;

/// What the agent wants of one tap, in its order.
fn wiring(n: u32) -> Vec<Change<Key, Value>> {
    let tap: IfName = format!("tap{n}").parse().unwrap();
    let mac = |text: &str| Value::Mac(text.parse().unwrap());
    let v4 = format!("10.252.{}.{}", n / 250, n % 250);
    let v6 = format!("2001:db8::{n:x}");
    let knobs = Knob::ALL
        .iter()
        .filter(|knob| knob.per_device() && **knob != Knob::TapProxyArp);
    let on = |knob: &Knob| {
        let on = matches!(
            knob,
            Knob::TapForwarding4 | Knob::TapForwarding6 | Knob::TapArpIgnore
        );
        Value::Number(on.into())
    };
    let mut objects: Vec<_> = knobs
        .map(|knob| (Key::Sysctl(*knob, Some(tap)), on(knob)))
        .collect();
    objects.extend([
        (Key::Mac(tap), mac("02:4c:32:49:53:4f")),
        (Key::Mtu(tap), Value::Mtu(1450)),
        (Key::Up(tap), Value::Up(true)),
    ]);
    let gateways = ["10.252.0.1/32", "2001:db8:1::1/128", "fe80::1/64"];
    objects.extend(gateways.map(|net| (Key::Address(tap, net.parse().unwrap()), Value::Address)));
    let prefixes = [format!("{v4}/32"), format!("{v6}/128")];
    for prefix in &prefixes {
        let key = Key::Route(prefix.parse().unwrap(), (200 << 24) | 5);
        objects.push((key, Value::Route(Target::Unreachable)));
    }
    for guest in [&v4, &v6] {
        objects.push((
            Key::Neighbour(tap, guest.parse().unwrap()),
            mac("fa:16:3e:00:00:05"),
        ));
    }
    for prefix in &prefixes {
        let key = Key::Route(prefix.parse().unwrap(), 5);
        objects.push((key, Value::Route(Target::Device(tap))));
    }
    objects.push((Key::Sysctl(Knob::TapProxyArp, Some(tap)), Value::Number(1)));
    objects
        .into_iter()
        .map(|(key, value)| Change::Set(key, value))
        .collect()
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: usize| {
        times
            .get(times.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{what:<44} p50 {:>10.1?}  p99 {:>10.1?}  n {}",
        at(50),
        at(99),
        times.len()
    );
}

fn timed<R>(times: &mut Vec<Duration>, work: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = work();
    times.push(start.elapsed());
    result
}

fn main() {
    // `cargo test --benches` asks for nothing to be measured.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    in_new_netns(|| {
        ip_batch((0..TAPS).flat_map(|n| {
            [
                format!("link add tap{n} type veth peer name vm{n}"),
                format!("link set vm{n} up"),
            ]
        }));
        // The guests' ends have no part in this.
        for n in 0..TAPS {
            set_sysctl(&format!("ipv6/conf/vm{n}/disable_ipv6"), "1");
        }
        let mut kernel = Kernel::open(Config::new(76)).unwrap();
        kernel.observe().unwrap();

        let (mut apply, mut drain) = (Vec::new(), Vec::new());
        let mut count = 0;
        for n in 0..TAPS {
            let changes = wiring(n);
            count = changes.len();
            for outcome in timed(&mut apply, || kernel.apply(&changes)) {
                outcome.unwrap();
            }
            timed(&mut drain, || kernel.drain()).unwrap();
        }
        report(
            &format!("apply {count} changes of one tap, first 100"),
            &mut apply[..100].to_vec(),
        );
        report(
            &format!("apply {count} changes of one tap, last 100"),
            &mut apply[900..].to_vec(),
        );
        report("drain their events", &mut drain);

        ip_batch((0..STRANGERS).map(|n| {
            format!(
                "route add 10.{}.{}.0/24 dev tap1 proto bird",
                n / 250,
                n % 250
            )
        }));
        let mut strangers = Vec::new();
        timed(&mut strangers, || kernel.drain()).unwrap();
        report(
            &format!("drain {STRANGERS} routes of others"),
            &mut strangers,
        );

        let mut observe = Vec::new();
        let mut objects = 0;
        for _ in 0..10 {
            objects = timed(&mut observe, || kernel.observe())
                .unwrap()
                .objects
                .len();
        }
        report(&format!("observe {objects} objects"), &mut observe);
        let mut read = Vec::new();
        for _ in 0..200 {
            timed(&mut read, || kernel.read_device("tap500".parse().unwrap()));
        }
        report("read the settings of one tap", &mut read);
    });
}

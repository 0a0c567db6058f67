//! Anything in any order: links flap, go, come and change names, strangers
//! change and delete, we set and delete; what events made of the map is what
//! is there. Finds what nobody thought of, such as another silent removal.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use l2isolate_kernel::testing::in_new_netns;
use l2isolate_model::desired::{Key, Value};
use l2isolate_reconcile::Change;

use crate::common::{Host, address, floor, name, neighbour, route};

/// A row of numbers that is the same in each run (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Runs lines by `ip`; many of them make no sense at the time, and fail.
fn strangers(lines: &[String]) {
    let mut child = Command::new("ip")
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.join("\n").as_bytes())
        .unwrap();
    child.wait().unwrap();
}

fn deed(dice: &mut Dice) -> String {
    let tap = format!("tap{}", dice.roll(3));
    let other = format!("tap{}", dice.roll(3));
    let guest = dice.roll(4);
    let (v4, v6) = (format!("10.252.0.{guest}"), format!("2001:db8::{guest}"));
    match dice.roll(24) {
        0 | 1 => format!("link set {tap} down"),
        2..=4 => format!("link set {tap} up"),
        5 => format!("link del {tap}"),
        6 | 7 => format!("link add {tap} type veth peer name vm{}", dice.roll(1000)),
        8 => format!("link set {tap} name {other}"),
        9 => format!(
            "link set {tap} mtu {}",
            [60, 1000, 1400, 1500][dice.roll(4) as usize]
        ),
        10 => format!("link set {tap} address 02:00:00:00:00:0{guest}"),
        11 => format!("address add 192.0.2.{guest}/24 dev {tap}"),
        12 => format!("address flush dev {tap}"),
        13 => format!("address del 10.252.255.1/32 dev {tap}"),
        14 => format!("address del 192.0.2.{guest}/24 dev {tap}"),
        15 => format!("neighbour replace {v4} dev {tap} lladdr 02:00:00:00:00:09 nud stale"),
        16 => format!("neighbour del {v6} dev {tap}"),
        17 => format!("neighbour flush dev {tap} nud permanent"),
        18 => format!("route replace {v4}/32 dev {tap} metric 5"),
        19 => format!("route append {v4}/32 dev {tap} metric 5"),
        20 => format!("route flush dev {tap}"),
        21 => format!("-6 route replace {v6}/128 dev {tap} metric 5"),
        22 => format!("-6 route del {v6}/128 metric 5"),
        _ => format!("-6 route flush dev {tap}"),
    }
}

fn own(dice: &mut Dice) -> Vec<(Key, Value)> {
    let tap = format!("tap{}", dice.roll(3));
    let guest = dice.roll(4);
    let (v4, v6) = (format!("10.252.0.{guest}"), format!("2001:db8::{guest}"));
    vec![
        (Key::Up(name(&tap)), Value::Up(true)),
        address(&tap, "10.252.255.1/32"),
        address(&tap, "2001:db8:1::1/128"),
        address(&tap, "fe80::1/64"),
        floor(&format!("{v4}/32")),
        floor(&format!("{v6}/128")),
        neighbour(&tap, &v4, "fa:16:3e:00:00:05"),
        neighbour(&tap, &v6, "fa:16:3e:00:00:05"),
        route(&format!("{v4}/32"), &tap),
        route(&format!("{v6}/128"), &tap),
    ]
}

#[test]
fn events_keep_the_map_true() {
    for seed in 0..6 {
        in_new_netns(|| {
            let mut dice = Dice(seed);
            let mut host = Host::new();
            for round in 0..60 {
                let deeds: Vec<String> = (0..dice.roll(12)).map(|_| deed(&mut dice)).collect();
                strangers(&deeds);
                if dice.roll(3) > 0 {
                    host.drain();
                }
                // Some fail, since their device is gone or down.
                let objects = own(&mut dice).into_iter();
                let changes: Vec<_> = if dice.roll(4) == 0 {
                    let deletable = objects.filter(|(key, _)| !matches!(key, Key::Up(_)));
                    deletable.map(|(key, _)| Change::Delete(key)).collect()
                } else {
                    objects
                        .map(|(key, value)| Change::Set(key, value))
                        .collect()
                };
                drop(host.kernel.apply(&changes));
                if round % 3 == 2 {
                    println!("seed {seed} round {round}: {deeds:#?}, then {changes:?}");
                    host.settle();
                }
            }
        });
    }
}

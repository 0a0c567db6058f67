//! Guests come and go, and the agent is killed at any moment: in the end the
//! intent is in the kernel, all of it and nothing else.

use std::{collections::BTreeMap, thread, time::Duration};

use crate::harness::{Host, Port, Random};

/// Attaching, detaching and changing, all together.
const OPERATIONS: usize = 200;
/// Ports that there may be at once.
const PORTS: u64 = 24;

/// What there is of one port.
#[derive(Default)]
struct Slot {
    /// Its document, while it has one.
    port: Option<Port>,
    /// Its tap is there.
    tap: bool,
    revision: u64,
}

/// The whole of it: ports by number, and the namespace at the far end.
struct Churn {
    host: Host,
    guests: String,
    slots: BTreeMap<u32, Slot>,
    random: Random,
}

impl Churn {
    /// One change of a random port. What isn't there comes, in either order;
    /// what is there changes or goes, in either order.
    fn operate(&mut self) {
        let number = 1 + self.random.below(PORTS) as u32;
        let choice = self.random.below(10);
        let slot = self.slots.entry(number).or_default();
        match (&slot.port, slot.tap) {
            (None, false) if choice < 5 => self.document(number),
            (None, false) => self.tap(number),
            (None, true) if choice < 8 => self.document(number),
            (Some(_), false) if choice < 8 => self.tap(number),
            (Some(_), _) if choice < 3 => {
                let port = slot.port.take().unwrap();
                self.host.remove(&port);
            }
            (_, true) if choice < 5 => {
                slot.tap = false;
                self.host
                    .ip(&format!("link del {}", Port::new(number).tap()));
            }
            _ => self.document(number),
        }
    }

    fn tap(&mut self, number: u32) {
        self.host
            .tap(Port::new(number).tap(), &self.guests, &format!("p{number}"));
        self.slots.entry(number).or_default().tap = true;
    }

    /// Writes a port's document, with something else in it than before.
    fn document(&mut self, number: u32) {
        let slot = self.slots.entry(number).or_default();
        slot.revision += 1;
        let random = &mut self.random;
        let plain = Port::new(number);
        // Of a few addresses of its own, so that old ones come back.
        let turn = random.below(3);
        let v4 = format!("10.252.{}.{number}", 100 + turn);
        let v6 = format!("2001:db8:252::a{turn}:{number}");
        let addresses = match random.below(4) {
            0 => vec![(v4.as_str(), "net4")],
            1 => vec![(v6.as_str(), "net6")],
            _ => vec![(v4.as_str(), "net4"), (v6.as_str(), "net6")],
        };
        let state = ["active", "active", "incoming", "outgoing"][random.below(4) as usize];
        let port = plain
            .with_addresses(&addresses)
            .with("mtu", 1400 + random.below(3) * 50)
            .with(
                "mac",
                format!("02:00:00:{:02x}:00:{number:02x}", random.below(2)),
            )
            .with("admin_state_up", !random.chance(1, 6))
            .with("revision", slot.revision)
            .bound(state);
        self.host.write(&port);
        slot.port = Some(port);
    }

    /// Ports whose tap is there.
    fn here(&self) -> Vec<&Port> {
        self.slots
            .values()
            .filter(|slot| slot.tap)
            .filter_map(|slot| slot.port.as_ref())
            .collect()
    }
}

/// 200 operations, during which the agent is killed about every eighth, at a
/// random moment of its work. The seed is printed; `L2ISOLATE_SEED` repeats it.
#[test]
fn killed_at_random_moments_it_ends_with_the_intent_in_the_kernel() {
    let given = std::env::var("L2ISOLATE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| Random::new().next());
    eprintln!("L2ISOLATE_SEED={seed}");
    let mut host = Host::with("shrink_grace = 0");
    let guests = host.namespace("guests");
    host.start();
    let mut churn = Churn {
        host,
        guests,
        slots: BTreeMap::new(),
        random: Random::seeded(seed),
    };
    for _ in 0..OPERATIONS {
        churn.operate();
        thread::sleep(Duration::from_millis(churn.random.below(12)));
        if churn.random.chance(1, 8) {
            churn.host.kill();
            churn.host.start();
            // Anywhere between its first instruction and all done.
            thread::sleep(Duration::from_micros(churn.random.below(40_000)));
        }
    }
    churn.host.wired(&churn.here());
    churn.host.settled();
    // What it left on disk is as good: the next one finds all in place.
    churn.host.kill();
    churn.host.start();
    churn.host.settled();
    assert_eq!(churn.host.status()["written"], 0);
    churn.host.wired(&churn.here());
    let status = churn.host.status();
    assert_eq!(status["problems"], serde_json::json!([]));
    assert_eq!(status["failed"], 0);
}

/// Its taps flap while the agent works: up and down is no reason to lose
/// anything in the end.
#[test]
fn taps_that_flap_end_up_wired() {
    let mut host = Host::new();
    let guests: [_; 4] = host.guests();
    host.start();
    let ports: Vec<&Port> = guests.iter().map(|guest| &guest.port).collect();
    let mut random = Random::new();
    for _ in 0..100 {
        let guest = &guests[random.below(4) as usize];
        let state = if random.chance(1, 2) { "up" } else { "down" };
        if random.chance(1, 3) {
            guest.ip(&format!("link set eth0 {state}"));
        } else {
            host.ip(&format!("link set {} {state}", guest.port.tap()));
        }
        thread::sleep(Duration::from_millis(random.below(5)));
    }
    for guest in &guests {
        guest.ip("link set eth0 up");
        guest.ip(&format!(
            "route replace default via {} dev eth0",
            crate::harness::LINK_LOCAL
        ));
        guest.ip(&format!(
            "addr replace {}/128 dev eth0 nodad",
            guest.port.v6()
        ));
    }
    host.wired(&ports);
    for guest in &guests {
        let other = &guests[0].port;
        assert!(guest.reaches(&other.v4()));
    }
}

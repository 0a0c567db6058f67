//! How many packets pass: hosts side by side that differ in their firewall
//! alone, measured by turns.
//!
//! One port of each host has a guest that talks with a machine behind the
//! host's uplink, in flows that both sides have seen. The other ports are there
//! for what they weigh.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, thread, time::Duration};

use super::{
    super::stats,
    Report,
    cloud::Intent,
    generator::{self, FLOWS, Generator, Mac, Way},
    host::{self, Host, Spec},
    linuxbridge,
};
use crate::{Error, Result, lab::progress, netns, process};

/// How long one direction of one host is measured at a time, and how often: short
/// turns, so that whatever else the machine does falls on all hosts alike.
const TURN: Duration = Duration::from_millis(50);
const ROUNDS: usize = 60;
/// The machine behind the uplink, and the host's own end.
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const UPLINK: &str = "192.0.2.1/24";
/// What the host believes of the world, and the uplink's own address.
const WORLD_MAC: Mac = [2, 0, 0, 0, 2, 2];
const UPLINK_MAC: Mac = [2, 0, 0, 0, 2, 1];
/// Every tap's own.
const TAP_MAC: Mac = [0x02, 0x4c, 0x32, 0x49, 0x53, 0x4f];
/// Rules of each port beside the linuxbridge agent.
const RULES: usize = 20;
/// Rules of each port of the full host, beside the ten of its own group.
const MORE: usize = 490;
/// UDP ports of the first flow.
const PORTS: (u16, u16) = (10_000, 20_000);

/// The hosts.
const OPEN: Spec = Spec {
    name: "open",
    ports: 1,
};
const ONE: Spec = Spec {
    name: "one",
    ports: 1,
};
const WIDE: Spec = Spec {
    name: "wide",
    ports: 1000,
};
const EQUAL: Spec = Spec {
    name: "equal",
    ports: 200,
};
const BRIDGE: Spec = Spec {
    name: "bridge",
    ports: 200,
};

/// Measures what is asked for.
pub(super) fn run(agent: &Path, linuxbridge: bool, report: &mut Report) -> Result<()> {
    let mut specs = vec![OPEN, ONE, WIDE];
    if linuxbridge {
        specs.extend([EQUAL, BRIDGE]);
    }
    let (lab, hosts) = host::lab(&specs)?;
    let mut paths = Vec::new();
    for host in hosts {
        paths.push(Passage::prepare(host, agent)?);
    }
    let result = thread::scope(|scope| {
        let measured = scope.spawn(|| {
            generator::pin()?;
            by_turns(&paths)
        });
        measured
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    for (name, rates) in &result {
        progress(&format!("  {name:<8} {}", rates.text()));
    }
    let ratio = |of: Spec, over: Spec| {
        let (of, over) = (result.get(of.name)?, result.get(over.name)?);
        of.over(over)
    };
    report.filter_ratio = ratio(ONE, OPEN);
    report.flat_ratio = ratio(WIDE, ONE);
    report.linuxbridge_ratio = ratio(EQUAL, BRIDGE);
    lab.down()
}

/// Packets per second of a host, each way.
#[derive(Default)]
struct Rates {
    out: Vec<f64>,
    back: Vec<f64>,
}

impl Rates {
    /// The ratio of the direction that is worse: the median of the rounds', each
    /// of which compares what was measured within a blink.
    fn over(&self, other: &Self) -> Option<f64> {
        let median = |of: &[f64], over: &[f64]| {
            let ratios: Vec<f64> = of.iter().zip(over).map(|(of, over)| of / over).collect();
            stats::median(&ratios)
        };
        let out = median(&self.out, &other.out)?;
        let back = median(&self.back, &other.back)?;
        Some(stats::rounded(out.min(back)))
    }

    fn text(&self) -> String {
        let of = |rates: &[f64]| stats::median(rates).unwrap_or_default() / 1e3;
        format!(
            "{:>6.0} k packets/s from the guest, {:>6.0} k to it",
            of(&self.out),
            of(&self.back)
        )
    }
}

fn by_turns(paths: &[Passage]) -> Result<BTreeMap<&'static str, Rates>> {
    let mut all: BTreeMap<&'static str, Rates> = BTreeMap::new();
    for round in 0..=ROUNDS {
        for path in paths {
            if process::interrupted() {
                return Err(Error::Interrupted);
            }
            path.establish()?;
            let (out, back) = (path.rate(Direction::Out)?, path.rate(Direction::Back)?);
            // The first round warms up.
            if round > 0 {
                let rates = all.entry(path.host.spec.name).or_default();
                rates.out.push(out);
                rates.back.push(back);
            }
        }
    }
    Ok(all)
}

/// From the guest, or to it.
#[derive(Debug, Clone, Copy)]
enum Direction {
    Out,
    Back,
}

/// A host with a guest and a world that talk through it.
struct Passage {
    host: Host,
    guest: String,
    world: String,
    out: Generator,
    back: Generator,
}

impl Passage {
    fn prepare(host: Host, agent: &Path) -> Result<Self> {
        let name = host.spec.name;
        // In the middle: rules that are walked are walked halfway.
        let place = host.vms.len() / 2;
        let guest = host.make_taps(Some(place))?.unwrap_or_default();
        let world = host.namespace_beside("world")?;
        let mac = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
        netns::batch(
            None,
            &format!(
                "link add name uplink netns {} address {} type veth peer name eth0 netns {world}\n",
                host.namespace,
                mac(UPLINK_MAC)
            ),
        )?;
        netns::sysctl(&world, &[("ipv6.conf.eth0.disable_ipv6", "1")])?;
        netns::batch(Some(&world), "link set dev eth0 up\n")?;
        netns::batch(
            Some(&host.namespace),
            &format!(
                "link set dev uplink up\n\
                 address add {UPLINK} dev uplink\n\
                 neighbour add {WORLD} dev uplink lladdr {} nud permanent\n",
                mac(WORLD_MAC)
            ),
        )?;
        let routed = name != BRIDGE.name;
        if routed {
            host.configure("uplinks = uplink\n")?;
            if name == OPEN.name {
                host.configure("firewall = false\n")?;
            }
            host.write_intent(&match host.vms.len() {
                1 => Intent::plain(1),
                200 => Intent::plain(RULES),
                _ => Intent::shared(1, MORE),
            })?;
            host.start(agent)?;
            host.in_sync()?;
        } else {
            linuxbridge::set_up(&host, RULES)?;
        }
        let vm = host.vms.get(place);
        let vm = vm.ok_or_else(|| Error::Program("a host without ports".to_owned()))?;
        let own = (parse(&vm.mac)?, vm.address4);
        let next_hop = |routed_to: Mac, other: Mac| if routed { routed_to } else { other };
        let (from, to) = PORTS;
        let out = Way {
            from: own,
            to: (next_hop(TAP_MAC, WORLD_MAC), WORLD),
            ports: (from, to),
        };
        let back = Way {
            from: (WORLD_MAC, WORLD),
            to: (next_hop(UPLINK_MAC, own.0), vm.address4),
            ports: (to, from),
        };
        Ok(Self {
            out: Generator::open(&guest, "eth0", out)?,
            back: Generator::open(&world, "eth0", back)?,
            guest,
            world,
            host,
        })
    }

    fn end(&self, direction: Direction) -> (&Generator, &str) {
        match direction {
            Direction::Out => (&self.out, &self.world),
            Direction::Back => (&self.back, &self.guest),
        }
    }

    /// Lets every flow be seen both ways, twice; what doesn't arrive isn't
    /// what is to be measured.
    fn establish(&self) -> Result<()> {
        for direction in [Direction::Out, Direction::Back].repeat(2) {
            let (sender, receiver) = self.end(direction);
            let before = generator::received(receiver, "eth0")?;
            sender.once()?;
            let arrived = generator::received(receiver, "eth0")?.saturating_sub(before);
            if arrived < u64::from(FLOWS) {
                return Err(Error::Program(format!(
                    "{}: of {FLOWS} packets ({direction:?}) only {arrived} arrived",
                    self.host.spec.name
                )));
            }
        }
        Ok(())
    }

    /// Packets per second: the median of the calls that send them, so that what
    /// other processes take of this processor in between doesn't count.
    fn rate(&self, direction: Direction) -> Result<f64> {
        let (sender, receiver) = self.end(direction);
        let before = generator::received(receiver, "eth0")?;
        let (sent, calls) = sender.run(TURN)?;
        let arrived = generator::received(receiver, "eth0")?.saturating_sub(before);
        let lost = u64::try_from(sent)
            .unwrap_or_default()
            .saturating_sub(arrived);
        if lost > 0 {
            progress(&format!(
                "  {}: {lost} of {sent} packets lost ({direction:?})",
                self.host.spec.name
            ));
        }
        let nothing = || Error::Program("a turn without a call has no rate".to_owned());
        let call = stats::percentile(&calls, 50).ok_or_else(nothing)?;
        Ok(f64::from(FLOWS) / call.as_secs_f64())
    }
}

fn parse(mac: &str) -> Result<Mac> {
    let bytes: Vec<u8> = mac
        .split(':')
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    Mac::try_from(bytes).map_err(|_| Error::Program(format!("{mac} is no hardware address")))
}

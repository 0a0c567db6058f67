//! What the host wants as a whole, whatever runs on it.

use l2isolate_model::desired::{Key, Knob, Objects, Target, Value};

use crate::Config;

/// Neighbour tables: entries that are never collected, the soft and the hard
/// limit. Guests' own entries are permanent and don't count; these are for the
/// fabric and for what guests send from link-local addresses.
const NEIGHBOURS: (i64, i64, i64) = (4096, 8192, 16384);

/// Plans the host: forwarding, equal-cost paths, and its own prefixes.
#[must_use]
pub fn plan(config: &Config) -> Objects {
    let mut objects = Objects::new();
    if config.manage_host {
        let (min, soft, max) = NEIGHBOURS;
        objects.extend(
            [
                (Knob::Forwarding4, Value::Number(1)),
                (Knob::Forwarding6, Value::Number(1)),
                // Addresses and ports: flows of one guest use all uplinks.
                (Knob::MultipathHash4, Value::Number(1)),
                (Knob::MultipathHash6, Value::Number(1)),
                (Knob::IgnoreLinkdown4, Value::Number(1)),
                (Knob::IgnoreLinkdown6, Value::Number(1)),
                // The larger of this and the tap's own is in force.
                (Knob::AllRpFilter, Value::Number(0)),
                (Knob::AllProxyArp, Value::Number(0)),
                (Knob::NeighbourMax4, Value::AtLeast(max)),
                (Knob::NeighbourSoft4, Value::AtLeast(soft)),
                (Knob::NeighbourMin4, Value::AtLeast(min)),
                (Knob::NeighbourMax6, Value::AtLeast(max)),
                (Knob::NeighbourSoft6, Value::AtLeast(soft)),
                (Knob::NeighbourMin6, Value::AtLeast(min)),
            ]
            .map(|(knob, value)| (Key::Sysctl(knob, None), value)),
        );
    }
    // Delivery is the local table's; in the main table the prefix stands to be
    // picked up by the routing daemon, just as the guests' are.
    objects.extend(config.loopbacks.iter().filter_map(|prefix| {
        let lo = "lo".parse().ok()?;
        Some((
            Key::Route(*prefix, config.route_metric),
            Value::Route(Target::Device(lo)),
        ))
    }));
    objects
}

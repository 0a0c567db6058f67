//! What the firewall counted, brought together by port.

use std::collections::BTreeMap;

use l2isolate_kernel::nft::{self, Count};
use l2isolate_model::{
    IfName,
    filter::{Name, Table},
};
use l2isolate_plan::filter::Counters;
use serde::{Deserialize, Serialize};

/// What the firewall counted at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortCounters {
    /// What the guest sent.
    pub(crate) egress: Counted,
    /// What was sent to it.
    pub(crate) ingress: Counted,
}

/// Packets one way, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) accepted: Packets,
    /// By rules, or by the lack of one.
    pub(crate) dropped: Packets,
    /// From addresses that aren't the guest's.
    pub(crate) spoofed: Packets,
    /// Over a limit.
    pub(crate) limited: Packets,
}

/// Packets and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packets {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl From<Count> for Packets {
    fn from(Count { packets, bytes }: Count) -> Self {
        Self { packets, bytes }
    }
}

/// All counters of the firewall, and which of them counts what.
pub(crate) struct Counts {
    pub(crate) names: Counters,
    pub(crate) counted: BTreeMap<nft::Counted, Count>,
}

impl Counts {
    /// A tap's counters: accepted is what isn't any of the others. `None`: the
    /// firewall doesn't know the tap.
    pub(crate) fn of(&self, tap: IfName) -> Option<PortCounters> {
        let one = |(table, name): &(Table, Name)| {
            let key = (*table, Name::clone(name), Some(tap));
            self.counted.get(&key).copied()
        };
        let names = &self.names;
        names.from_dropped.iter().find_map(one)?;
        let sum = |names: &[(Table, Name)]| {
            let mut sum = Count::default();
            for count in names.iter().filter_map(one) {
                sum += count;
            }
            sum
        };
        let less = |all: Count, part: Count| Count {
            packets: all.packets.saturating_sub(part.packets),
            bytes: all.bytes.saturating_sub(part.bytes),
        };
        let accepted = |all: &[_], dropped: &[_], limited: &[_]| {
            less(less(sum(all), sum(dropped)), sum(limited)).into()
        };
        let all_limited = [names.from_limited.as_slice(), &names.arp_limited].concat();
        Some(PortCounters {
            egress: Counted {
                accepted: accepted(&names.from, &names.from_dropped, &names.from_limited),
                dropped: sum(&names.from_dropped).into(),
                spoofed: sum(&names.spoofed).into(),
                limited: sum(&all_limited).into(),
            },
            ingress: Counted {
                accepted: accepted(&names.to, &names.to_dropped, &names.to_limited),
                dropped: sum(&names.to_dropped).into(),
                spoofed: Packets::default(),
                limited: sum(&names.to_limited).into(),
            },
        })
    }
}

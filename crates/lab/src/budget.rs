//! How many routes each switch has to hold, against what its tables hold.
//!
//! Every VM is a host route on every switch of the fabric: that is the price of
//! a network without layer 2, and hardware has an end. The count is of routes,
//! not of next hops: equal ways share groups, which are few.

use serde::Serialize;

use crate::{
    fabric::{Fabric, Node},
    topology::{Role, Tables},
};

/// From here on a table is called full: room for what is under way while
/// guests move, and for growth until the next order of switches arrives.
const WARN_PERCENT: u64 = 80;

/// Routes of one family: those of one rack, and all that a switch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// `/32`s or `/128`s that the rack's own hypervisors announce: guests and
    /// loopbacks.
    pub rack: u64,
    /// Routes on the ToR: host routes of all racks, loopbacks of switches, the
    /// default.
    pub switch: u64,
    /// Size of its table, where configured.
    pub table: Option<u32>,
}

/// A ToR's budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The ToR.
    pub tor: String,
    /// IPv4.
    pub ipv4: Count,
    /// IPv6.
    pub ipv6: Count,
}

/// All ToRs' budgets and what is to be warned of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// One for each ToR.
    pub tors: Vec<Line>,
    /// Sentences; empty if all fits.
    pub warnings: Vec<String>,
}

/// Counts. Every guest and router of a lab has an address of each family.
#[must_use]
pub fn of(fabric: &Fabric) -> Budget {
    let Tables { ipv4, ipv6 } = fabric.options.tables;
    let hosts = fabric.vms.len() + fabric.nodes.len();
    let switch = as_u64(hosts + 1);
    let line = |tor: &Node| {
        let rack = tor
            .interfaces
            .iter()
            .filter(|interface| interface.peer_role == Role::Hypervisor)
            .map(|interface| 1 + fabric.vms_on(&interface.peer).count())
            .sum();
        let rack = as_u64(rack);
        let count = |table| Count {
            rack,
            switch,
            table,
        };
        Line {
            tor: tor.name.clone(),
            ipv4: count(ipv4),
            ipv6: count(ipv6),
        }
    };
    let tors: Vec<Line> = fabric.role(Role::Tor).map(line).collect();
    let warnings = tors
        .iter()
        .flat_map(|line| {
            [("IPv4", "ipv4", line.ipv4), ("IPv6", "ipv6", line.ipv6)]
                .into_iter()
                .filter_map(|(family, key, count)| warning(&line.tor, family, key, count))
        })
        .collect();
    Budget { tors, warnings }
}

fn warning(tor: &str, family: &str, key: &str, count: Count) -> Option<String> {
    let table = u64::from(count.table?);
    let used = count.switch.saturating_mul(100);
    if used <= table.saturating_mul(WARN_PERCENT) {
        return None;
    }
    let percent = used.checked_div(table).map_or(100, |percent| percent);
    let end = if count.switch > table {
        "what is over isn't forwarded: fewer guests, larger tables, or aggregates per rack \
         for guests that never move"
    } else {
        "order larger ones before the next rack"
    };
    Some(format!(
        "{tor}: {} {family} routes are {percent} % of the {table} that [tables] {key} gives it; {end}",
        count.switch
    ))
}

impl Budget {
    /// As a table for people.
    #[must_use]
    pub fn text(&self) -> String {
        let head = [
            "TOR",
            "/32 OF RACK",
            "IPV4",
            "TABLE",
            "/128 OF RACK",
            "IPV6",
            "TABLE",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let table = |count: Count| count.table.map_or("?".to_owned(), |size| size.to_string());
        for line in &self.tors {
            let mut row = vec![line.tor.clone()];
            for count in [line.ipv4, line.ipv6] {
                row.extend([
                    count.rack.to_string(),
                    count.switch.to_string(),
                    table(count),
                ]);
            }
            rows.push(row);
        }
        let mut out = crate::show::table(&rows);
        for warning in &self.warnings {
            out += &format!("warning: {warning}\n");
        }
        out
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Options, Shape, Topology};

    fn budget(ipv4: u32, ipv6: u32) -> Budget {
        let mut topology = Topology::regular(Shape::default(), crate::topology::Mix::Frr);
        topology.options = Options {
            tables: Tables {
                ipv4: Some(ipv4),
                ipv6: Some(ipv6),
            },
            ..Options::default()
        };
        of(&Fabric::new(&topology))
    }

    // 4 hypervisors of 2 VMs, 6 switches: 8 + 10 host routes and the default.
    #[test]
    fn counts_racks_and_switches_and_warns() {
        let fits = budget(100, 100);
        assert_eq!(fits.tors.len(), 4);
        assert_eq!((fits.tors[0].ipv4.rack, fits.tors[0].ipv4.switch), (6, 19));
        assert_eq!(fits.warnings, Vec::<String>::new());
        let tight = budget(20, 10);
        assert_eq!(tight.warnings.len(), 8);
        assert!(tight.warnings[0].starts_with(
            "tor1-1: 19 IPv4 routes are 95 % of the 20 that [tables] ipv4 gives it; order"
        ));
        assert!(tight.warnings[1].contains("190 % of the 10 that [tables] ipv6"));
        assert_eq!(budget(0, 100).warnings.len(), 4);
    }
}

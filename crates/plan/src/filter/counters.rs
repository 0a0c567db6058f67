//! Where the firewall counts what becomes of a port's packets.

use l2isolate_model::filter::{Name, Table};

use super::{config::FilterConfig, names::Sets};

/// Maps and sets whose elements count, by what they count: each has an element
/// for a tap, and what belongs together is to be summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// All that the guest sent from its own addresses, refused or not.
    pub from: Vec<(Table, Name)>,
    /// Of that, what groups or host refused.
    pub from_dropped: Vec<(Table, Name)>,
    /// Of that, what went over a limit.
    pub from_limited: Vec<(Table, Name)>,
    /// What went over a limit and isn't in `from`: ARP.
    pub arp_limited: Vec<(Table, Name)>,
    /// What came from addresses that aren't the guest's; not in `from`.
    pub spoofed: Vec<(Table, Name)>,
    /// All that was sent to the guest.
    pub to: Vec<(Table, Name)>,
    /// Of that, what groups refused.
    pub to_dropped: Vec<(Table, Name)>,
    /// Of that, what went over a limit.
    pub to_limited: Vec<(Table, Name)>,
}

impl Counters {
    /// The counters of a firewall with these settings.
    #[must_use]
    pub fn of(config: &FilterConfig) -> Self {
        let sets = Sets::new(config);
        let all = |table, names: &[&Name]| {
            names
                .iter()
                .map(|name| (table, Name::clone(name)))
                .collect::<Vec<_>>()
        };
        let inet = |names: &[&Name]| all(Table::Inet, names);
        let both = |name: &Name| Table::ALL.map(|table| (table, Name::clone(name))).into();
        let [sources4, sources6] = &sets.sources;
        let [nobody4, nobody6] = &sets.unspecified;
        let from = [
            sources4,
            sources6,
            nobody4,
            nobody6,
            &sets.passed,
            &sets.open,
        ];
        Self {
            from: inet(&from),
            from_dropped: inet(&[&sets.dropped_from]),
            from_limited: inet(&[
                &sets.new,
                &sets.connections_from,
                &sets.connections_host,
                &sets.dhcp,
                &sets.nd,
            ]),
            arp_limited: all(Table::Arp, &[&sets.arp]),
            spoofed: both(&sets.spoofed),
            to: inet(&[&sets.received]),
            to_dropped: inet(&[&sets.dropped_to]),
            to_limited: inet(&[&sets.connections_to]),
        }
    }
}

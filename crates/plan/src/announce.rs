//! What the host announces to the fabric, and with which attributes.
//!
//! A prefix is announced while its route is in the kernel: never before a
//! packet for it would arrive, never longer. Which routes are there is
//! observed state, so it is an argument.

use ipnet::IpNet;
use l2isolate_model::announce::{Announcements, Attributes, Community};
use l2isolate_reconcile::Rules;

use crate::{Owner, Standing};

/// The host is to be left by whoever has another way (RFC 8326).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drain {
    /// How often the own AS is prepended, for fabrics that don't honour the
    /// community.
    pub prepend: u8,
}

/// Plans what one owner's prefixes, those that are routed here now, are
/// announced with. `leaving`: what is said more of guests that leave by live
/// migration; the host as a whole may be drained beside that.
#[must_use]
pub fn plan(
    routed: impl IntoIterator<Item = (IpNet, Standing)>,
    communities: &[Community],
    drain: Option<Drain>,
    leaving: Drain,
) -> Announcements {
    let attributes = |standing| {
        let mut attributes = Attributes {
            communities: communities.iter().copied().collect(),
            ..Attributes::default()
        };
        let leaving = (standing == Standing::Leaving).then_some(leaving);
        for Drain { prepend } in drain.into_iter().chain(leaving) {
            attributes.communities.insert(Community::GRACEFUL_SHUTDOWN);
            attributes.prepend = attributes.prepend.max(prepend);
        }
        attributes
    };
    routed
        .into_iter()
        .map(|(prefix, standing)| (prefix, attributes(standing)))
        .collect()
}

/// The rules for what is announced.
#[derive(Debug)]
pub enum AnnounceRules {}

impl Rules for AnnounceRules {
    type Key = IpNet;
    type Value = Attributes;
    type Owner = Owner;

    fn satisfies(desired: &Attributes, observed: &Attributes) -> bool {
        desired == observed
    }

    /// Only what is ours is observed.
    fn deletable(_: &IpNet) -> bool {
        true
    }

    fn order(_: &IpNet, _: Option<&Attributes>) -> u8 {
        0
    }

    fn may_wait(_: &IpNet, _: &Attributes) -> bool {
        false
    }

    fn waits_for(_: &IpNet, _: &Attributes, _: &IpNet) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What a drain says of a prefix comes on top of what is said anyway, and
    // no prefix is lost by it.
    #[test]
    fn a_drain_marks_every_prefix_and_takes_none_away() {
        let prefixes: Vec<IpNet> = ["10.252.0.5/32", "2001:db8::5/128"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let usual = [Community(65001, 20)];
        let here = || prefixes.iter().map(|prefix| (*prefix, Standing::Here));
        let leaving = Drain::default();
        let before = plan(here(), &usual, None, leaving);
        let drained = plan(here(), &usual, Some(Drain { prepend: 3 }), leaving);
        assert!(before.keys().eq(drained.keys()) && before.keys().eq(prefixes.iter()));
        for (prefix, attributes) in &drained {
            assert!(attributes.graceful_shutdown());
            assert!(attributes.communities.contains(&usual[0]));
            assert_eq!(attributes.prepend, 3);
            assert!(!before[prefix].graceful_shutdown());
        }
    }

    // One guest that leaves is nobody else's affair, and a drain of the host
    // takes nothing of its mark away.
    #[test]
    fn who_leaves_is_marked_alone() {
        let [stays, leaves]: [IpNet; 2] =
            ["10.252.0.5/32", "2001:db8::5/128"].map(|text| text.parse().unwrap());
        let routed = [(stays, Standing::Here), (leaves, Standing::Leaving)];
        let option = Drain { prepend: 2 };
        let announced = plan(routed, &[], None, option);
        assert_eq!(announced[&stays], Attributes::default());
        assert!(announced[&leaves].graceful_shutdown());
        assert_eq!(announced[&leaves].prepend, 2);
        let drained = plan(routed, &[], Some(Drain { prepend: 1 }), option);
        assert_eq!(drained[&leaves], announced[&leaves]);
        assert!(drained[&stays].graceful_shutdown());
    }
}

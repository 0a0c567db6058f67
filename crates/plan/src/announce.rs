//! What the host announces to the fabric, and with which attributes.
//!
//! A prefix is announced while its route is in the kernel: never before a
//! packet for it would arrive, never longer. Which routes are there is
//! observed state, so it is an argument.

use ipnet::IpNet;
use l2isolate_model::announce::{Announcements, Attributes, Community, Origin};
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
/// announced with. A guest that leaves by live migration has a longer path, and at
/// the last of `leaving_steps` a lesser origin ([`crate::migration`]); the host as a
/// whole may be drained beside that.
#[must_use]
pub fn plan(
    routed: impl IntoIterator<Item = (IpNet, Standing)>,
    communities: &[Community],
    drain: Option<Drain>,
    leaving_steps: u8,
) -> Announcements {
    let attributes = |standing| {
        let mut attributes = Attributes {
            communities: communities.iter().copied().collect(),
            ..Attributes::default()
        };
        if let Some(Drain { prepend }) = drain {
            attributes.communities.insert(Community::GRACEFUL_SHUTDOWN);
            attributes.prepend = prepend;
        }
        if let Standing::Leaving(step) = standing {
            attributes.prepend = attributes.prepend.saturating_add(step);
            if step == leaving_steps {
                attributes.origin = Origin::Incomplete;
            }
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
        let before = plan(here(), &usual, None, 2);
        let drained = plan(here(), &usual, Some(Drain { prepend: 3 }), 2);
        assert!(before.keys().eq(drained.keys()) && before.keys().eq(prefixes.iter()));
        for (prefix, attributes) in &drained {
            assert!(attributes.graceful_shutdown());
            assert!(attributes.communities.contains(&usual[0]));
            assert_eq!(attributes.prepend, 3);
            assert!(!before[prefix].graceful_shutdown());
        }
    }

    // One guest that leaves is nobody else's affair. Step by step its path is
    // longer by one, on a drained host too, and it yields to another of its length
    // only at the last step.
    #[test]
    fn who_leaves_is_lesser_alone() {
        let [stays, leaves]: [IpNet; 2] =
            ["10.252.0.5/32", "2001:db8::5/128"].map(|text| text.parse().unwrap());
        for (drain, prepended) in [(None, 0), (Some(Drain { prepend: 1 }), 1)] {
            for step in 1..=2 {
                let routed = [(stays, Standing::Here), (leaves, Standing::Leaving(step))];
                let announced = plan(routed, &[], drain, 2);
                assert_eq!(announced[&stays].prepend, prepended);
                assert_eq!(announced[&stays].origin, Origin::Igp);
                assert_eq!(announced[&leaves].prepend, prepended + step);
                assert_eq!(announced[&leaves].origin == Origin::Incomplete, step == 2);
                let marked = announced.values().all(Attributes::graceful_shutdown);
                assert_eq!(marked, drain.is_some());
            }
        }
    }
}

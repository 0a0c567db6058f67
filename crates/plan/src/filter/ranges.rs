//! Sets of numbers as ranges that neither overlap nor touch.

use std::net::IpAddr;

use ipnet::IpNet;
use l2isolate_model::filter::Family;

/// Ranges in order, both ends included, apart by at least one number.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// Any ranges, in any order, brought into form.
    pub(crate) fn new(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The addresses in the prefixes, all of one family.
    pub(crate) fn of_prefixes(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        let ends = |net: IpNet| (number(net.network()), number(net.broadcast()));
        Self::new(prefixes.into_iter().map(ends).collect())
    }

    /// Adds one range.
    pub(crate) fn add(&mut self, first: u128, last: u128) {
        let mut ranges = std::mem::take(&mut self.0);
        ranges.push((first, last));
        *self = Self::new(ranges);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The ranges as addresses.
    pub(crate) fn addresses(&self, family: Family) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.iter()
            .map(move |(first, last)| (address(family, first), address(family, last)))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel refuses ranges that overlap, and lists touching ones as one.
    #[test]
    fn overlapping_and_touching_ranges_become_one() {
        let ranges = Ranges::new(vec![(10, 20), (5, 7), (21, 30), (8, 8), (15, 16), (40, 40)]);
        assert_eq!(
            ranges.iter().collect::<Vec<_>>(),
            [(5, 8), (10, 30), (40, 40)]
        );
        let all = Ranges::of_prefixes(["::/1".parse().unwrap(), "8000::/1".parse().unwrap()]);
        assert_eq!(all.iter().collect::<Vec<_>>(), [(0, u128::MAX)]);
    }
}

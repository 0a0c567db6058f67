//! FRR: bgpd can't match a kernel route's protocol number, but its metric; with
//! a prefix list that is enough to leave strangers' routes alone.
//!
//! What can break it: a zebra whose queue of kernel messages (`--nl-bufsize`)
//! overflows when many guests come at once. It never learns what was in them.

use std::fmt::Write;

use crate::{Family, Handover};

/// Name of the route-map for `redistribute kernel` of one family.
#[must_use]
pub const fn announce(family: Family) -> &'static str {
    match family {
        Family::V4 => "ANNOUNCE4",
        Family::V6 => "ANNOUNCE6",
    }
}

/// Name of the prefix list that the driver opens at run time when it has told
/// bgpd what is announced: from then on nothing is picked up from the kernel.
#[must_use]
pub(crate) const fn told(family: Family) -> &'static str {
    match family {
        Family::V4 => "L2ISOLATE-TOLD4",
        Family::V6 => "L2ISOLATE-TOLD6",
    }
}

/// Name of the route-map towards the switches: only what has no AS but this one in
/// its path, which is what was brought in here.
pub const OWN: &str = "OWN";

/// Prefix lists and route-maps, to stand before `router bgp`.
#[must_use]
pub fn policies(handover: &Handover) -> String {
    let mut out = String::new();
    for family in Family::ALL {
        let (digit, length) = (family.digit(), family.host_length());
        let (word, list, map) = (word(family), format!("L2ISOLATE{digit}"), announce(family));
        for prefix in handover.prefixes(family) {
            // A prefix that is a host's already has no longer ones.
            let longer = if prefix.prefix_len() == length {
                String::new()
            } else {
                format!(" ge {length}")
            };
            let _ = writeln!(out, "{word} prefix-list {list} permit {prefix}{longer}");
        }
        let here = (handover.metric, 0, false);
        for (metric, prepend, last) in std::iter::once(here).chain(handover.leaving()) {
            let origin = if last { "incomplete" } else { "igp" };
            let _ = write!(
                out,
                "route-map {map} permit {}\n match {word} address prefix-list {list}\n \
                 match metric {metric}\n set metric 0\n set origin {origin}\n",
                10 * (u32::from(prepend) + 1),
            );
            if prepend > 0 {
                let own = vec![handover.asn.to_string(); prepend.into()];
                let _ = writeln!(out, " set as-path prepend {}", own.join(" "));
            }
            out.push_str("exit\n");
        }
        if handover.prefixes(family).next().is_none() {
            // A list that isn't there would match everything.
            let _ = writeln!(out, "{word} prefix-list {list} deny any");
        }
    }
    let _ = write!(
        out,
        "bgp as-path access-list {OWN} permit ^({}_)*$\nroute-map {OWN} permit 10\n match as-path {OWN}\nexit\n",
        handover.asn
    );
    out
}

pub(crate) fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ipv6",
    }
}

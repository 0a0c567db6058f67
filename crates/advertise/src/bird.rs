//! BIRD 2: it learns foreign routes of the kernel and sees their protocol
//! number and metric.

use std::fmt::Write;

use crate::{Family, Handover};

/// Definition of the filter `l2isolate<family>`, for `import filter` of a
/// `protocol kernel` with `learn`.
///
/// Learned routes get a preference above BGP's 100: a guest that is here is
/// announced from here, also while another host announces it. One that leaves by
/// live migration is announced by a longer path ([`Handover::leaving`]).
#[must_use]
pub fn filter(handover: &Handover, family: Family) -> String {
    let (digit, length) = (family.digit(), family.host_length());
    let sets: Vec<String> = handover
        .prefixes(family)
        .map(|prefix| format!("{prefix}{{{length},{length}}}"))
        .collect();
    let mut out = format!("filter l2isolate{digit} {{\n");
    if sets.is_empty() {
        let _ = writeln!(out, "  reject;");
    } else {
        let here = (handover.metric, 0, false);
        let _ = write!(
            out,
            "  if krt_source != {} || net !~ [ {} ] then reject;\n  preference = 200;\n",
            handover.protocol,
            sets.join(", ")
        );
        for (metric, prepend, last) in std::iter::once(here).chain(handover.leaving()) {
            let origin = if last { "INCOMPLETE" } else { "IGP" };
            let longer = format!("bgp_path.prepend({}); ", handover.asn).repeat(prepend.into());
            let _ = writeln!(
                out,
                "  if krt_metric = {metric} then {{ {longer}bgp_origin = ORIGIN_{origin}; accept; }}"
            );
        }
        out.push_str("  reject;\n");
    }
    out + "}\n"
}

/// What a channel of a BGP session may export: what was learned from the
/// kernel, and so passed the filter.
pub const EXPORT: &str = "filter { if source = RTS_INHERIT then accept; reject; }";

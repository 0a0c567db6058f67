//! BIRD 2: it learns foreign routes of the kernel and sees their protocol
//! number and metric.

use std::fmt::Write;

use crate::{Family, Handover};

/// Definition of the filter `l2isolate<family>`, for `import filter` of a
/// `protocol kernel` with `learn`.
///
/// Learned routes get a preference above BGP's 100: a guest that is here is
/// announced from here, also while another host announces it. One that leaves by
/// live migration is announced as the last choice (RFC 8326).
#[must_use]
pub fn filter(handover: &Handover, family: Family) -> String {
    let Handover {
        protocol, metric, ..
    } = handover;
    let (digit, length) = (family.digit(), family.host_length());
    let sets: Vec<String> = handover
        .prefixes(family)
        .map(|prefix| format!("{prefix}{{{length},{length}}}"))
        .collect();
    let mut out = format!("filter l2isolate{digit} {{\n");
    if sets.is_empty() {
        let _ = writeln!(out, "  reject;");
    } else {
        let (leaving, sets) = (handover.leaving(), sets.join(", "));
        let _ = write!(
            out,
            "  if krt_source = {protocol} && krt_metric = {metric} && net ~ [ {sets} ] then {{\n    \
             preference = 200;\n    accept;\n  }}\n  \
             if krt_source = {protocol} && krt_metric = {leaving} && net ~ [ {sets} ] then {{\n    \
             bgp_community.add((65535,0));\n    preference = 200;\n    accept;\n  }}\n  reject;\n"
        );
    }
    out + "}\n"
}

/// What a channel of a BGP session may export: what was learned from the
/// kernel, and so passed the filter, with the origin that says so (RFC 4271,
/// 4.3).
pub const EXPORT: &str =
    "filter { if source = RTS_INHERIT then { bgp_origin = ORIGIN_IGP; accept; } reject; }";

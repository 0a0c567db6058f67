//! BIRD 2: it learns foreign routes of the kernel and sees their protocol
//! number and metric.

use std::fmt::Write;

use crate::{Family, Handover};

/// Definition of the filter `l2isolate<family>`, for `import filter` of a
/// `protocol kernel` with `learn`.
///
/// Learned routes get a preference above BGP's 100: a guest that is here is
/// announced from here, also while another host announces it.
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
        let _ = write!(
            out,
            "  if krt_source = {protocol} && krt_metric = {metric} && net ~ [ {} ] then {{\n    \
             preference = 200;\n    accept;\n  }}\n  reject;\n",
            sets.join(", ")
        );
    }
    out + "}\n"
}

/// What a channel of a BGP session may export: what was learned from the
/// kernel, and so passed the filter, with the origin that says so (RFC 4271,
/// 4.3).
pub const EXPORT: &str =
    "filter { if source = RTS_INHERIT then { bgp_origin = ORIGIN_IGP; accept; } reject; }";

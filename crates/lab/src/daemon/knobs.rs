//! Numbers that both flavours' configurations share.

use l2isolate_advertise::render::BFD;

use crate::topology::{Options, Role};

/// As operators' hypervisors have them.
pub(super) use l2isolate_advertise::render::{LLGR as LLGR_S, RESTART as RESTART_S};
pub(super) const BFD_MS: u32 = BFD.0;
pub(super) const BFD_MULTIPLIER: u32 = BFD.1;
/// Prefixes of one family that a hypervisor may announce.
const HOST_PREFIXES: u32 = 4_096;
/// Prefixes of one family that a switch may announce to another one where the
/// size of its table isn't known.
const SWITCH_PREFIXES: u32 = 100_000;
/// Prefixes of one family that a ToR may announce to a hypervisor.
pub(crate) const UPLINK_PREFIXES: u32 = 4;

/// How many prefixes a node takes from a neighbour: IPv4, IPv6.
pub(super) fn limits(options: &Options, own: Role, peer: Role) -> (u32, u32) {
    match (own, peer) {
        (_, Role::Hypervisor) => (HOST_PREFIXES, HOST_PREFIXES),
        (Role::Hypervisor, _) => (UPLINK_PREFIXES, UPLINK_PREFIXES),
        _ => {
            let tables = options.tables;
            let of = |size: Option<u32>| size.unwrap_or(SWITCH_PREFIXES).max(1);
            (of(tables.ipv4), of(tables.ipv6))
        }
    }
}

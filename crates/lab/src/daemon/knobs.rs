//! Numbers that both flavours' configurations share.

use crate::topology::{Options, Role};

/// Milliseconds between two BFD packets. Software on a busy machine can't do
/// with much less; switches whose hardware speaks BFD can.
pub(super) const BFD_MS: u32 = 200;
/// So many BFD packets missing are a dead neighbour: 800 ms.
pub(super) const BFD_MULTIPLIER: u32 = 4;
/// Seconds that a neighbour's routes stay as they are while its daemon restarts.
/// What takes longer is no restart.
pub(super) const RESTART_S: u32 = 30;
/// Seconds that they then stay as the last choice (RFC 9494).
pub(super) const LLGR_S: u32 = 600;
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

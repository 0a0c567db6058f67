//! The table of connection tracking, which all machines share.

use super::{Finding, Host};
use crate::config::Config;

const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// A table that one machine can fill by itself, and that the agent won't
/// enlarge. How much all of them may open depends on how many there are:
/// `l2isolate status` tells.
pub(super) fn small_table(host: &dyn Host, config: &Config) -> Option<Finding> {
    let path = host.path(MAX);
    let room: u64 = std::fs::read_to_string(&path).ok()?.trim().parse().ok()?;
    let fixed = std::fs::metadata(&path).is_ok_and(|file| file.permissions().readonly());
    let one = config.connections_per_port();
    let has_memory = config.plan().connections?.most >= one;
    let stays = fixed || !config.manage_host || !has_memory;
    (stays && room < one.into()).then(|| Finding {
        service: "connection tracking".to_owned(),
        seen_in: MAX.to_owned(),
        effect: format!(
            "holds {room} connections, and one machine may open {one} (limit_connections, each \
             way): it can leave no room to the others"
        ),
        remedy: if fixed {
            "raise net.netfilter.nf_conntrack_max outside of this network namespace, or lower \
             limit_connections"
        } else {
            "lower limit_connections, or raise net.netfilter.nf_conntrack_max and \
             nf_conntrack_buckets"
        }
        .to_owned(),
    })
}

//! Who asks: the port on the tap that the connection came in by, and which of
//! its addresses stands for it.
//!
//! The tap is certain: each has listening sockets of its own, bound to the
//! device. So two guests may have the same address, and none can take another's
//! place by forging one.

use std::net::IpAddr;

use l2isolate_model::metadata::entry::Entry;

/// The address by which the cloud knows the guest that asks from `peer`; none
/// if the address is not the guest's to use.
///
/// A link-local IPv6 address is whoever is on the link, and that is the guest
/// alone, whichever way it made the address (RFC 4862, RFC 7217). Nova knows
/// nothing of it, so the guest's first IPv4 address is said instead.
pub(super) fn address(entry: &Entry, peer: IpAddr) -> Option<IpAddr> {
    let own = || entry.networks.iter().map(|network| network.address);
    if own().any(|address| address == peer) {
        return Some(peer);
    }
    match peer {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            let first = own().find(IpAddr::is_ipv4).or_else(|| own().next());
            Some(first.unwrap_or(peer))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::testing;

    /// What isn't the port's own gets nothing, not even where the tap is right:
    /// address pairs belong to services, not to instances.
    #[test]
    fn only_own_addresses_ask() {
        let entry = testing::entry("tap0", &["2001:db8::5", "10.0.0.5", "10.0.0.6"]);
        let asks = |peer: &str| address(&entry, peer.parse().unwrap()).map(|a| a.to_string());
        assert_eq!(asks("10.0.0.6").as_deref(), Some("10.0.0.6"));
        assert_eq!(asks("2001:db8::5").as_deref(), Some("2001:db8::5"));
        assert_eq!(asks("fe80::abc").as_deref(), Some("10.0.0.5"));
        for stranger in [
            "10.0.0.7",
            "2001:db8::6",
            "169.254.1.1",
            "127.0.0.1",
            "::1",
            "::ffff:10.0.0.5",
        ] {
            assert_eq!(asks(stranger), None, "{stranger}");
        }
        let bare = testing::entry("tap0", &[]);
        let asks = |peer: &str| address(&bare, peer.parse().unwrap());
        assert_eq!(asks("fe80::abc"), "fe80::abc".parse().ok());
        assert_eq!(asks("10.0.0.5"), None);
    }
}

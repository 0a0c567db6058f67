//! In which order objects go into the kernel and out of it.
//!
//! Two rules must hold at every moment, also half-way through a change:
//!
//! * The host answers ARP on a tap (`proxy_arp`) only while every address of
//!   the guest is routed to somewhere else than the default route. Otherwise it
//!   would answer the guest's own duplicate-address probe, and the guest would
//!   give its address up. So `proxy_arp` opens last and closes first.
//! * A guest's route is what announces it to the fabric: it goes in when the
//!   gateway and the neighbour entry are there to serve what it attracts.

use l2isolate_model::{
    IfName,
    desired::{Key, Knob, Value},
};
use l2isolate_reconcile::{LAST, Rules};

use crate::{FLOOR_METRIC, guest::DHCP_ADDRESS};

/// Who wants objects: the unit that is planned as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The host itself.
    Host,
    /// A tap, with the port on it.
    Tap(IfName),
}

/// The rules for kernel objects.
#[derive(Debug)]
pub enum KernelRules {}

/// Steps of a batch, first to last.
#[repr(u8)]
enum Step {
    /// Stop answering ARP.
    Close,
    /// The tunnel device, whose settings and routes come after it.
    Tunnel,
    /// Settings of host and tap.
    Setting,
    /// Hardware address and MTU, before the link is switched on.
    Link,
    /// The switch itself; routes need it.
    Up,
    /// Gateway addresses.
    Address,
    /// The address of services, behind them: what this host itself sends a
    /// guest is from the first.
    Service,
    /// The unreachable routes behind the guests' routes.
    Floor,
    /// Neighbour entries.
    Neighbour,
    /// The guests' routes: the guest is announced.
    Route,
    /// Answer ARP.
    Open,
}

impl Rules for KernelRules {
    type Key = Key;
    type Value = Value;
    type Owner = Owner;

    fn satisfies(desired: &Value, observed: &Value) -> bool {
        match (desired, observed) {
            // The kernel, or this kernel in this namespace, doesn't have it, or
            // doesn't let it be changed.
            (_, Value::Unavailable | Value::Fixed(_)) => true,
            (Value::AtLeast(least), Value::Number(number)) => number >= least,
            _ => desired == observed,
        }
    }

    fn deletable(key: &Key) -> bool {
        match key {
            Key::Address(..)
            | Key::Neighbour(..)
            | Key::Route(..)
            | Key::Tunnel
            | Key::TunnelRule(_)
            | Key::Delivery(_) => true,
            // Properties of devices and of the host: they have some value always.
            Key::Sysctl(..) | Key::Mac(_) | Key::Mtu(_) | Key::Up(_) => false,
        }
    }

    fn order(key: &Key, desired: Option<&Value>) -> u8 {
        let step = match key {
            Key::Sysctl(Knob::TapProxyArp, _) if desired == Some(&Value::Number(0)) => Step::Close,
            Key::Sysctl(Knob::TapProxyArp, _) => Step::Open,
            Key::Sysctl(..) => Step::Setting,
            Key::Mac(_) | Key::Mtu(_) => Step::Link,
            // A link that goes down takes its routes along without a word to
            // routing daemons: they go first, and loudly.
            Key::Up(_) if desired == Some(&Value::Up(false)) => return LAST,
            // Nothing comes out of the tunnel before it is known where to.
            Key::Up(IfName::TUNNEL) => Step::Open,
            Key::Up(_) => Step::Up,
            Key::Tunnel => Step::Tunnel,
            Key::Delivery(prefix) if prefix.prefix_len() == 0 => Step::Floor,
            Key::TunnelRule(_) => Step::Neighbour,
            Key::Address(_, net) if net.addr() == DHCP_ADDRESS => Step::Service,
            Key::Address(..) => Step::Address,
            Key::Route(_, FLOOR_METRIC) => Step::Floor,
            Key::Neighbour(..) => Step::Neighbour,
            Key::Route(..) | Key::Delivery(_) => Step::Route,
        };
        step as u8
    }

    fn waits_for(key: &Key, desired: &Value, other: &Key) -> bool {
        // What is of the device can't be set before it is there.
        if key.device() == Some(IfName::TUNNEL) && *key != Key::Tunnel && *other == Key::Tunnel {
            return true;
        }
        if matches!(key, Key::Up(IfName::TUNNEL)) {
            return matches!(other, Key::TunnelRule(_) | Key::Delivery(_));
        }
        let opening =
            matches!(key, Key::Sysctl(Knob::TapProxyArp, _)) && *desired != Value::Number(0);
        // `arp_ignore` and `proxy_arp_pvlan` decide for whom it answers.
        let guarded = match other {
            Key::Route(..) => true,
            Key::Sysctl(knob, _) => matches!(knob, Knob::TapArpIgnore | Knob::TapProxyArpPvlan),
            _ => false,
        };
        opening && guarded
    }
}

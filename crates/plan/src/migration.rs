//! Where a port is in a live migration, as seen from this host: the only place
//! that says when a guest's routes are announced.
//!
//! A state follows from what is known now: the intent's binding, what was seen of
//! the guest on its tap, and whether its host at the other end can be sent what
//! arrives here ([`follow`]); there is no other memory. So whatever happens, and
//! in whatever order, the same knowledge has the same state:
//!
//! | state | binding here | guest seen here | announced |
//! |---|---|---|---|
//! | gone | none | – | no |
//! | incoming | `incoming` | no | no: the guest still runs elsewhere, or is paused |
//! | live | `incoming` | yes | yes, before the control plane knows |
//! | active | `active` | – | yes: the control plane's word is enough |
//! | outgoing | `outgoing` | – | by an ever longer path, at last as the last choice, while something is behind the tap: make before break |
//! | followed | `outgoing` | stopped, or nobody has its tap open; its new host is known | as the last choice: what comes is sent on by tunnel |
//! | left | `outgoing` | nobody has its tap open; its new host isn't known | no: what still comes follows the fabric |
//!
//! | event | gone | incoming | live | active | outgoing | followed | left |
//! |---|---|---|---|---|---|---|---|
//! | binding `incoming` | incoming | = | = | incoming | incoming | incoming | incoming |
//! | a frame of the guest | gone | live | = | = | = | outgoing | = |
//! | binding `active` | active | active | active | = | active | active | active |
//! | binding `outgoing` | outgoing | outgoing | outgoing | outgoing | = | = | = |
//! | binding deleted | = | gone | gone | gone | gone | gone | gone |
//! | told that the guest has stopped | gone | incoming | live | active | followed, outgoing | = | = |
//! | told that it goes on here | gone | incoming | live | active | = | outgoing | = |
//! | the tap's carrier goes | gone | incoming | incoming | active | followed, left | = | = |
//! | the tap's carrier comes | gone | incoming | live | active | = | outgoing | outgoing |
//! | tap deleted, made anew | gone | incoming | incoming | active | followed or left, outgoing | =, outgoing | =, outgoing |
//! | agent killed, started anew | gone | incoming | live | active | outgoing | followed | left |
//!
//! The second word, where there are two with a comma, is that of a host without a
//! tunnel; of a tap that is deleted and made anew, that of the tap made anew.
//!
//! "Seen" is kept where it can't be lost: in the kernel, as the installed route,
//! which goes with its tap, and is forgotten when nobody is behind that any more. So
//! is "stopped", as the route by the tunnel. The route of a guest that leaves has
//! other metrics (it is also how a routing daemon that reads the kernel knows), so
//! it is no such memory for one that comes back; they say how far it has come.
//!
//! **Steps.** A switch that hears a lesser announcement of the guest from its own
//! host mustn't take what its neighbour in the rack has announced before for
//! better, or both send to each other until both have heard all. The way through
//! the neighbour is longer by two (spine, neighbour), so the path may get longer
//! by one at a time. When it is as long as the way to another rack, its origin
//! decides, which is then INCOMPLETE. The switches need time between two steps,
//! which whoever plans sees to. Whoever is followed isn't in time: it has stopped,
//! and whatever is said of another place is better.

use l2isolate_model::{
    desired::Target,
    port::{Binding, BindingState, Port},
};

use crate::{Config, TapView};

/// A port's state on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The port isn't bound here.
    Gone,
    /// All is ready for a guest that isn't here yet.
    Incoming,
    /// The guest is here, and the control plane doesn't know yet.
    Live,
    /// The guest is here.
    Active,
    /// The guest leaves and is still here, or paused.
    Outgoing,
    /// The guest has stopped here, or left: what comes for it goes after it.
    Followed,
    /// The guest has left: nobody has the other end of its tap open.
    Left,
}

/// What is known of a port beside its binding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sight {
    /// A frame from its hardware address has come by its tap while it was expected
    /// there.
    pub seen: bool,
    /// Somebody has the tap's other end open.
    pub carrier: bool,
    /// The guest has stopped here to go on elsewhere.
    pub stopped: bool,
    /// There is a way to where it goes: see [`follow`].
    pub way: bool,
}

impl State {
    /// The state of a port with this binding.
    #[must_use]
    pub const fn of(binding: Option<BindingState>, sight: Sight) -> Self {
        let Sight {
            seen,
            carrier,
            stopped,
            way,
        } = sight;
        match binding {
            None => Self::Gone,
            Some(BindingState::Incoming) if seen => Self::Live,
            Some(BindingState::Incoming) => Self::Incoming,
            Some(BindingState::Active) => Self::Active,
            Some(BindingState::Outgoing) if way && (stopped || !carrier) => Self::Followed,
            Some(BindingState::Outgoing) if carrier => Self::Outgoing,
            Some(BindingState::Outgoing) => Self::Left,
        }
    }

    /// The state of a port on a tap, as far as there is either.
    #[must_use]
    pub fn of_port(port: Option<&Port>, view: Option<&TapView<'_>>, config: &Config) -> Self {
        let sight = Sight {
            seen: view.is_some_and(|view| view.seen),
            carrier: view.is_some_and(|view| view.tap.carrier),
            stopped: view.is_some_and(|view| view.stopped),
            way: port.is_some_and(|port| matches!(follow(port, config), Ok(Some(_)))),
        };
        Self::of(port.map(|port| port.binding.state), sight)
    }

    /// Its name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Incoming => "incoming",
            Self::Live => "live",
            Self::Active => "active",
            Self::Outgoing => "outgoing",
            Self::Followed => "followed",
            Self::Left => "left",
        }
    }

    /// The metric with which the guest's routes are installed, and so announced;
    /// `None`: they aren't. `step`: of one that leaves, how far it may be by now.
    #[must_use]
    pub fn announced(self, step: u8, config: &Config) -> Option<u32> {
        match self {
            Self::Gone | Self::Incoming | Self::Left => None,
            Self::Live | Self::Active => Some(config.route_metric),
            Self::Outgoing => Some(config.leaving_metric(step.clamp(1, config.leaving_steps))),
            Self::Followed => Some(config.leaving_metric(config.leaving_steps)),
        }
    }

    /// Whether the guest is behind its tap, or will be before it is elsewhere:
    /// what comes for it by the tunnel is put there.
    #[must_use]
    pub const fn here(self) -> bool {
        match self {
            Self::Incoming | Self::Live | Self::Active | Self::Outgoing => true,
            Self::Gone | Self::Followed | Self::Left => false,
        }
    }
}

/// Where what arrives for a guest that leaves is sent once it has stopped here;
/// `None`: there is no tunnel. That is of the port and of the host, whatever the
/// guest does.
///
/// # Errors
/// Why the tunnel can't be used for it, in words for the operator.
pub fn follow(port: &Port, config: &Config) -> Result<Option<Target>, String> {
    let Some(tunnel) = &config.tunnel else {
        return Ok(None);
    };
    let Binding { state, peer } = port.binding;
    if state != BindingState::Outgoing {
        return Ok(None);
    }
    let from = tunnel.address;
    let Some(to) = peer else {
        return Err("the address of the host that it goes to isn't known (peer)".to_owned());
    };
    if to == from || to.is_unspecified() || to.is_multicast() || to.is_loopback() {
        return Err(format!("{to} (peer) is no other host's address"));
    }
    if to.is_ipv4() != from.is_ipv4() {
        return Err(format!(
            "{to} (peer) and {from} (underlay_address) aren't of one family"
        ));
    }
    let (mtu, room) = (port.mtu, tunnel.mtu());
    if mtu > room {
        return Err(format!(
            "its packets (MTU {mtu}) don't fit into the tunnel ({room}): the smallest uplink \
             has {}",
            tunnel.underlay
        ));
    }
    Ok(Some(Target::Tunnel { from, to }))
}

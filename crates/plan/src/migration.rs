//! Where a port is in a live migration, as seen from this host: the only place
//! that says when a guest's routes are announced.
//!
//! A state follows from what is known now, the intent's binding and whether the
//! guest was seen on its tap; there is no other memory. So whatever happens, and
//! in whatever order, the same knowledge has the same state:
//!
//! | state | binding here | guest seen here | announced |
//! |---|---|---|---|
//! | gone | none | – | no |
//! | incoming | `incoming` | no | no: the guest still runs elsewhere, or is paused |
//! | live | `incoming` | yes | yes, before the control plane knows |
//! | active | `active` | – | yes: the control plane's word is enough |
//! | outgoing | `outgoing` | – | by an ever longer path, at last as the last choice, while something is behind the tap: make before break |
//! | left | `outgoing` | – | no: nothing is behind the tap, and what still comes follows the fabric |
//!
//! | event | gone | incoming | live | active | outgoing | left |
//! |---|---|---|---|---|---|---|
//! | binding `incoming` | incoming | = | = | incoming | incoming | incoming |
//! | first frame | gone | live | = | = | = | = |
//! | binding `active` | active | active | active | = | active | active |
//! | binding `outgoing` | outgoing | outgoing | outgoing | outgoing | = | = |
//! | binding deleted | = | gone | gone | gone | gone | gone |
//! | the tap's carrier goes | gone | incoming | incoming | active | left | = |
//! | the tap's carrier comes | gone | incoming | live | active | = | outgoing |
//! | tap deleted, made anew | gone | incoming | incoming | active | left, outgoing | left, outgoing |
//! | agent killed, started anew | gone | incoming | live | active | outgoing | left |
//!
//! "Seen" is kept where it can't be lost: in the kernel, as the installed route,
//! which goes with its tap, and is forgotten when nobody is behind that any more. The route of a guest that leaves has other metrics
//! (it is also how a routing daemon that reads the kernel knows), so it is no
//! such memory for one that comes back; they say how far it has come.
//!
//! **Steps.** A switch that hears a lesser announcement of the guest from its own
//! host mustn't take what its neighbour in the rack has announced before for
//! better, or both send to each other until both have heard all. The way through
//! the neighbour is longer by two (spine, neighbour), so the path may get longer
//! by one at a time. When it is as long as the way to another rack, its origin
//! decides, which is then INCOMPLETE. The switches need time between two steps,
//! which whoever plans sees to.

use l2isolate_model::port::BindingState;

use crate::Config;

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
    /// The guest has left: nobody has the other end of its tap open.
    Left,
}

impl State {
    /// The state of a port with this binding; `seen`: a frame from its hardware
    /// address has come by its tap while it was expected there; `carrier`: somebody
    /// has the tap's other end open.
    #[must_use]
    pub const fn of(binding: Option<BindingState>, seen: bool, carrier: bool) -> Self {
        match (binding, seen) {
            (None, _) => Self::Gone,
            (Some(BindingState::Incoming), false) => Self::Incoming,
            (Some(BindingState::Incoming), true) => Self::Live,
            (Some(BindingState::Active), _) => Self::Active,
            (Some(BindingState::Outgoing), _) if carrier => Self::Outgoing,
            (Some(BindingState::Outgoing), _) => Self::Left,
        }
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
        }
    }
}

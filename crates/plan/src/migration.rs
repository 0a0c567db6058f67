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
//! | outgoing | `outgoing` | – | yes, until the binding goes: make before break |
//!
//! | event | gone | incoming | live | active | outgoing |
//! |---|---|---|---|---|---|
//! | binding `incoming` | incoming | = | = | incoming | incoming |
//! | first frame | gone | live | = | = | = |
//! | binding `active` | active | active | active | = | active |
//! | binding `outgoing` | outgoing | outgoing | outgoing | outgoing | = |
//! | binding deleted | = | gone | gone | gone | gone |
//! | tap deleted, made anew | gone | incoming | incoming | active | outgoing |
//! | agent killed, started anew | gone | incoming | live | active | outgoing |
//!
//! "Seen" is kept where it can't be lost: in the kernel, as the installed route,
//! which goes with its tap. (So an agent that was away while a port went from
//! `outgoing` to `incoming` on one and the same tap would take it for live; who
//! migrates a guest back makes a new tap for it, as Nova does.)

use l2isolate_model::port::BindingState;

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
    /// The guest leaves, or has left; what still comes for it comes here.
    Outgoing,
}

impl State {
    /// The state of a port with this binding; `seen`: a frame from its hardware
    /// address has come by its tap while it was expected there.
    #[must_use]
    pub const fn of(binding: Option<BindingState>, seen: bool) -> Self {
        match (binding, seen) {
            (None, _) => Self::Gone,
            (Some(BindingState::Incoming), false) => Self::Incoming,
            (Some(BindingState::Incoming), true) => Self::Live,
            (Some(BindingState::Active), _) => Self::Active,
            (Some(BindingState::Outgoing), _) => Self::Outgoing,
        }
    }

    /// Whether the guest's routes are installed, and so announced.
    #[must_use]
    pub const fn announced(self) -> bool {
        match self {
            Self::Gone | Self::Incoming => false,
            Self::Live | Self::Active | Self::Outgoing => true,
        }
    }
}

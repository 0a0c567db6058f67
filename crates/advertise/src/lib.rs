//! How a routing daemon gets exactly the routes that are ours to announce.
//!
//! The hand-over is the kernel's main table, as in LINE's original: the agent
//! installs what is to be announced with a protocol number and a metric of its
//! own, the daemon picks up what carries both and lies in the configured
//! prefixes, and nothing else. [`Handover`] is that agreement; [`bird`] and
//! [`frr`] write it down in the daemons' languages.
//!
//! Where the daemon is to be told by the agent instead, with attributes of each
//! prefix, [`driver`] has the ways; they also read back what came of it.
//!
//! Two rules are part of each:
//! * A stranger's route, also one inside the guests' prefix, isn't announced.
//! * What was learned by BGP isn't announced again: a hypervisor with two
//!   switches must not become a way between them (RFC 7938, section 5.2.1 has
//!   the same rule for servers by prefix; here it holds by origin).

pub mod bird;
pub mod driver;
pub mod frr;
pub mod render;
mod replace;
mod worker;

pub use replace::{replace, replace_durably};
pub use worker::{Report, Worker};

use ipnet::IpNet;

/// What the agent and the routing daemon of a hypervisor agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The agent's `route_protocol`.
    pub protocol: u8,
    /// The agent's `route_metric`. The metrics above it are those of guests that
    /// leave by live migration ([`Self::leaving`]).
    pub metric: u32,
    /// The agent's `migration_prepend`: in so many steps a guest that leaves is
    /// announced by an ever longer path.
    pub steps: u8,
    /// The host's AS, by which that path gets longer.
    pub asn: u32,
    /// Prefixes from which guests have addresses, both families.
    pub guests: Vec<IpNet>,
    /// Prefixes from which hypervisors have loopbacks, both families.
    pub loopbacks: Vec<IpNet>,
}

/// An address family, as a number in names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// 4 or 6.
    #[must_use]
    pub const fn digit(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// Length of a host's prefix in bits.
    #[must_use]
    pub const fn host_length(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    fn has(self, prefix: &IpNet) -> bool {
        matches!(
            (self, prefix),
            (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_))
        )
    }
}

impl Handover {
    /// Metrics of guests that leave by live migration, with how often the own AS
    /// is prepended and whether that is the last step. Only that one's origin is
    /// INCOMPLETE: it yields to a path of its length from elsewhere
    /// (docs/adr/0012).
    pub fn leaving(&self) -> impl Iterator<Item = (u32, u8, bool)> + '_ {
        (1..=self.steps).map(|step| {
            let metric = self.metric.saturating_add(step.into());
            (metric, step, step == self.steps)
        })
    }

    /// Guests' and loopbacks' prefixes of one family.
    fn prefixes(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.guests
            .iter()
            .chain(&self.loopbacks)
            .filter(move |prefix| family.has(prefix))
    }
}

//! A hypervisor's whole BGP configuration, in the language of each daemon,
//! with each knob's reason beside it.
//!
//! What all three say:
//! * Each host has an AS of its own, and each uplink an eBGP session to
//!   whatever AS is there (RFC 7938), over link-local addresses, with IPv4's
//!   next hops among them (RFC 8950).
//! * Out goes what is this host's own, in come default routes: a host is no way
//!   between its switches, whatever they send (RFC 9234 says it once more).
//! * What a switch marks by GRACEFUL_SHUTDOWN is used last (RFC 8326).
//! * A daemon that restarts keeps its routes (RFC 4724) for [`RESTART`] seconds;
//!   then they are the last choice for [`LLGR`] seconds, where the daemon can
//!   ask for that (docs/adr/0009).

mod bird;
mod frr;
mod gobgp;

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use crate::{Handover, driver};

/// Seconds that neighbours keep the routes of a daemon that restarts as they are.
/// A daemon is back within two; what takes longer is no restart.
pub const RESTART: u32 = 30;
/// Seconds that they then keep them as the last choice (RFC 9494): whoever
/// announces the guests from elsewhere is preferred.
pub const LLGR: u32 = 600;
/// FRR's update-delay in seconds: how long bgpd waits at most for its neighbours'
/// routes after a start before it sends its own, and how long for a neighbour.
pub const UPDATE_DELAY: (u32, u32) = (3, 1);
/// Hold time and keepalive in seconds: what finds a dead neighbour whose link
/// is up, where BFD doesn't.
const TIMERS: (u32, u32) = (9, 3);
/// BFD's interval in milliseconds and so many packets that are missing in a row:
/// 800 ms. Software on a busy machine can't do with much less; switches whose
/// hardware speaks BFD can.
pub const BFD: (u32, u32) = (200, 4);

/// Which daemon the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// FRR: `frr.conf`, for vtysh to read.
    Frr,
    /// BIRD: `bird.conf`.
    Bird,
    /// GoBGP: `gobgpd.conf` in TOML.
    Gobgp,
}

/// How prefixes get into the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It picks them up from the kernel ([`Handover`]).
    Kernel,
    /// The agent tells it ([`driver`]).
    Told,
}

/// A link to a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The interface.
    pub interface: String,
    /// The switch's link-local address, where it is known: BIRD then opens the
    /// session itself.
    pub peer: Option<Ipv6Addr>,
    /// The switch's AS, which GoBGP must know.
    pub peer_asn: Option<u32>,
}

/// What a configuration is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its AS.
    pub asn: u32,
    /// Its router id, an address of its own.
    pub router_id: Ipv4Addr,
    /// Its links to switches.
    pub uplinks: Vec<Uplink>,
    /// How prefixes get into the daemon.
    pub way: Way,
    /// What agent and daemon agree on in [`Way::Kernel`].
    pub handover: Handover,
    /// Routes that a switch may send before its session is ended.
    pub maximum_prefixes: u32,
    /// Whether BFD watches the sessions.
    pub bfd: bool,
    /// A password for the sessions' TCP (RFC 2385).
    pub password: Option<String>,
    /// Whether the roles of RFC 9234 are told, where the daemon knows them.
    pub roles: bool,
    /// The file that BIRD includes in [`Way::Told`].
    pub bird_file: PathBuf,
    /// The daemon's version, as `8.4.4`: what it doesn't know is left out, and
    /// said.
    pub version: String,
}

/// What can't be rendered, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no uplink.
    #[error("no uplink is named: give --uplink INTERFACE for each link to a switch")]
    NoUplink,
    /// GoBGP must know the AS of its neighbours.
    #[error("GoBGP must know the AS at the far end of {0}: give --uplink {0}=ADDRESS,ASN")]
    PeerAsn(String),
    /// The text would end what it stands in.
    #[error("the {0} has a character that {1} can't take: use letters, digits and -_.:/+=")]
    Text(&'static str, &'static str),
    /// GoBGP doesn't look into the kernel.
    #[error("GoBGP picks nothing up from the kernel: set advertise = gobgp")]
    GobgpKernel,
}

/// The configuration's text.
///
/// # Errors
/// Something is missing that this daemon needs.
pub fn render(host: &Host, flavour: Flavour) -> Result<String, Error> {
    if host.uplinks.is_empty() {
        return Err(Error::NoUplink);
    }
    let daemon = match flavour {
        Flavour::Frr => "FRR",
        Flavour::Bird => "BIRD",
        Flavour::Gobgp => "GoBGP",
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@".contains(c);
    let mut words = vec![("host name", host.name.as_str())];
    words.extend(host.password.iter().map(|word| ("password", word.as_str())));
    let interfaces = host.uplinks.iter().map(|uplink| uplink.interface.as_str());
    words.extend(interfaces.map(|name| ("interface", name)));
    let file = host.bird_file.to_str().unwrap_or("\"");
    words.push(("path of bird_file", file));
    for (what, word) in words {
        if word.is_empty() || !word.chars().all(plain) {
            return Err(Error::Text(what, daemon));
        }
    }
    match flavour {
        Flavour::Frr => Ok(frr::render(host)),
        Flavour::Bird => Ok(bird::render(host)),
        Flavour::Gobgp => gobgp::render(host),
    }
}

/// Text with comments before lines.
struct Page {
    text: String,
    mark: char,
    indent: usize,
}

impl Page {
    fn new(mark: char) -> Self {
        Self {
            text: String::new(),
            mark,
            indent: 0,
        }
    }

    /// Why the next lines are there.
    fn why(&mut self, reason: &str) {
        let (mark, indent) = (self.mark, self.indent);
        for line in reason.lines() {
            let _ = writeln!(self.text, "{:indent$}{mark} {}", "", line.trim());
        }
    }

    fn line(&mut self, line: impl std::fmt::Display) {
        let indent = self.indent;
        let _ = writeln!(self.text, "{:indent$}{line}", "");
    }
}

impl Host {
    fn knows(&self, least: &[u32]) -> bool {
        driver::is_at_least(&self.version, least)
    }
}

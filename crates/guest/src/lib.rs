//! What a guest sees of its host.
//!
//! ```text
//!             ┌── observe ──▶ Objects     files, the DHCP server, old leases
//!   Backend ──┤
//!             └── apply ◀──── [Change]
//!
//!   Responder ◀── Answers of each tap     a thread that answers solicitations
//! ```
//!
//! * [`Backend`] is behind the plan's files and processes: dnsmasq serves
//!   DHCPv4 from them, one process for the guests of all networks.
//! * [`responder`] answers what dnsmasq can't: router and neighbour
//!   solicitations and DHCPv6, from one packet socket for all taps.
//! * [`metadata`] is the proxy that answers at 169.254.169.254 and
//!   fe80::a9fe:a9fe, a process of its own without privileges.
//!
//! Owns the directories below the one it is given, whole, and the dnsmasq that
//! serves from them. What can break it: another program that writes there;
//! another DHCP server that takes port 67 for itself.

mod backend;
pub mod dnsmasq;
mod files;
pub mod metadata;
pub mod responder;

pub use backend::{Backend, Error, Way};
pub use files::Directory;

//! What the guests of a host are told, as data.
//!
//! As in [`crate::desired`], a [`Key`] names one object and a [`Value`] says
//! what it is: files that programs beside the agent read, the DHCP server that
//! reads some of them, and what that server remembers and shouldn't. What the
//! agent answers itself, IPv6 on the taps, is in [`ipv6`].

pub mod ipv6;

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, sync::Arc};

use crate::Mac;

/// Name of a file, without its directory.
pub type Name = Arc<str>;

/// Who reads a file: each has a directory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// dnsmasq, about ports' hardware addresses and addresses
    /// (`--dhcp-hostsdir`). One file a port.
    Hosts,
    /// dnsmasq, about what ports are told beside their address
    /// (`--dhcp-optsdir`). One file a port.
    Options,
    /// The metadata proxy. One file a tap.
    Metadata,
}

impl Service {
    /// The name of its directory.
    #[must_use]
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Options => "options",
            Self::Metadata => "metadata",
        }
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A file.
    File(Service, Name),
    /// The DHCP server, a process.
    Server,
    /// An IPv4 address that the DHCP server has leased to a hardware address
    /// which may not have it any more, so that it refuses it to whose it is.
    StaleLease(Ipv4Addr, Mac),
}

/// What an object is, or shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A file's content.
    Content(Arc<str>),
    /// A process's arguments; observed, it also does its work.
    Arguments(Arc<[String]>),
    /// There, and nothing more to say.
    Present,
    /// Not what we write: no text, or a process that hangs.
    Other,
}

/// Objects, as a map.
pub type Objects = BTreeMap<Key, Value>;

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(service, name) => write!(f, "file {}/{name}", service.directory()),
            Self::Server => f.write_str("DHCP server"),
            Self::StaleLease(address, mac) => write!(f, "old lease of {address} to {mac}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(text) => write!(f, "{} bytes", text.len()),
            Self::Arguments(_) => f.write_str("running"),
            Self::Present => f.write_str("present"),
            Self::Other => f.write_str("something else"),
        }
    }
}

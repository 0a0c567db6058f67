//! The firewall of a host as data: what our two tables shall hold.
//!
//! As in [`crate::desired`], a [`Key`] names one object and a [`Value`] says
//! what it is. The rules in a chain are one value: they have an order, and the
//! kernel replaces them together. Elements of sets are objects of their own, so
//! that a member of a group costs one element, however many there are.
//!
//! The terms of rules are a small closed set, the ones that `plan::filter`
//! uses. What writes them to nftables, and reads them back, is in the crate
//! `kernel`; another encoder could write the same structure elsewhere.

mod term;

use std::{fmt, net::IpAddr, sync::Arc};

use crate::{IfName, Mac};
pub use term::{Family, Limit, Side, Term, Way};

/// Name of a chain, set, map or counter: at most [`NAME_MAX`] bytes.
pub type Name = Arc<str>;

/// The kernel's limit for names, NFT_NAME_MAXLEN less the terminating zero.
pub const NAME_MAX: usize = 255;

/// What our tables are called, in both families.
pub const TABLE: &str = "l2isolate";

/// One of our two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `inet l2isolate`: IPv4 and IPv6.
    Inet,
    /// `arp l2isolate`: who says to have which address.
    Arp,
}

impl Table {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inet, Self::Arp];

    /// nftables' word for the family.
    #[must_use]
    pub const fn family(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Arp => "arp",
        }
    }
}

/// One object of the firewall.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A table.
    Table(Table),
    /// A counter that rules name.
    Counter(Table, Name),
    /// A set or map, without its elements.
    Set(Table, Name),
    /// A chain with its rules.
    Chain(Table, Name),
    /// An element of a set or map.
    Element(Table, Name, Item),
}

/// What an element of a set names. Ranges hold both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A network device.
    Device(IfName),
    /// Ports of a transport protocol.
    Ports(u16, u16),
    /// One address, in a set of single ones.
    Address(IpAddr),
    /// Addresses of one family, in a set of ranges.
    Addresses(IpAddr, IpAddr),
    /// A device, with an address at one of its ends.
    DeviceAddress(IfName, IpAddr),
    /// A device, with the hardware address and the address of who sends there.
    Source(IfName, Mac, IpAddr),
}

/// What an object of the firewall is, or shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A table; `owned`: only the process that made it may change it, and it
    /// stays when that process is gone (NFT_TABLE_F_OWNER and _PERSIST).
    Table {
        /// Both flags, or none.
        owned: bool,
    },
    /// A counter; what it counts is no part of what it is.
    Counter,
    /// A set or map. What a name stands for never changes: another type is
    /// another name, since a set that rules name can't be replaced.
    Set(SetType),
    /// A chain.
    Chain(Chain),
    /// An element; in a map with what becomes of the packet.
    Element(Option<Verdict>),
    /// Something of ours that doesn't read as what we write.
    Foreign,
}

/// What a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetType {
    /// A map from devices to verdicts.
    Verdicts,
    /// Devices, with what is done whenever one of them is looked up. A limit
    /// is a part of the match: below it the device isn't found.
    Devices(Each),
    /// Devices with addresses.
    DeviceAddresses(Family),
    /// Devices with hardware addresses and addresses, with what is done whenever
    /// one of these is looked up.
    Sources(Family, Each),
    /// Ranges of ports.
    Ports,
    /// Single addresses: looked up by hash, a change costs the same at any size.
    Addresses(Family),
    /// Ranges of addresses, which neither overlap nor touch.
    Ranges(Family),
}

/// What is done for each element of a set by itself, when it is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Each {
    /// Nothing more.
    Nothing,
    /// It is counted.
    Count,
    /// It is found, and counted, only if more packets come than the limit allows.
    Over(Limit),
    /// It is found only while no more packets come than the limit allows.
    Within(Limit),
    /// It is found, and counted, only if more connections than this have passed
    /// and still exist.
    Connections(u32),
}

/// What a map says of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Go on to the next hook.
    Accept,
    /// Nothing passes.
    Drop,
    /// Ask this chain.
    Jump(Name),
}

/// A chain's rules, and where packets enter it if they do by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Packets come in here; absent: other chains jump to it.
    pub hook: Option<Hook>,
    /// The rules in order. A base chain's policy is to accept, since most
    /// of what it sees is none of our business.
    pub rules: Vec<Rule>,
}

/// A rule: terms that match from left to right, with what to do last.
pub type Rule = Vec<Term>;

/// Where a base chain is hooked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hook {
    /// The place.
    pub place: Place,
    /// Order among base chains of one place; smaller is earlier.
    pub priority: i32,
}

/// Places at which packets can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// All that comes in.
    Prerouting,
    /// What is for this host.
    Input,
    /// What is passed on.
    Forward,
    /// What this host sends.
    Output,
}

impl Place {
    /// nftables' word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
        }
    }
}

/// A firewall, as a map.
pub type Objects = std::collections::BTreeMap<Key, Value>;

impl Key {
    /// The table that the object is in, or is.
    #[must_use]
    pub const fn table(&self) -> Table {
        match self {
            Self::Table(table)
            | Self::Counter(table, _)
            | Self::Set(table, _)
            | Self::Chain(table, _)
            | Self::Element(table, ..) => *table,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.table().family();
        match self {
            Self::Table(_) => write!(f, "table {family} {TABLE}"),
            Self::Counter(_, name) => write!(f, "counter {family} {name}"),
            Self::Set(_, name) => write!(f, "set {family} {name}"),
            Self::Chain(_, name) => write!(f, "chain {family} {name}"),
            Self::Element(_, name, item) => write!(f, "element {family} {name} {item}"),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => write!(f, "{name}"),
            Self::Ports(first, last) if first == last => write!(f, "{first}"),
            Self::Ports(first, last) => write!(f, "{first}-{last}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Addresses(first, last) if first == last => write!(f, "{first}"),
            Self::Addresses(first, last) => write!(f, "{first}-{last}"),
            Self::DeviceAddress(name, address) => write!(f, "{name} . {address}"),
            Self::Source(name, mac, address) => write!(f, "{name} . {mac} . {address}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { owned: true } => f.write_str("owned by its writer"),
            Self::Table { owned: false } | Self::Counter | Self::Element(None) => {
                f.write_str("present")
            }
            Self::Set(kind) => write!(f, "{kind:?}"),
            Self::Chain(chain) => write!(f, "{} rules", chain.rules.len()),
            Self::Element(Some(verdict)) => write!(f, "{verdict}"),
            Self::Foreign => f.write_str("something else"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
        }
    }
}

//! Sets and maps: their types and elements as the kernel has them.
//!
//! What is done for each element (counting, limits) is told to the set, and
//! the kernel gives it to every element. Only those that count connections say
//! it themselves: for each that is left to the set, the kernel
//! (nft_set_elem_expr_setup, seen on 6.18) gives up a reference to connection
//! tracking that it never took, until nothing is tracked any more.

use std::{net::IpAddr, ops::AddAssign};

use l2isolate_model::{
    IfName, Mac,
    filter::{Each, Family, Item, Limit, SetType, Value, Verdict},
};

use super::{
    attribute::{Writer, be32},
    expression::{Expression, read_verdict, verdict},
    uapi::*,
};
use crate::wire::Attributes;

/// What a counter counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Bytes of a device's name in a key, and of a hardware address with what
/// fills it up to whole registers.
const NAME: usize = 16;
const HARDWARE: usize = 8;

/// Flags, type and length of a set's keys.
struct Layout {
    flags: u32,
    key: u32,
    length: usize,
}

impl Layout {
    fn of(kind: SetType) -> Self {
        let address = |family| match family {
            Family::V4 => (datatype::IPADDR, 4),
            Family::V6 => (datatype::IP6ADDR, 16),
        };
        let device = (datatype::IFNAME, NAME);
        let hardware = (datatype::ETHERADDR, HARDWARE);
        let (flags, parts): (u32, &[(u32, usize)]) = match kind {
            SetType::Verdicts => (NFT_SET_MAP, &[device]),
            SetType::Devices(_) => (0, &[device]),
            SetType::DeviceAddresses(family) => (0, &[device, address(family)]),
            SetType::Sources(family, _) => (0, &[device, hardware, address(family)]),
            SetType::Ports => (NFT_SET_INTERVAL, &[(datatype::INET_SERVICE, 2)]),
            SetType::Addresses(family) => (0, &[address(family)]),
            SetType::Ranges(family) => (NFT_SET_INTERVAL, &[address(family)]),
        };
        Self {
            flags,
            key: parts
                .iter()
                .fold(0, |key, (part, _)| key << datatype::BITS | part),
            length: parts.iter().map(|(_, length)| length).sum(),
        }
    }

    /// The byte order of the key, without which `nft` lists names of devices
    /// as nothing: NFTNL_UDATA_SET_KEYBYTEORDER, four bytes, 1 the host's, 2
    /// the network's, 0 where each part has its own.
    fn userdata(&self) -> [u8; 6] {
        let order = match self.key {
            datatype::IFNAME => 1,
            key if key >> datatype::BITS != 0 => 0,
            _ => 2,
        };
        [0, 4, order, 0, 0, 0]
    }
}

/// What is done for each element.
fn statements(kind: SetType) -> Vec<Expression> {
    let count = Expression::Count(0, 0);
    let limit = |Limit { rate, burst }, over| Expression::Limit {
        rate: u64::from(rate),
        burst,
        over,
    };
    let (SetType::Devices(each) | SetType::Sources(_, each)) = kind else {
        return Vec::new();
    };
    match each {
        Each::Nothing => Vec::new(),
        Each::Count => vec![count],
        Each::Over(over) => vec![limit(over, true), count],
        Each::Within(within) => vec![limit(within, false)],
        Each::Connections(most) => vec![Expression::Connections(most), count],
    }
}

/// Writes what a set is.
pub(crate) fn write_type(to: &mut Writer, kind: SetType) {
    let layout = Layout::of(kind);
    let statements = statements(kind);
    let several = statements.len() > 1;
    to.be32(
        NFTA_SET_FLAGS,
        layout.flags | if several { NFT_SET_EXPR } else { 0 },
    );
    to.be32(NFTA_SET_KEY_TYPE, layout.key);
    to.be32(
        NFTA_SET_KEY_LEN,
        u32::try_from(layout.length).unwrap_or(u32::MAX),
    );
    if layout.flags & NFT_SET_MAP != 0 {
        to.be32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
    }
    to.bytes(NFTA_SET_USERDATA, &layout.userdata());
    write_statements(to, &statements, NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS);
}

/// One statement has an attribute of its own, several are a list.
fn write_statements(to: &mut Writer, statements: &[Expression], one: u16, list: u16) {
    match statements {
        [] => {}
        [only] => to.nest(one, |to| only.write(to)),
        several => to.nest(list, |to| {
            for statement in several {
                to.nest(NFTA_LIST_ELEM, |to| statement.write(to));
            }
        }),
    }
}

/// Reads statements, and what they have counted; `None`: not ours.
fn read_statements(
    from: &Attributes<'_>,
    one: u16,
    list: u16,
) -> Option<(Vec<Expression>, Option<Count>)> {
    let read = match (from.value(one), from.value(list)) {
        (Some(one), _) => vec![Expression::read(one)?],
        (None, Some(list)) => Attributes(list)
            .map(|(_, element)| Expression::read(element))
            .collect::<Option<_>>()?,
        (None, None) => Vec::new(),
    };
    let mut counted = None;
    let start = |statement| match statement {
        Expression::Count(bytes, packets) => {
            counted = Some(Count { packets, bytes });
            Expression::Count(0, 0)
        }
        other => other,
    };
    let statements = read.into_iter().map(start).collect();
    Some((statements, counted))
}

/// Reads what a set is; `None`: nothing that we make.
pub(crate) fn read_type(attributes: &Attributes<'_>) -> Option<SetType> {
    let number = |kind| attributes.value(kind).and_then(be32);
    let flags = number(NFTA_SET_FLAGS).unwrap_or(0) & !NFT_SET_EXPR;
    let key = number(NFTA_SET_KEY_TYPE)?;
    let length = number(NFTA_SET_KEY_LEN)?;
    let (found, _) = read_statements(attributes, NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS)?;
    let each = match found.as_slice() {
        [Expression::Limit { rate, burst, over }, ..] => {
            let limit = Limit {
                rate: u32::try_from(*rate).ok()?,
                burst: *burst,
            };
            if *over {
                Each::Over(limit)
            } else {
                Each::Within(limit)
            }
        }
        [Expression::Connections(most), ..] => Each::Connections(*most),
        [] => Each::Nothing,
        _ => Each::Count,
    };
    let by_family = |kind: fn(Family) -> SetType| Family::ALL.map(kind);
    [SetType::Verdicts, SetType::Devices(each), SetType::Ports]
        .into_iter()
        .chain(by_family(SetType::DeviceAddresses))
        .chain(Family::ALL.map(|family| SetType::Sources(family, each)))
        .chain(by_family(SetType::Addresses))
        .chain(by_family(SetType::Ranges))
        .find(|kind| {
            let layout = Layout::of(*kind);
            layout.flags == flags
                && layout.key == key
                && u32::try_from(layout.length) == Ok(length)
                && statements(*kind) == found
        })
}

/// Whether elements of it count.
pub(crate) fn counts(kind: SetType) -> bool {
    statements(kind).contains(&Expression::Count(0, 0))
}

/// The statements that an element of a set says itself.
pub(crate) fn said(kind: SetType) -> Vec<Expression> {
    match kind {
        SetType::Devices(Each::Connections(_)) => statements(kind),
        _ => Vec::new(),
    }
}

/// Writes an element, with what it says itself.
pub(crate) fn write_item(
    to: &mut Writer,
    item: Item,
    value: Option<&Verdict>,
    said: &[Expression],
) {
    let plain = |to: &mut Writer, key: &[u8]| element(to, key, None, &[], false);
    let end = |to: &mut Writer, key: Option<Vec<u8>>| {
        // What goes on to the very last has no end.
        if let Some(key) = key {
            element(to, &key, None, &[], true);
        }
    };
    match item {
        Item::Device(name) => element(to, &name_key(name), value, said, false),
        Item::DeviceAddress(name, address) => {
            plain(to, &[name_key(name), octets(address)].concat());
        }
        Item::Source(name, mac, address) => {
            let hardware = [mac.bytes().as_slice(), &[0; HARDWARE - 6]].concat();
            plain(to, &[name_key(name), hardware, octets(address)].concat());
        }
        Item::Address(address) => plain(to, &octets(address)),
        Item::Ports(first, last) => {
            plain(to, &first.to_be_bytes());
            end(to, last.checked_add(1).map(|n| n.to_be_bytes().to_vec()));
        }
        Item::Addresses(first, last) => {
            plain(to, &octets(first));
            let next = match last {
                IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|n| IpAddr::V4(n.into())),
                IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|n| IpAddr::V6(n.into())),
            };
            end(to, next.map(octets));
        }
    }
}

fn name_key(name: IfName) -> Vec<u8> {
    let mut key = name.as_str().as_bytes().to_vec();
    key.resize(NAME, 0);
    key
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn element(to: &mut Writer, key: &[u8], value: Option<&Verdict>, said: &[Expression], end: bool) {
    to.nest(NFTA_LIST_ELEM, |to| {
        to.nest(NFTA_SET_ELEM_KEY, |to| to.bytes(NFTA_DATA_VALUE, key));
        if end {
            to.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
        if let Some(value) = value {
            to.nest(NFTA_SET_ELEM_DATA, |to| match value {
                Verdict::Accept => verdict(to, NF_ACCEPT, None),
                Verdict::Drop => verdict(to, NF_DROP, None),
                Verdict::Jump(chain) => verdict(to, NFT_JUMP, Some(chain)),
            });
        }
        write_statements(to, said, NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_EXPRESSIONS);
    });
}

/// The elements of a set from the lists of elements that tell of it, with what
/// each has counted. Ranges come as their beginnings and what follows their
/// ends, in any order.
pub(crate) fn read_items<'a>(
    lists: impl Iterator<Item = Attributes<'a>>,
    kind: SetType,
) -> Vec<(Item, Value, Option<Count>)> {
    let mut read = Vec::new();
    let mut marks: Vec<(u128, bool)> = Vec::new();
    for list in lists {
        for (_, element) in list {
            let element = Attributes(element);
            let key = element.value(NFTA_SET_ELEM_KEY);
            let Some(key) = key.and_then(|key| Attributes(key).value(NFTA_DATA_VALUE)) else {
                continue;
            };
            if matches!(kind, SetType::Ports | SetType::Ranges(_)) {
                let flags = element.value(NFTA_SET_ELEM_FLAGS).and_then(be32);
                let begins = flags.unwrap_or(0) & NFT_SET_ELEM_INTERVAL_END == 0;
                marks.push((number(key), begins));
            } else if let Some(item) = read_key(key, kind) {
                let (value, count) = read_value(&element, kind);
                read.push((item, value, count));
            }
        }
    }
    let ranges = ranges(marks, kind).into_iter();
    read.extend(ranges.map(|item| (item, Value::Element(None), None)));
    read
}

fn read_key(key: &[u8], kind: SetType) -> Option<Item> {
    if let SetType::Addresses(family) = kind {
        return Some(Item::Address(address(family, number(key))));
    }
    let (name, rest) = key.split_at_checked(NAME)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let name: IfName = std::str::from_utf8(name).ok()?.parse().ok()?;
    match kind {
        SetType::DeviceAddresses(family) => {
            Some(Item::DeviceAddress(name, address(family, number(rest))))
        }
        SetType::Sources(family, _) => {
            let (hardware, rest) = rest.split_at_checked(HARDWARE)?;
            let hardware = hardware.first_chunk::<6>()?;
            let mac = Mac::new(*hardware).ok()?;
            Some(Item::Source(name, mac, address(family, number(rest))))
        }
        _ => Some(Item::Device(name)),
    }
}

fn read_value(element: &Attributes<'_>, kind: SetType) -> (Value, Option<Count>) {
    let found = read_statements(element, NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_EXPRESSIONS);
    let Some((found, count)) = found.filter(|(found, _)| *found == statements(kind)) else {
        return (Value::Foreign, None);
    };
    drop(found);
    if !matches!(kind, SetType::Verdicts) {
        return (Value::Element(None), count);
    }
    let verdict = element.value(NFTA_SET_ELEM_DATA).and_then(read_verdict);
    let verdict = match verdict {
        Some((NF_ACCEPT, None)) => Verdict::Accept,
        Some((NF_DROP, None)) => Verdict::Drop,
        Some((NFT_JUMP, Some(chain))) => Verdict::Jump(chain.into()),
        _ => return (Value::Foreign, count),
    };
    (Value::Element(Some(verdict)), count)
}

fn ranges(mut marks: Vec<(u128, bool)>, kind: SetType) -> Vec<Item> {
    let top = match kind {
        SetType::Ports => u128::from(u16::MAX),
        SetType::Ranges(Family::V4) => u128::from(u32::MAX),
        _ => u128::MAX,
    };
    let item = |first: u128, last: u128| match kind {
        SetType::Ranges(family) => Item::Addresses(address(family, first), address(family, last)),
        _ => {
            let port = |n: u128| u16::try_from(n).unwrap_or(u16::MAX);
            Item::Ports(port(first), port(last))
        }
    };
    let mut ranges = Vec::new();
    // An end stands before the beginning of the next range at the same place.
    marks.sort_unstable();
    let mut begun = None;
    for (place, begins) in marks {
        let range = begun
            .take()
            .map(|first| item(first, place.saturating_sub(1)));
        ranges.extend(range);
        if begins {
            begun = Some(place);
        }
    }
    ranges.extend(begun.map(|first| item(first, top)));
    ranges
}

/// A key's bytes as a number; what is longer than any key is cut.
fn number(key: &[u8]) -> u128 {
    key.iter()
        .take(16)
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}

//! Neutron's `extra_dhcp_opts` for IPv4: what of them dnsmasq can send.
//!
//! A line that dnsmasq can't read is skipped by it, with a message that nobody
//! sees; so what it would refuse is refused here, and named.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use l2isolate_model::port::DhcpOption;

use super::name;

/// The tag of clients that are iPXE (its option 175), which get another boot
/// file than the firmware that loads iPXE.
pub(super) const IPXE: &str = "ipxe";

/// Longest value of an option, in bytes (RFC 2132, section 2).
const LONGEST: usize = 255;

/// What dnsmasq 2.90 knows, for when it can't be asked.
const FALLBACK: &str = include_str!("option4.txt");

/// The options that dnsmasq knows by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known(BTreeMap<String, u8>);

impl Default for Known {
    /// Those of dnsmasq 2.90.
    fn default() -> Self {
        Self::read(FALLBACK)
    }
}

impl Known {
    /// From what `dnsmasq --help dhcp` prints: lines of number and name.
    #[must_use]
    pub fn read(listing: &str) -> Self {
        let line = |line: &str| {
            let (number, name) = line.trim().split_once(' ')?;
            Some((name.trim().to_owned(), number.parse().ok()?))
        };
        Self(listing.lines().filter_map(line).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An option that can be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    /// For whom, as the beginning of a line: `tag:ipxe,`.
    pub(super) condition: Option<String>,
    pub(super) number: u8,
    pub(super) value: String,
}

/// What values of an option are (dnsmasq's dhcp-common.c, `opttab`).
enum Kind {
    Addresses,
    /// A number of so many bytes.
    Number(u32),
    /// Pairs of destination and router.
    Routes,
    HostName,
    Any,
}

fn kind(number: u8) -> Kind {
    match number {
        1
        | 3
        | 6
        | 7
        | 9
        | 16
        | 21
        | 28
        | 32
        | 33
        | 41
        | 42
        | 44
        | 45
        | 48
        | 49
        | 65
        | 68..=71
        | 74
        | 150
        | 255 => Kind::Addresses,
        19 | 20 | 23 | 27 | 31 | 34 | 36 | 37 | 46 => Kind::Number(1),
        13 | 22 | 26 | 93 => Kind::Number(2),
        2 | 35 | 38 | 108 => Kind::Number(4),
        121 | 249 => Kind::Routes,
        12 => Kind::HostName,
        _ => Kind::Any,
    }
}

/// Options that are the server's own affair: they follow from the exchange
/// (RFC 2132, section 9).
fn internal(number: u8) -> bool {
    matches!(number, 0 | 50..=57 | 61 | 81 | 82 | 118 | 255)
}

/// Checks an option of IPv4.
pub(super) fn check(option: &DhcpOption, known: &Known) -> Result<Checked, String> {
    let name = option.name.trim();
    let shown: String = name.chars().take(80).collect();
    let mut condition = None;
    let mut plain = name;
    // As Ironic names them: `tag:!ipxe,67`.
    if let Some((tag, rest)) = name
        .strip_prefix("tag:")
        .and_then(|rest| rest.split_once(','))
    {
        if tag.trim_start_matches('!') != IPXE || tag.matches('!').count() > 1 {
            return Err(format!(
                "{shown:?} is for a tag that isn't set here; {IPXE} and !{IPXE} are"
            ));
        }
        condition = Some(format!("tag:{tag},"));
        plain = rest;
    }
    plain = plain.strip_prefix("option:").unwrap_or(plain);
    let number = match plain.parse::<u8>() {
        Ok(number) if internal(number) => {
            return Err(format!("{shown:?} is set by the DHCP server itself"));
        }
        Ok(number) => number,
        Err(_) => *known.0.get(plain).ok_or_else(|| {
            format!("{shown:?} is no DHCP option that dnsmasq knows (`dnsmasq --help dhcp`), and no number from 1 to 254")
        })?,
    };
    let value = option.value.trim();
    text(value)
        .and_then(|()| of_kind(number, value))
        .map_err(|reason| format!("{shown:?}: {reason}"))?;
    Ok(Checked {
        condition,
        number,
        value: value.to_owned(),
    })
}

/// What can stand in a line for dnsmasq and means itself there.
fn text(value: &str) -> Result<(), String> {
    let shown: String = value.chars().take(80).collect();
    if value.len() > LONGEST {
        return Err(format!(
            "the value has {} bytes, more than {LONGEST}",
            value.len()
        ));
    }
    let plain = |b: u8| (b.is_ascii_graphic() || b == b' ') && b != b'"' && b != b'\\';
    if value.bytes().all(plain) && !value.contains(" #") {
        Ok(())
    } else {
        Err(format!(
            "{shown:?} has a character that dnsmasq's files can't carry"
        ))
    }
}

fn of_kind(number: u8, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Ok(());
    }
    let mut items = value.split(',').map(str::trim);
    match kind(number) {
        Kind::Any => Ok(()),
        Kind::HostName => name::check(value),
        Kind::Addresses => match items.find(|item| item.parse::<Ipv4Addr>().is_err()) {
            None => Ok(()),
            Some(item) => Err(format!("{item:?} is no IPv4 address")),
        },
        Kind::Number(bytes) => {
            let digits = value.trim_end_matches(['b', 's', 'i']);
            let most = u64::MAX >> (64 - 8 * bytes);
            let hex =
                value.contains(':') && value.split(':').all(|b| u8::from_str_radix(b, 16).is_ok());
            match digits.parse::<u64>() {
                Ok(number) if number <= most => Ok(()),
                _ if hex => Ok(()),
                _ => Err(format!("{value:?} is no number from 0 to {most}")),
            }
        }
        Kind::Routes => {
            let items: Vec<&str> = items.collect();
            let pair = |pair: &[&str]| match pair {
                [to, by] => to.parse::<Ipv4Net>().is_ok() && by.parse::<Ipv4Addr>().is_ok(),
                _ => false,
            };
            if items.chunks(2).all(pair) {
                Ok(())
            } else {
                Err(format!(
                    "{value:?} are no pairs of prefix and router: 10.0.0.0/8,10.252.0.1"
                ))
            }
        }
    }
}

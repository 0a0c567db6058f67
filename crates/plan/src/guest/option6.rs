//! Neutron's `extra_dhcp_opts` for IPv6, encoded: DHCPv6 is answered by the
//! agent itself. Names are those of `dnsmasq --help dhcp6`.

use std::net::Ipv6Addr;

use l2isolate_model::port::DhcpOption;

use super::name;

/// Longest value, in bytes: all that is told fits one packet.
const LONGEST: usize = 512;

/// How a value stands on the wire.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Addresses,
    Names,
    Seconds,
    Text,
    /// Strings with their lengths (RFC 5970, 3.2).
    Strings,
    /// Suboptions with addresses or names (RFC 5908).
    TimeServers,
}

/// Code, name, kind.
const KNOWN: &[(u16, &str, Kind)] = &[
    (21, "sip-server-domain", Kind::Names),
    (22, "sip-server", Kind::Addresses),
    (23, "dns-server", Kind::Addresses),
    (24, "domain-search", Kind::Names),
    (27, "nis-server", Kind::Addresses),
    (28, "nis+-server", Kind::Addresses),
    (29, "nis-domain", Kind::Names),
    (30, "nis+-domain", Kind::Names),
    (31, "sntp-server", Kind::Addresses),
    (32, "information-refresh-time", Kind::Seconds),
    (41, "posix-timezone", Kind::Text),
    (42, "tzdb-timezone", Kind::Text),
    (56, "ntp-server", Kind::TimeServers),
    (59, "bootfile-url", Kind::Text),
    (60, "bootfile-param", Kind::Strings),
];

/// Options that are the server's own affair: identifiers, addresses, status.
fn internal(code: u16) -> bool {
    matches!(code, 0..=20 | 25 | 26 | 39)
}

/// Checks and encodes an option of IPv6.
pub(super) fn encode(option: &DhcpOption) -> Result<(u16, Vec<u8>), String> {
    let name = option.name.trim();
    let shown: String = name.chars().take(80).collect();
    let plain = name.strip_prefix("option6:").unwrap_or(name);
    let find =
        |is: &dyn Fn(u16, &str) -> bool| KNOWN.iter().find(|(code, name, _)| is(*code, name));
    let (code, kind) = match plain.parse::<u16>() {
        Ok(code) if internal(code) => {
            return Err(format!("{shown:?} is set by the DHCP server itself"));
        }
        Ok(code) => (code, find(&|c, _| c == code).map(|(_, _, kind)| *kind)),
        Err(_) => {
            let known = find(&|_, n| n == plain).ok_or_else(|| {
                format!("{shown:?} is no DHCPv6 option known by name (`dnsmasq --help dhcp6`), and no number")
            })?;
            (known.0, Some(known.2))
        }
    };
    let value = option.value.trim();
    let bytes = match kind {
        Some(kind) => of_kind(kind, value),
        None => Ok(guessed(value)),
    };
    let bytes = bytes.map_err(|reason| format!("{shown:?}: {reason}"))?;
    if bytes.len() > LONGEST {
        return Err(format!(
            "{shown:?}: the value has {} bytes, more than {LONGEST}",
            bytes.len()
        ));
    }
    Ok((code, bytes))
}

fn address(text: &str) -> Option<Ipv6Addr> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(text).parse().ok()
}

fn addresses(value: &str) -> Option<Vec<u8>> {
    let items = value.split(',').map(str::trim);
    let octets: Option<Vec<[u8; 16]>> = items
        .map(|item| address(item).map(|ip| ip.octets()))
        .collect();
    octets.map(|octets| octets.concat())
}

fn of_kind(kind: Kind, value: &str) -> Result<Vec<u8>, String> {
    let items = || value.split(',').map(str::trim);
    match kind {
        Kind::Addresses => {
            addresses(value).ok_or_else(|| format!("{value:?} are no IPv6 addresses"))
        }
        Kind::Names => {
            let mut bytes = Vec::new();
            for item in items() {
                name::check(item)?;
                bytes.extend(name::wire(item));
            }
            Ok(bytes)
        }
        Kind::Seconds => {
            let seconds: u32 = value
                .parse()
                .map_err(|_| format!("{value:?} is no number of seconds"))?;
            Ok(seconds.to_be_bytes().into())
        }
        Kind::Text => Ok(value.as_bytes().to_vec()),
        Kind::Strings => {
            let mut bytes = Vec::new();
            for item in items() {
                let length = u16::try_from(item.len()).map_err(|_| "is too long".to_owned())?;
                bytes.extend(length.to_be_bytes());
                bytes.extend(item.as_bytes());
            }
            Ok(bytes)
        }
        Kind::TimeServers => {
            let mut bytes = Vec::new();
            for item in items() {
                let (code, content) = match address(item) {
                    // NTP_SUBOPTION_MC_ADDR, _SRV_ADDR, _SRV_FQDN.
                    Some(ip) if ip.is_multicast() => (2_u16, ip.octets().to_vec()),
                    Some(ip) => (1, ip.octets().to_vec()),
                    None => {
                        name::check(item)?;
                        (3, name::wire(item))
                    }
                };
                bytes.extend(code.to_be_bytes());
                bytes.extend(u16::try_from(content.len()).unwrap_or(0).to_be_bytes());
                bytes.extend(content);
            }
            Ok(bytes)
        }
    }
}

/// An option that has only a number: addresses, bytes in hexadecimal with
/// colons, or text, whichever it looks like, as dnsmasq guesses.
fn guessed(value: &str) -> Vec<u8> {
    let hex = || -> Option<Vec<u8>> {
        let bytes = value
            .split(':')
            .map(|b| (b.len() <= 2).then(|| u8::from_str_radix(b, 16).ok())?);
        bytes
            .collect::<Option<Vec<u8>>>()
            .filter(|bytes| bytes.len() > 1)
    };
    addresses(value)
        .or_else(hex)
        .unwrap_or_else(|| value.as_bytes().to_vec())
}

//! Settings below /proc/sys: where each can be read, and how it is written.
//!
//! Written always as the file; the files under /proc/sys/net are those of the
//! network namespace of the thread that opens them. Reading some fifteen
//! files per device takes longer than everything else together, so what the
//! kernel tells by netlink is read there:
//!
//! * `net/ipv[46]/conf/DEVICE/*`: arrays in every link message (`IFLA_AF_SPEC`)
//! * `net/ipv[46]/neigh/DEVICE/proxy_delay`: `RTM_GETNEIGHTBL`
//!
//! What can break it: a new [`Knob`] is read from its file until it is named
//! here, right but slow.

use std::{fs, io, io::Write as _};

use l2isolate_model::{
    IfName,
    desired::{Knob, Value},
};

use crate::{
    decode::Link,
    uapi::{AF_INET, AF_INET6, link, netconf},
    wire::{Attributes, read_i32},
};

/// Where a device's setting can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Place in `IFLA_INET_CONF`: `IPV4_DEVCONF_*` less one (linux/ip.h).
    Inet(usize),
    /// Place in `IFLA_INET6_CONF`: `DEVCONF_*` (linux/ipv6.h).
    Inet6(usize),
    /// `NDTPA_PROXY_DELAY` of that family.
    ProxyDelay(u8),
    /// Its file.
    File,
}

fn place(knob: Knob) -> Place {
    match knob {
        Knob::TapForwarding4 => Place::Inet(0),
        Knob::TapProxyArp => Place::Inet(2),
        Knob::TapAcceptRedirects4 => Place::Inet(3),
        Knob::TapSendRedirects => Place::Inet(5),
        Knob::TapRpFilter => Place::Inet(7),
        Knob::TapSourceRoute4 => Place::Inet(8),
        Knob::TapArpIgnore => Place::Inet(18),
        Knob::TapProxyArpPvlan => Place::Inet(24),
        Knob::TapForwarding6 => Place::Inet6(0),
        Knob::TapAcceptRa => Place::Inet6(3),
        Knob::TapAcceptRedirects6 => Place::Inet6(4),
        Knob::TapDisable6 => Place::Inet6(26),
        Knob::TapAcceptDad => Place::Inet6(27),
        Knob::TapAddrGenMode => Place::Inet6(47),
        Knob::TapProxyDelay4 => Place::ProxyDelay(AF_INET),
        Knob::TapProxyDelay6 => Place::ProxyDelay(AF_INET6),
        _ => Place::File,
    }
}

/// The device's setting that a netconf message speaks of, if it is one of ours.
pub(crate) fn announced(family: u8, kind: u16) -> Option<Knob> {
    match (family, kind) {
        (AF_INET, netconf::NETCONFA_FORWARDING) => Some(Knob::TapForwarding4),
        (AF_INET, netconf::NETCONFA_RP_FILTER) => Some(Knob::TapRpFilter),
        (AF_INET, netconf::NETCONFA_PROXY_NEIGH) => Some(Knob::TapProxyArp),
        (AF_INET6, netconf::NETCONFA_FORWARDING) => Some(Knob::TapForwarding6),
        _ => None,
    }
}

/// The number at a place of a family's array. `Unavailable`: the device hasn't
/// the family, as with an MTU that is too small for it.
fn from_array(link: &Link<'_>, family: u8, attribute: u16, place: usize) -> Value {
    let family = link.families.value(family.into());
    let array = family.and_then(|family| Attributes(family).value(attribute));
    let number = array.and_then(|array| read_i32(array, place.checked_mul(4)?));
    number.map_or(Value::Unavailable, |number| Value::Number(number.into()))
}

/// All settings of a device, from its link message and its proxy delays in
/// milliseconds by family (`None`: ask the files).
pub(crate) fn of_device(
    name: IfName,
    link: &Link<'_>,
    proxy_delay: impl Fn(u8) -> Option<u64>,
) -> impl Iterator<Item = (Knob, Value)> {
    let read = move |knob: Knob| match place(knob) {
        Place::Inet(at) => Some(from_array(link, AF_INET, link::IFLA_INET_CONF, at)),
        Place::Inet6(at) => Some(from_array(link, AF_INET6, link::IFLA_INET6_CONF, at)),
        Place::ProxyDelay(family) => match proxy_delay(family) {
            // The file counts in hundredths of a second (USER_HZ).
            Some(delay) => i64::try_from(delay / 10).ok().map(Value::Number),
            None => read(knob, Some(name)),
        },
        Place::File => read(knob, Some(name)),
    };
    let knobs = Knob::ALL.iter().filter(|knob| knob.per_device());
    knobs.filter_map(move |knob| Some((*knob, read(*knob)?)))
}

/// All settings of the host.
pub(crate) fn of_host() -> impl Iterator<Item = (Knob, Value)> {
    let knobs = Knob::ALL.iter().filter(|knob| !knob.per_device());
    knobs.filter_map(|knob| Some((*knob, read(*knob, None)?)))
}

fn path(knob: Knob, device: Option<IfName>) -> String {
    format!("/proc/sys/{}", knob.path(device))
}

fn number(path: &str) -> io::Result<i64> {
    let text = fs::read_to_string(path)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::other(format!("{text:?} is not a number")))
}

/// A setting, from its file. `None`: it can't be read, or isn't a number.
fn read(knob: Knob, device: Option<IfName>) -> Option<Value> {
    let path = path(knob, device);
    match number(&path) {
        // What is one for all namespaces is writable in the first one alone.
        Ok(number) if device.is_none() && is_fixed(&path) => Some(Value::Fixed(number)),
        Ok(number) => Some(Value::Number(number)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Some(Value::Unavailable),
        Err(_) => None,
    }
}

fn is_fixed(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|file| file.permissions().readonly())
}

/// Writes a setting.
pub(crate) fn write(knob: Knob, device: Option<IfName>, value: &Value) -> io::Result<()> {
    let path = path(knob, device);
    let number = match value {
        Value::Number(number) => *number,
        Value::AtLeast(least) if number(&path)? >= *least => return Ok(()),
        Value::AtLeast(least) => *least,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    // In one write: each write(2) is taken as a whole value.
    file.write_all(number.to_string().as_bytes())
}

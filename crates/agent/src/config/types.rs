//! How the text of an option becomes its value.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use l2isolate_model::{IfName, Mac, announce::Community};
use l2isolate_oslo::TransportUrl;

use super::{LogFormat, SourceKind};

/// Smallest and largest value of a number.
pub(super) type Bounds = Option<RangeInclusive<u64>>;

/// A type that options have.
pub(super) trait Typed: Sized {
    /// What is expected, in words.
    const EXPECTED: &'static str;
    /// Whether no message may show a value; what [`Self::parse`] says doesn't either.
    const SECRET: bool = false;

    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with the text, if there is more to say than that it isn't
    /// what was expected.
    fn parse(text: &str, bounds: &Bounds) -> Result<Self, String>;
}

impl Typed for String {
    const EXPECTED: &'static str = "text";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        Ok(text.to_owned())
    }
}

/// `transport_url`, as it is written: with passwords.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url(pub(crate) String);

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl Typed for Url {
    const EXPECTED: &'static str =
        "rabbit://user:password@host:port/vhost, hosts with commas between";
    const SECRET: bool = true;

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        match text.parse::<TransportUrl>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Typed for SourceKind {
    const EXPECTED: &'static str = "directory or neutron";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        match text {
            "directory" => Ok(Self::Directory),
            "neutron" => Ok(Self::Neutron),
            _ => Err("is neither".to_owned()),
        }
    }
}

impl Typed for PathBuf {
    const EXPECTED: &'static str = "an absolute path";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let path = Self::from(text);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err("is no absolute path".to_owned())
        }
    }
}

impl Typed for bool {
    const EXPECTED: &'static str = "true or false";

    /// The words that oslo.config takes.
    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Ok(true),
            "false" | "0" | "off" | "no" => Ok(false),
            _ => Err("is neither".to_owned()),
        }
    }
}

fn number<T: TryFrom<u64>>(text: &str, bounds: &Bounds) -> Result<T, String> {
    let number: u64 = text.parse().map_err(|_| "is no whole number".to_owned())?;
    let number = in_bounds(number, number, bounds)?;
    T::try_from(number).map_err(|_| "is too large".to_owned())
}

fn in_bounds<T>(value: T, number: u64, bounds: &Bounds) -> Result<T, String> {
    match bounds {
        Some(bounds) if !bounds.contains(&number) => Err("is out of range".to_owned()),
        _ => Ok(value),
    }
}

impl Typed for u8 {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str, bounds: &Bounds) -> Result<Self, String> {
        number(text, bounds)
    }
}

impl Typed for u16 {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str, bounds: &Bounds) -> Result<Self, String> {
        number(text, bounds)
    }
}

impl Typed for u32 {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str, bounds: &Bounds) -> Result<Self, String> {
        number(text, bounds)
    }
}

impl Typed for Duration {
    const EXPECTED: &'static str = "a number of seconds";

    fn parse(text: &str, bounds: &Bounds) -> Result<Self, String> {
        let wrong = || "is no number of seconds".to_owned();
        let seconds: f64 = text.parse().map_err(|_| wrong())?;
        let duration = Self::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        in_bounds(duration, duration.as_secs(), bounds)
    }
}

impl Typed for Mac {
    const EXPECTED: &'static str = "a unicast MAC address like 02:4c:32:49:53:4f";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        text.parse().map_err(|_| "is none".to_owned())
    }
}

/// An address, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Underlay(pub(crate) Option<IpAddr>);

impl Typed for Underlay {
    const EXPECTED: &'static str = "an address, or nothing";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        host(text).map(|net| Self(Some(net.addr())))
    }
}

impl Typed for Ipv6Addr {
    const EXPECTED: &'static str = "a link-local IPv6 address like fe80::1";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let address: Self = text.parse().map_err(|_| "is no IPv6 address".to_owned())?;
        if address.is_unicast_link_local() {
            Ok(address)
        } else {
            Err("is not in fe80::/10".to_owned())
        }
    }
}

impl Typed for Vec<IpNet> {
    const EXPECTED: &'static str = "addresses with commas between, like 10.255.1.1/32";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let items = text.split(',').map(str::trim);
        items.filter(|item| !item.is_empty()).map(host).collect()
    }
}

/// Prefixes of any length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefixes(pub(crate) Vec<IpNet>);

impl Typed for Prefixes {
    const EXPECTED: &'static str = "prefixes with commas between, like 10.255.0.0/16";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        let one = |text: &str| {
            let net = text
                .parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map_err(|_| format!("has {text:?}, which is no prefix"))
        };
        items.map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// Addresses in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses(pub(crate) Vec<IpAddr>);

impl Typed for Addresses {
    const EXPECTED: &'static str = "addresses with commas between, like 10.255.0.53, 2001:db8::53";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        let one = |text: &str| {
            let address = text.parse::<IpAddr>();
            address.map_err(|_| format!("has {text:?}, which is no address"))
        };
        items.map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// A domain, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain(pub(crate) Option<String>);

impl Typed for Domain {
    const EXPECTED: &'static str = "a domain like example.org, or nothing";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let text = text.trim().trim_end_matches('.');
        if text.is_empty() {
            return Ok(Self(None));
        }
        l2isolate_plan::guest::check_name(text)?;
        Ok(Self(Some(text.to_owned())))
    }
}

/// Words, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) BTreeSet<String>);

impl Typed for Words {
    const EXPECTED: &'static str = "words with commas between";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        Ok(Self(items.map(str::to_owned).collect()))
    }
}

/// How prefixes get into BGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advertise {
    /// A daemon picks them up from the kernel.
    Kernel,
    /// FRR is told.
    Frr,
    /// BIRD is told.
    Bird,
    /// GoBGP is told.
    Gobgp,
}

impl Typed for Advertise {
    const EXPECTED: &'static str = "kernel, frr, bird or gobgp";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        match text {
            "kernel" => Ok(Self::Kernel),
            "frr" => Ok(Self::Frr),
            "bird" => Ok(Self::Bird),
            "gobgp" => Ok(Self::Gobgp),
            _ => Err("is none of them".to_owned()),
        }
    }
}

/// A daemon that picks routes up from the kernel, or none: [`Advertise::Kernel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PicksUp(pub(crate) Advertise);

impl Typed for PicksUp {
    const EXPECTED: &'static str = "kernel, frr or bird";

    fn parse(text: &str, bounds: &Bounds) -> Result<Self, String> {
        match Advertise::parse(text, bounds)? {
            Advertise::Gobgp => Err(
                "picks up no routes from the kernel, so there is nothing to compare: set advertise \
                 = gobgp to have GoBGP told"
                    .to_owned(),
            ),
            daemon => Ok(Self(daemon)),
        }
    }
}

/// Communities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Communities(pub(crate) Vec<Community>);

impl Typed for Communities {
    const EXPECTED: &'static str = "communities with commas between, like 65001:20";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|i| !i.is_empty());
        let one = |text: &str| {
            let community = text.parse::<Community>();
            community.map_err(|error| format!("has {text:?}, which {error}"))
        };
        items.map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// A user, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserName(pub(crate) Option<String>);

impl Typed for UserName {
    const EXPECTED: &'static str = "a user's name, or nothing";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        super::options::user_name(text)?;
        Ok(Self(Some(text.to_owned())))
    }
}

/// Interfaces in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interfaces(pub(crate) Vec<IfName>);

impl Typed for Interfaces {
    const EXPECTED: &'static str = "interfaces with commas between, like eth0, eth1";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|i| !i.is_empty());
        let one = |text: &str| {
            let name = text.parse::<IfName>();
            name.map_err(|error| format!("has {text:?}: {error}"))
        };
        items.map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// The prefix of one address that others may learn.
fn host(text: &str) -> Result<IpNet, String> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("has {text:?}, which is no address"))?;
    if net.prefix_len() != net.max_prefix_len() {
        let length = net.max_prefix_len();
        return Err(format!("has {net}, which is no single address (/{length})"));
    }
    let address = net.addr();
    let local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
        || matches!(address, IpAddr::V4(v4) if v4.is_link_local() || v4.is_broadcast());
    if local || address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Err(format!(
            "has {net}, which can't be routed to from elsewhere"
        ));
    }
    Ok(net)
}

impl Typed for LogFormat {
    const EXPECTED: &'static str = "human or json";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err("is neither".to_owned()),
        }
    }
}

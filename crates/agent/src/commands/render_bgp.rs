//! `l2isolate render-bgp`: a whole BGP configuration for this host.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::{Command, ExitCode},
    str::FromStr,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use l2isolate_advertise::{
    Handover,
    render::{Flavour, Host, Uplink, Way, render},
};

use super::print;
use crate::config::{self, Advertise, Config};

/// First of the private four-byte AS numbers (RFC 6996).
const PRIVATE: u32 = 4_200_000_000;

/// A routing daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Daemon {
    /// FRR: frr.conf.
    Frr,
    /// BIRD: bird.conf.
    Bird,
    /// GoBGP: gobgpd.conf.
    Gobgp,
}

/// What the configuration files don't say.
#[derive(Args)]
pub(crate) struct Options {
    /// INI file; may be given several times, later files win.
    #[arg(long, value_name = "FILE", required = true)]
    config_file: Vec<PathBuf>,
    /// Which daemon it is for.
    #[arg(long)]
    daemon: Daemon,
    /// A link to a switch, with the switch's link-local address and AS where they
    /// are known; instead of the option uplinks.
    #[arg(long, value_name = "INTERFACE[=ADDRESS][,ASN]")]
    uplink: Vec<UplinkArg>,
    /// This host's AS. By default 4200000000 and the lower 24 bits of its first
    /// IPv4 loopback: another one on each host.
    #[arg(long)]
    asn: Option<u32>,
    /// Watch the sessions by BFD.
    #[arg(long)]
    bfd: bool,
    /// Don't tell the roles of RFC 9234.
    #[arg(long)]
    no_roles: bool,
    /// A file with the password of the sessions' TCP (RFC 2385).
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Routes that a switch may send before its session is ended.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    maximum_prefixes: u32,
    /// The daemon's version, if it isn't the one that is installed here.
    #[arg(long, value_name = "VERSION")]
    daemon_version: Option<String>,
}

/// An uplink as it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UplinkArg(Uplink);

impl FromStr for UplinkArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, asn) = match text.split_once(',') {
            Some((rest, asn)) => {
                let asn = asn.parse().map_err(|_| format!("{asn:?} is no AS"))?;
                (rest, Some(asn))
            }
            None => (text, None),
        };
        let (interface, peer) = match rest.split_once('=') {
            Some((interface, address)) => {
                let peer = address.parse::<Ipv6Addr>().ok();
                let peer = peer.filter(Ipv6Addr::is_unicast_link_local);
                let wrong = || format!("{address:?} is no link-local address");
                (interface, Some(peer.ok_or_else(wrong)?))
            }
            None => (rest, None),
        };
        Ok(Self(Uplink {
            interface: interface.to_owned(),
            peer,
            peer_asn: asn,
        }))
    }
}

/// Prints the configuration.
///
/// # Errors
/// Something is missing or wrong, with what to give.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let config = config::load_sound(&options.config_file)?;
    let (flavour, own) = match options.daemon {
        Daemon::Frr => (Flavour::Frr, Advertise::Frr),
        Daemon::Bird => (Flavour::Bird, Advertise::Bird),
        Daemon::Gobgp => (Flavour::Gobgp, Advertise::Gobgp),
    };
    let way = match config.advertise {
        Advertise::Kernel => Way::Kernel,
        way if way == own => Way::Told,
        way => bail!(
            "advertise = {} in the configuration, and --daemon names another",
            way.word()
        ),
    };
    let router_id = router_id(&config)?;
    let version = match &options.daemon_version {
        Some(version) => version.clone(),
        None => installed(options.daemon, &config)?,
    };
    let password = match &options.password_file {
        Some(path) => {
            let place = || path.display().to_string();
            let text = std::fs::read_to_string(path).with_context(place)?;
            Some(text.trim().to_owned())
        }
        None => None,
    };
    let named = config.uplinks.0.iter().map(|name| Uplink {
        interface: name.to_string(),
        peer: None,
        peer_asn: None,
    });
    let uplinks: Vec<Uplink> = match options.uplink.is_empty() {
        true => named.collect(),
        false => options.uplink.iter().map(|given| given.0.clone()).collect(),
    };
    let asn = PRIVATE + (router_id.to_bits() & 0xff_ffff);
    let asn = options.asn.unwrap_or(asn);
    let host = Host {
        name: config.host.clone(),
        asn,
        router_id,
        uplinks,
        way,
        handover: Handover {
            protocol: config.route_protocol,
            metric: config.route_metric,
            steps: config.migration_prepend,
            asn,
            guests: config.guest_prefixes.0.clone(),
            loopbacks: config.loopbacks.clone(),
        },
        maximum_prefixes: options.maximum_prefixes,
        bfd: options.bfd,
        password,
        roles: !options.no_roles,
        bird_file: config.bird_file.clone(),
        version,
    };
    if way == Way::Kernel && host.handover.guests.is_empty() {
        bail!("no guest_prefixes in the configuration: nothing of guests would be announced");
    }
    let text = render(&host, flavour)?;
    print(&text, false, Clone::clone)?;
    Ok(ExitCode::SUCCESS)
}

/// The first IPv4 loopback.
fn router_id(config: &Config) -> anyhow::Result<Ipv4Addr> {
    let v4 = |net: &ipnet::IpNet| match net.addr() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    };
    config
        .loopbacks
        .iter()
        .find_map(v4)
        .context("no IPv4 address among loopbacks to be the router id")
}

/// The version of the daemon that is installed here.
fn installed(daemon: Daemon, config: &Config) -> anyhow::Result<String> {
    let vtysh = config.vtysh_program.clone();
    let (program, argument) = match daemon {
        Daemon::Frr => (vtysh, "--help"),
        Daemon::Bird => (PathBuf::from("bird"), "--version"),
        Daemon::Gobgp => (PathBuf::from("gobgpd"), "--version"),
    };
    let place = || {
        let program = program.display();
        format!("{program} can't be asked for its version: install it, or give --daemon-version")
    };
    let output = Command::new(&program)
        .arg(argument)
        .output()
        .with_context(place)?;
    let said = [output.stdout, output.stderr].concat();
    version(&String::from_utf8_lossy(&said)).with_context(place)
}

/// The first word with digits and dots.
fn version(said: &str) -> Option<String> {
    let mut words = said.split(|c: char| !c.is_ascii_digit() && c != '.');
    let word = words.find(|word| word.split('.').filter(|part| !part.is_empty()).count() > 1)?;
    Some(word.trim_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_are_read_as_operators_write_them() {
        let uplink = |interface: &str, peer: Option<&str>, peer_asn| {
            Ok(UplinkArg(Uplink {
                interface: interface.to_owned(),
                peer: peer.map(|text| text.parse().unwrap()),
                peer_asn,
            }))
        };
        assert_eq!("eth0".parse(), uplink("eth0", None, None));
        assert_eq!("eth0,65001".parse(), uplink("eth0", None, Some(65001)));
        assert_eq!(
            "eth0=fe80::1,65001".parse(),
            uplink("eth0", Some("fe80::1"), Some(65001))
        );
        for bad in ["eth0=10.0.0.1", "eth0=2001:db8::1", "eth0,x", "eth0="] {
            assert!(bad.parse::<UplinkArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn daemons_tell_their_version() {
        let of = |said: &str| version(said);
        assert_eq!(
            of("Usage : vtysh [OPTION...]\n\nIntegrated shell for FRR (version 8.4.4). \n"),
            Some("8.4.4".to_owned())
        );
        assert_eq!(of("BIRD version 2.0.12\n"), Some("2.0.12".to_owned()));
        assert_eq!(of("gobgpd version 3.10.0\n"), Some("3.10.0".to_owned()));
        assert_eq!(of("no version"), None);
    }
}

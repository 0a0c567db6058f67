//! dnsmasq's part: DHCPv4 for the guests of all networks by one process.
//!
//! * Two ranges cover the whole address space, so a new subnet is no change of
//!   the server's configuration. What they say of netmask and the like is wrong
//!   for every subnet; each port's options say it right.
//! * An interface's own name is a tag that dnsmasq sets by itself: it binds a
//!   port's lines to its tap. Nothing is ever set by a host line (`set:`), which
//!   makes dnsmasq 2.90 crash when it re-reads its files.
//! * A range is served where an address of it is on the interface. Taps have
//!   [`DHCP_ADDRESS`], and `--shared-network` names both ranges for it: so a
//!   subnet without gateway is served as well.
//!
//! `docs/guest.md` and `docs/adr/` have the experiments behind this.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

use ipnet::Ipv4Net;
use l2isolate_model::{
    IfName,
    guest::{Key, Objects, Service, Value},
    port::CheckedPort,
    subnet::Subnet,
};

use super::{GuestConfig, Hostname, Problems, dns, option4};

/// The address from which DHCP is served on taps, the metadata proxy's (EC2's
/// convention). It is in none of the subnets.
pub const DHCP_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Which devices are served.
const INTERFACES: &str = "tap*";

/// How to start the server.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    /// The directory with those of [`Service`], and the server's own files.
    pub directory: &'a Path,
    /// Who it runs as.
    pub user: &'a str,
}

impl Server<'_> {
    /// The file of its leases.
    #[must_use]
    pub fn leases(&self) -> std::path::PathBuf {
        self.directory.join("leases")
    }

    /// Its arguments. They are part of what it is: with others it is started
    /// anew.
    #[must_use]
    pub fn arguments(&self, config: &GuestConfig) -> Arc<[String]> {
        let below = |service: Service| self.directory.join(service.directory());
        let range = |start| format!("--dhcp-range={start},static,128.0.0.0,{}s", config.lifetime);
        [
            "--keep-in-foreground".to_owned(),
            "--conf-file=/dev/null".to_owned(),
            "--pid-file=".to_owned(),
            "--log-facility=-".to_owned(),
            "--quiet-dhcp".to_owned(),
            format!("--user={}", self.user),
            // No DNS.
            "--port=0".to_owned(),
            format!("--interface={INTERFACES}"),
            "--except-interface=lo".to_owned(),
            // Beside other DHCP servers of the host, such as libvirt's.
            "--bind-dynamic".to_owned(),
            "--no-ping".to_owned(),
            "--dhcp-authoritative".to_owned(),
            range("0.0.0.0"),
            range("128.0.0.0"),
            format!("--shared-network={DHCP_ADDRESS},0.0.0.1"),
            format!("--shared-network={DHCP_ADDRESS},128.0.0.1"),
            "--dhcp-ignore=tag:!known".to_owned(),
            // A BOOTP request's file name would be a tag: another tap's.
            "--dhcp-ignore=tag:bootp".to_owned(),
            "--dhcp-ignore-names".to_owned(),
            format!("--dhcp-match=set:{},175", option4::IPXE),
            "--dhcp-lease-max=65535".to_owned(),
            format!("--dhcp-hostsdir={}", below(Service::Hosts).display()),
            format!("--dhcp-optsdir={}", below(Service::Options).display()),
            format!("--dhcp-leasefile={}", self.leases().display()),
        ]
        .into()
    }
}

/// The address of a port that DHCP gives, with its subnet: one client has one.
fn leased(port: &CheckedPort) -> Option<(Ipv4Addr, Ipv4Net, &Subnet)> {
    let mut all = port.addresses.iter();
    all.find_map(|(address, subnet)| match (address, subnet.cidr) {
        (IpAddr::V4(address), ipnet::IpNet::V4(net)) if port.dhcp(subnet) => {
            Some((*address, net, subnet.as_ref()))
        }
        _ => None,
    })
}

/// Whether the port's guest gets an address by DHCPv4, if that is served.
#[must_use]
pub fn serves_dhcp(port: &CheckedPort) -> bool {
    leased(port).is_some()
}

/// A tap name that can stand in a line for dnsmasq.
fn servable(tap: IfName) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if tap.as_str().bytes().all(plain) {
        return Ok(());
    }
    Err(format!(
        "{tap} has characters other than letters, digits, - _ and .: DHCP isn't served on it"
    ))
}

pub(super) fn files(
    tap: IfName,
    port: &CheckedPort,
    hostname: Option<Hostname<'_>>,
    config: &GuestConfig,
    problems: &mut Problems,
) -> Objects {
    let Some((address, net, subnet)) = leased(port) else {
        return Objects::new();
    };
    if let Err(reason) = servable(tap) {
        problems.add("tap", reason);
        return Objects::new();
    }
    let name: Arc<str> = port.port.id.as_str().into();
    // Whatever client identifier: the hardware address alone says who it is,
    // and stays when a guest's boot loader and its system identify differently.
    let host = format!("tag:{tap},{},{address},id:*\n", port.port.mac);
    let hostname = hostname.map(|hostname| hostname.text(address.into()));
    let mut options = of_subnet(net, subnet, config);
    options.insert(26, port.port.mtu.to_string());
    options.extend(hostname.map(|name| (12, name)));
    let mut conditional = Vec::new();
    for (place, option) in port.port.dhcp_options.iter().enumerate() {
        if option.ip_version != 4 {
            continue;
        }
        match option4::check(option, &config.known) {
            Ok(checked) => match checked.condition {
                None => drop(options.insert(checked.number, checked.value)),
                // What is further down wins.
                Some(_) => conditional.push(checked),
            },
            Err(reason) => problems.add(&format!("dhcp_options[{place}]"), reason),
        }
    }
    let mut text = String::new();
    let mut line = |condition: &str, number: u8, value: &str| {
        let comma = if value.is_empty() { "" } else { "," };
        // Writing to a string can't fail.
        let _ = writeln!(text, "tag:{tap},{condition}{number}{comma}{value}");
    };
    // By number: some names of options are refused that by number are served.
    for (number, value) in &options {
        line("", *number, value);
    }
    for checked in &conditional {
        let condition = checked.condition.as_deref().unwrap_or_default();
        line(condition, checked.number, &checked.value);
    }
    let content = |text: String| Value::Content(text.into());
    Objects::from([
        (Key::File(Service::Hosts, Arc::clone(&name)), content(host)),
        (Key::File(Service::Options, name), content(text)),
    ])
}

/// What a subnet's guests are told, by option number.
fn of_subnet(net: Ipv4Net, subnet: &Subnet, config: &GuestConfig) -> BTreeMap<u8, String> {
    let mut options = BTreeMap::from([(1, net.netmask().to_string())]);
    if net.prefix_len() < 31 {
        options.insert(28, net.broadcast().to_string());
    }
    // Without a value the option isn't sent: the default would be the server.
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    };
    let mut gateway = subnet.gateway.and_then(v4);
    let mut routes = String::new();
    let mut route = |to: Ipv4Net, by: Ipv4Addr| {
        let comma = if routes.is_empty() { "" } else { "," };
        let _ = write!(routes, "{comma}{to},{by}");
    };
    // On the link itself where there is no router (RFC 3442).
    let metadata = gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
    if config.metadata {
        route(DHCP_ADDRESS.into(), metadata);
    }
    for further in &subnet.host_routes {
        let (ipnet::IpNet::V4(to), Some(by)) = (further.destination, v4(further.nexthop)) else {
            continue;
        };
        // Neutron: a host route for everything is the gateway.
        if to.prefix_len() == 0 {
            gateway = Some(by);
        } else {
            route(to.trunc(), by);
        }
    }
    // A client that understands this option ignores that of the router.
    if let Some(gateway) = gateway {
        route(Ipv4Net::default(), gateway);
    }
    options.insert(3, gateway.map(|ip| ip.to_string()).unwrap_or_default());
    if !routes.is_empty() {
        // RFC 3442, and Microsoft's number for the same.
        options.insert(249, routes.clone());
        options.insert(121, routes);
    }
    let servers: Vec<String> = dns(&subnet.dns, &config.dns, true)
        .iter()
        .map(ToString::to_string)
        .collect();
    if !servers.is_empty() {
        options.insert(6, servers.join(","));
    }
    options.extend(config.domain.clone().map(|domain| (15, domain)));
    options
}

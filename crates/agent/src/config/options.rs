//! Every option there is, in one table: parsing, checking and the sample file
//! are made from it.

use std::{net::Ipv6Addr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use l2isolate_guest::metadata::Secret;
use l2isolate_model::Mac;

use super::{
    LogFormat, Problem, SourceKind,
    metadata::{MetadataSource, Protocol, Servers},
    types::{
        Addresses, Advertise, Bounds, Communities, Domain, Interfaces, PicksUp, Prefixes, Typed,
        Underlay, Url, UserName, Words,
    },
};

/// Where the commands look for the agent.
pub(crate) const DEFAULT_SOCKET: &str = "/run/l2isolate/agent.sock";

/// Stands for a default that is different on every host.
pub(super) const HOST_NAME: &str = "(the kernel's host name)";

/// An option, described.
pub(super) struct Spec {
    /// The group it stands in.
    pub(super) group: &'static str,
    /// Its key.
    pub(super) name: &'static str,
    /// The value it has where none is given, as text.
    pub(super) default: &'static str,
    /// What it is for, by lines.
    pub(super) help: &'static [&'static str],
    /// What is expected of a value, in words.
    pub(super) expected: &'static str,
    /// Its smallest and largest value.
    pub(super) bounds: Bounds,
    /// What is wrong with a value of the right type.
    pub(super) check: fn(&str) -> Result<(), String>,
}

impl Spec {
    /// What is wrong, with what was expected and what the option is for.
    pub(super) fn explain(&self, reason: &str) -> String {
        let help: Vec<&str> = self.help.iter().map(|line| line.trim()).collect();
        format!(
            "{reason}; expected {}. {}",
            self.expectation(),
            help.join(" ")
        )
    }

    /// What is expected of a value, in words, with the bounds.
    pub(super) fn expectation(&self) -> String {
        match &self.bounds {
            Some(bounds) if *bounds.end() == u64::MAX => {
                format!("{} from {} on", self.expected, bounds.start())
            }
            Some(bounds) => {
                let (min, max) = (bounds.start(), bounds.end());
                format!("{} from {min} to {max}", self.expected)
            }
            None => self.expected.to_owned(),
        }
    }
}

/// Gives the values of options.
pub(super) trait Reader {
    /// The value that is given, or else the default.
    ///
    /// # Errors
    /// If the default itself is wrong.
    fn get<T: Typed>(&mut self, spec: &Spec) -> Result<T, Problem>;
}

macro_rules! options {
    (@bounds) => { None };
    (@bounds $bounds:expr) => { Some($bounds) };
    (@check) => { |_| Ok(()) };
    (@check $check:expr) => { $check };
    ($(
        $(#[doc = $help:literal])+
        [$group:literal] $name:ident: $type:ty = $default:expr
            $(, in $bounds:expr)? $(, check $check:expr)?;
    )+) => {
        /// The agent's configuration.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct Config {
            $($(#[doc = $help])+ pub(crate) $name: $type,)+
            /// How to reach RabbitMQ: `transport_url` with the group
            /// `[oslo_messaging_rabbit]`. None where nobody needs it.
            pub(crate) messaging: Option<l2isolate_oslo::Options>,
        }

        /// All options.
        pub(super) const OPTIONS: &[Spec] = &[$(Spec {
            group: $group,
            name: stringify!($name),
            default: $default,
            help: &[$($help),+],
            expected: <$type as Typed>::EXPECTED,
            bounds: options!(@bounds $($bounds)?),
            check: options!(@check $($check)?),
        }),+];

        impl Config {
            /// Reads every option, in the order of [`OPTIONS`].
            pub(super) fn read(reader: &mut impl Reader) -> Result<Self, Problem> {
                let mut specs = OPTIONS.iter();
                let mut next = || specs.next().ok_or_else(Problem::table);
                Ok(Self { $($name: reader.get(next()?)?,)+ messaging: None })
            }
        }
    };
}

options! {
    /// The name under which the cloud knows this hypervisor.
    ["DEFAULT"] host: String = HOST_NAME;

    /// Where Nova's metadata API is; several are asked in turn.
    ["DEFAULT"] nova_metadata_host: Servers = "127.0.0.1";

    /// Its TCP port.
    ["DEFAULT"] nova_metadata_port: u16 = "8775", in 1..=65_535;

    /// How it is spoken to.
    ["DEFAULT"] nova_metadata_protocol: Protocol = "http";

    /// With https: whether any certificate of it is believed.
    ["DEFAULT"] nova_metadata_insecure: bool = "false";

    /// With https: certificates of authorities (PEM); without a path the system's.
    ["DEFAULT"] auth_ca_cert: Option<PathBuf> = "";

    /// With https: a certificate to show (PEM), and its key.
    ["DEFAULT"] nova_client_cert: Option<PathBuf> = "";

    /// With https: the key of nova_client_cert (PEM).
    ["DEFAULT"] nova_client_priv_key: Option<PathBuf> = "";

    /// What Nova and the metadata proxy share. metadata_secret_file keeps it out
    /// of configuration files.
    ["DEFAULT"] metadata_proxy_shared_secret: Secret = "";

    /// The socket of neutron-metadata-agent.
    ["DEFAULT"] metadata_proxy_socket: PathBuf = "/var/lib/neutron/metadata_proxy";
    /// RabbitMQ, as in neutron.conf; with source = neutron.
    ["DEFAULT"] transport_url: Url = "rabbit://";

    /// The exchange of Neutron's topics, as in neutron.conf.
    ["DEFAULT"] control_exchange: String = "neutron";

    /// How long neutron-server may take for an answer, in seconds.
    ["DEFAULT"] rpc_response_timeout: Duration = "60", in 1..=86_400;

    /// What that grows to while neutron-server is overloaded, in seconds.
    ["DEFAULT"] rpc_response_max_timeout: Duration = "600", in 1..=86_400;

    /// Where intent comes from: a directory of documents, or Neutron by way of
    /// RabbitMQ.
    ["l2isolate"] source: SourceKind = "directory";

    /// How often Neutron is told that the agent lives, in seconds. Less than
    /// half of neutron-server's agent_down_time.
    ["l2isolate"] report_interval: Duration = "30", in 1..=3_600;

    /// How often Neutron is asked for everything that differs, in seconds, give
    /// or take a quarter.
    ["l2isolate"] sync_interval: Duration = "300", in 1..=86_400;

    /// This host's address in the fabric, which Neutron tells other hypervisors
    /// during live migration. By default the first of loopbacks.
    ["l2isolate"] underlay_address: Underlay = "";

    /// Documents of intent: the *.json files below this directory, which is
    /// watched.
    ["l2isolate"] intent_directory: PathBuf = "/etc/l2isolate/intent";

    /// The last intent is kept here, readable by the agent alone.
    ["l2isolate"] state_directory: PathBuf = "/var/lib/l2isolate";

    /// The commands ask the agent through this socket.
    ["l2isolate"] socket: PathBuf = DEFAULT_SOCKET;

    /// The host's own addresses to announce beside its machines'.
    ["l2isolate"] loopbacks: Vec<IpNet> = "";

    /// Hardware address of every tap's host end. Keep it the same on all hosts:
    /// machines that migrate remember it.
    ["l2isolate"] tap_mac: Mac = "02:4c:32:49:53:4f";

    /// Link-local address of every tap's host end, the same on all hosts.
    ["l2isolate"] gateway_link_local: Ipv6Addr = "fe80::1";

    /// Protocol number of the agent's routes (linux/rtnetlink.h). Whatever has
    /// it is the agent's: no other program may use it.
    ["l2isolate"] route_protocol: u8 = "76", in 5..=255, check free_protocol;

    /// Metric of the routes that are announced; those above it, as many as
    /// migration_prepend, are those of guests that leave by live migration. Smaller
    /// than what routing daemons give to what they learn.
    ["l2isolate"] route_metric: u32 = "5", in 1..=0xff_fffe;

    /// How prefixes get into BGP: kernel (a routing daemon picks the routes up by
    /// protocol number and metric), or the agent tells frr (by vtysh), bird (by its
    /// socket and a file) or gobgp (by gRPC).
    ["l2isolate"] advertise: Advertise = "kernel";

    /// With advertise = kernel: the routing daemon (frr or bird) that is asked what
    /// it has made of the routes; kernel: none.
    ["l2isolate"] verify_daemon: PicksUp = "kernel";

    /// How often the routing daemon is read back and compared, in seconds.
    ["l2isolate"] verify_interval: Duration = "1", in 0..=3_600, check not_too_often;

    /// Communities of everything that is announced, with other ways than kernel.
    ["l2isolate"] advertise_communities: Communities = "";

    /// How often the own AS is prepended in the end to guests that leave by live
    /// migration, one more each time: the hops by which another rack is farther from
    /// a top-of-rack switch than its own hosts. 2 where every spine has links to all
    /// of them.
    ["l2isolate"] migration_prepend: u8 = "2", in 1..=8;

    /// How long the fabric has to take in one such time before the next one, in
    /// seconds.
    ["l2isolate"] migration_pause: Duration = "1", in 0..=60;

    /// Whether what still arrives for guests that have left by live migration is sent
    /// after them, by a tunnel to their new host's underlay address (VXLAN-GPE); the
    /// hosts of a cloud all have it or none. Needs uplinks, whose smallest MTU must
    /// have room for machines' packets and 36 bytes more, 56 with IPv6.
    ["l2isolate"] migration_tunnel: bool = "false";

    /// UDP port of that tunnel, the same on all hosts. Open to the other hosts of
    /// migrations alone; networks between hosts must let it pass.
    ["l2isolate"] migration_tunnel_port: u16 = "4790", in 1..=65_535;

    /// The user, of the group frrvty, as which vtysh runs; empty: as the agent.
    ["l2isolate"] advertise_user: UserName = "";

    /// The program vtysh.
    ["l2isolate"] vtysh_program: PathBuf = "/usr/bin/vtysh";

    /// The directory of FRR's vty sockets.
    ["l2isolate"] frr_sockets: PathBuf = "/run/frr";

    /// BIRD's control socket.
    ["l2isolate"] bird_socket: PathBuf = "/run/bird/bird.ctl";

    /// The file with what is announced, which BIRD's configuration includes.
    ["l2isolate"] bird_file: PathBuf = "/etc/bird/l2isolate.conf";

    /// GoBGP's gRPC interface: http://HOST:PORT or unix:///PATH.
    ["l2isolate"] gobgp_address: String = "http://127.0.0.1:50051";

    /// Interfaces to switches: each must have a session, and nothing that came by one
    /// of them is passed on by one of them.
    ["l2isolate"] uplinks: Interfaces = "";

    /// Prefixes from which machines have addresses, for `render-bgp`, and to know
    /// what a routing daemon must not keep with advertise = kernel.
    ["l2isolate"] guest_prefixes: Prefixes = "";

    /// Whether the agent looks for other hosts that announce the same guests outside
    /// of a migration: once a second it has switches answer a packet of one guest's
    /// address with a small hop limit. Needs the firewall and loopbacks; machines of
    /// other hosts are believed nothing if guest_prefixes says which addresses are theirs.
    ["l2isolate"] find_duplicates: bool = "true";

    /// Whether the agent makes the settings of the host as a whole: forwarding,
    /// multipath hash, sizes of the neighbour tables and of connection tracking's.
    ["l2isolate"] manage_host: bool = "true";

    /// Whether the agent enforces security groups and keeps guests to their
    /// addresses, by nftables tables of its own.
    ["l2isolate"] firewall: bool = "true";

    /// What machines can't reach through this host, beside its loopbacks.
    ["l2isolate"] protected_prefixes: Prefixes = "127.0.0.0/8, 169.254.0.0/16, ::1/128, fe80::/10";

    /// Whether machines may ask 169.254.169.254 and fe80::a9fe:a9fe for metadata.
    ["l2isolate"] allow_metadata: bool = "true";

    /// Where metadata comes from: the ports' intent, Nova's metadata API, or
    /// neutron-metadata-agent on this host.
    ["l2isolate"] metadata_source: MetadataSource = "intent";

    /// A file of mode 0600 with the secret, instead of metadata_proxy_shared_secret.
    ["l2isolate"] metadata_secret_file: Option<PathBuf> = "";

    /// Here the agent tells the metadata proxy of each tap.
    ["l2isolate"] metadata_directory: PathBuf = "/run/l2isolate/metadata";

    /// The user that the metadata proxy becomes, if it is started as root.
    ["l2isolate"] metadata_user: String = "l2isolate-metadata";

    /// Connections of one machine to the metadata proxy that are served at once.
    ["l2isolate"] metadata_connections: u32 = "16", in 2..=1024;

    /// Largest body of a machine's request for metadata, in bytes.
    ["l2isolate"] metadata_body: u32 = "1048576", in 0..=1_073_741_824;

    /// How long Nova may take to answer, in seconds.
    ["l2isolate"] metadata_timeout: Duration = "30", in 1..=600;

    /// Whether machines may ask their gateway for names (port 53).
    ["l2isolate"] allow_dns: bool = "false";

    /// First packets of connections from one machine, per second.
    ["l2isolate"] limit_new_connections: u32 = "2000", in 1..=1_000_000;

    /// Connections of one machine at once, each way. With manage_host the table of
    /// connection tracking is made large enough for all machines, with an eighth
    /// of the memory at most.
    ["l2isolate"] limit_connections: u32 = "10000", in 1..=10_000_000;

    /// ARP packets from one machine, per second.
    ["l2isolate"] limit_arp: u32 = "100", in 1..=1_000_000;

    /// ICMPv6 packets from one machine to this host, per second.
    ["l2isolate"] limit_nd: u32 = "100", in 1..=1_000_000;

    /// DHCP packets from one machine, per second.
    ["l2isolate"] limit_dhcp: u32 = "20", in 1..=1_000_000;

    /// Ports and groups (by id, with commas between) whose dropped packets are
    /// shown to the NFLOG group, ten a second of each.
    ["l2isolate"] log_drops: Words = "";

    /// NFLOG group for dropped packets.
    ["l2isolate"] log_drops_group: u32 = "76", in 0..=65_535;

    /// Whether the agent has a dnsmasq of its own serve DHCP to machines.
    ["l2isolate"] dhcp: bool = "true";

    /// Whether the agent answers machines' IPv6 router and neighbour
    /// solicitations and DHCPv6.
    ["l2isolate"] ipv6_services: bool = "true";

    /// What machines are told lies below this directory: files for dnsmasq, and
    /// its leases. Its user must be able to read there.
    ["l2isolate"] guest_directory: PathBuf = "/run/l2isolate/guest";

    /// The program that serves DHCP (Debian: dnsmasq-base).
    ["l2isolate"] dnsmasq_program: PathBuf = "/usr/sbin/dnsmasq";

    /// The user as which it runs.
    ["l2isolate"] dnsmasq_user: String = "dnsmasq", check user_name;

    /// Name servers of machines whose subnet names none, in order.
    ["l2isolate"] dns_servers: Addresses = "";

    /// Domain of all machines; the default is Neutron's.
    ["l2isolate"] dhcp_domain: Domain = "openstacklocal";

    /// How long leases hold, and what is advertised by IPv6, in seconds. With
    /// another value dnsmasq is started anew.
    ["l2isolate"] dhcp_lease_time: Duration = "86400", in 120..=31_536_000;

    /// How long deletions are held when more than half of the ports vanish at
    /// once, in seconds.
    ["l2isolate"] shrink_grace: Duration = "300", in 0..=86_400;

    /// How long the agent goes at most without comparing all of the kernel with
    /// what is wanted, in seconds.
    ["l2isolate"] resync_interval: Duration = "60", in 1..=86_400;

    /// Lines for people, or one JSON object a line.
    ["l2isolate"] log_format: LogFormat = "human";

    /// How much is logged: off, error, warn, info, debug or trace; also by part,
    /// like info,l2isolate_source=debug.
    ["l2isolate"] log_level: String = "info", check log_level;
}

/// Protocol numbers that the kernel and routing daemons use
/// (linux/rtnetlink.h, RTPROT_*).
const TAKEN: &[(u8, &str)] = &[
    (8, "gated"),
    (9, "router advertisements"),
    (10, "MRT"),
    (11, "zebra"),
    (12, "BIRD"),
    (13, "DECnet"),
    (14, "XORP"),
    (15, "netsukuku"),
    (16, "DHCP clients"),
    (17, "mrouted"),
    (18, "keepalived"),
    (42, "babeld"),
    (84, "Open/R"),
    (186, "FRR's BGP"),
    (187, "FRR's IS-IS"),
    (188, "FRR's OSPF"),
    (189, "FRR's RIP"),
    (192, "FRR's EIGRP"),
];

fn free_protocol(text: &str) -> Result<(), String> {
    let taken = text.parse::<u8>().ok();
    match TAKEN.iter().find(|(number, _)| Some(*number) == taken) {
        Some((_, user)) => Err(format!("belongs to {user}, whose routes would be deleted")),
        None => Ok(()),
    }
}

/// What useradd(8) takes by default.
pub(super) fn user_name(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.chars().all(plain) && !text.starts_with('-') {
        Ok(())
    } else {
        Err("is no user's name".to_owned())
    }
}

/// A look takes some of the daemon's time.
fn not_too_often(text: &str) -> Result<(), String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds < 0.1 => Err("is less than 0.1".to_owned()),
        _ => Ok(()),
    }
}

fn log_level(text: &str) -> Result<(), String> {
    for part in text.split(',') {
        let level = part.rsplit('=').next().unwrap_or_default().trim();
        let known = ["off", "error", "warn", "info", "debug", "trace"];
        if !known.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(format!("has {level:?}, which is no level"));
        }
    }
    Ok(())
}

//! The agent's configuration: INI files as OpenStack has them, typed.
//!
//! Later files win, option by option. Groups of others are ignored; in
//! `[l2isolate]` every key must be known. What is wrong is named with file and
//! line, all of it at once.

mod metadata;
mod options;
#[cfg(test)]
mod tests;
mod types;

use std::{
    cell::RefCell,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Serialize, Serializer, ser::SerializeMap};

use l2isolate_advertise::driver::{BirdSettings, Daemon, FrrSettings, GobgpSettings};
use l2isolate_ini::{Ini, Place, Wrong, substitute};
use l2isolate_kernel::stray;
use l2isolate_model::filter::Limit;
use l2isolate_oslo::OptionError;
use l2isolate_plan::{
    Connections, Tunnel,
    filter::{FilterConfig, Limits},
    guest::{GuestConfig, Known},
};
use nix::sys::sysinfo::sysinfo;
pub(crate) use options::{Config, DEFAULT_SOCKET};
use options::{HOST_NAME, OPTIONS, Reader, Spec};
pub(crate) use types::Advertise;
use types::Typed;

/// The group that is the agent's own.
const GROUP: &str = "l2isolate";

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Human,
    /// One object a line.
    Json,
}

/// Where intent comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// A directory of documents.
    Directory,
    /// A neutron-server.
    Neutron,
}

/// What the files come to.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The configuration; options with a bad value have their default.
    pub(crate) config: Config,
    /// What is wrong; nobody should work with the configuration if this isn't
    /// empty.
    pub(crate) problems: Vec<Problem>,
}

/// Something wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where.
    pub(crate) place: Option<Place>,
    /// Group and key.
    pub(crate) option: Option<(&'static str, String)>,
    /// The value.
    pub(crate) value: Option<String>,
    /// What is wrong with it, and what was expected.
    pub(crate) reason: String,
}

impl Problem {
    /// The table of options contradicts itself; tests see to it that it
    /// doesn't.
    fn table() -> Self {
        Self {
            place: None,
            option: None,
            value: None,
            reason: "the table of options is wrong".to_owned(),
        }
    }
}

impl From<Wrong> for Problem {
    fn from(Wrong { place, reason }: Wrong) -> Self {
        Self {
            place: Some(place),
            option: None,
            value: None,
            reason,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { file, line }) = &self.place {
            write!(f, "{}:{line}: ", file.display())?;
        }
        if let Some((group, key)) = &self.option {
            write!(f, "[{group}] {key}")?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            write!(f, ": ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Problem {}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(Place { file, line }) = &self.place {
            map.serialize_entry("file", &file.to_string_lossy())?;
            map.serialize_entry("line", line)?;
        }
        if let Some((group, key)) = &self.option {
            map.serialize_entry("group", group)?;
            map.serialize_entry("key", key)?;
        }
        if let Some(value) = &self.value {
            map.serialize_entry("value", value)?;
        }
        map.serialize_entry("reason", &self.reason)?;
        map.end()
    }
}

/// Why there is no configuration at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file can't be read.
    #[error("the configuration file {path} can't be read: {cause}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A default is wrong.
    #[error(transparent)]
    Default(#[from] Problem),
}

/// Reads configuration files that somebody is to work with.
///
/// # Errors
/// Anything that is wrong with them, all of it at once.
pub(crate) fn load_sound(files: &[PathBuf]) -> anyhow::Result<Config> {
    let loaded = load(files)?;
    if !loaded.problems.is_empty() {
        let all: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
        anyhow::bail!("the configuration is wrong:\n{}", all.join("\n"));
    }
    Ok(loaded.config)
}

/// Reads configuration files; later ones win.
///
/// # Errors
/// If a file can't be read. What is wrong inside is in [`Loaded`].
pub(crate) fn load(files: &[PathBuf]) -> Result<Loaded, Error> {
    let mut ini = Ini::default();
    let mut problems = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path).map_err(|cause| Error::File {
            path: path.clone(),
            cause,
        })?;
        problems.extend(ini.read(&text, path).into_iter().map(Problem::from));
    }
    Ok(typed(&ini, problems)?)
}

fn typed(ini: &Ini, problems: Vec<Problem>) -> Result<Loaded, Problem> {
    let mut reader = Lookup { ini, problems };
    let mut config = Config::read(&mut reader)?;
    let mut problems = reader.problems;
    if config.source == SourceKind::Neutron {
        match messaging(ini, &config) {
            Ok(messaging) => config.messaging = Some(messaging),
            Err(problem) => problems.push(problem),
        }
    }
    let lacking = [
        (config.underlay().is_none(), "underlay_address or loopbacks"),
        (config.uplinks.0.is_empty(), "uplinks"),
    ];
    let lacking = lacking
        .iter()
        .filter(|(lacks, _)| config.migration_tunnel && *lacks);
    problems.extend(lacking.map(|(_, what)| Problem {
        option: Some((GROUP, "migration_tunnel".to_owned())),
        reason: format!("needs {what}, which isn't given"),
        ..Problem::table()
    }));
    let unknown = ini
        .keys(GROUP)
        .filter(|(key, _)| option(GROUP, key).is_none());
    problems.extend(unknown.map(|(key, value)| Problem {
        place: Some(value.place.clone()),
        option: Some((GROUP, key.to_owned())),
        value: None,
        reason: format!("is no option{}", hint(key)),
    }));
    Ok(Loaded { config, problems })
}

/// Reads what belongs to oslo.messaging as it reads it itself.
fn messaging(ini: &Ini, config: &Config) -> Result<l2isolate_oslo::Options, Problem> {
    let group = l2isolate_oslo::options::GROUP;
    let wrong = RefCell::new(None);
    let option = |name: &str| {
        let value = ini.get(group, name)?;
        let lookup = |group: &str, key: &str| text_of(ini, group, key);
        match substitute(group, &value.text, &lookup) {
            Ok(text) => Some(text),
            Err(reason) => {
                *wrong.borrow_mut() = Some(Problem {
                    place: Some(value.place.clone()),
                    option: Some((group, name.to_owned())),
                    value: Some(value.text.clone()),
                    reason,
                });
                None
            }
        }
    };
    let options = l2isolate_oslo::Options::read(&config.transport_url.0, option);
    if let Some(problem) = wrong.into_inner() {
        return Err(problem);
    }
    let options = options.map_err(|error| match error {
        OptionError::Url(error) => Problem {
            option: Some(("DEFAULT", "transport_url".to_owned())),
            reason: error.to_string(),
            ..Problem::table()
        },
        OptionError::Option {
            name,
            value,
            reason,
        } => Problem {
            // In the URL's query if it is in no file.
            place: ini.get(group, name).map(|value| value.place.clone()),
            option: Some((group, name.to_owned())),
            value: Some(value),
            reason: reason.to_owned(),
        },
    })?;
    Ok(l2isolate_oslo::Options {
        exchange: config.control_exchange.clone(),
        ..options
    })
}

impl Config {
    /// What of it the plan is made with.
    pub(crate) fn plan(&self) -> l2isolate_plan::Config {
        l2isolate_plan::Config {
            route_metric: self.route_metric,
            leaving_steps: self.migration_prepend,
            loopbacks: self.loopbacks.clone(),
            tap_mac: self.tap_mac,
            gateway_link_local: self.gateway_link_local,
            dhcp: self.dhcp,
            metadata: self.allow_metadata,
            manage_host: self.manage_host,
            tunnel: self.tunnel(),
            connections: self.firewall.then(|| Connections {
                per_port: self.connections_per_port(),
                most: connections_that_fit(memory()),
            }),
        }
    }

    /// This host's address in the fabric.
    pub(crate) fn underlay(&self) -> Option<IpAddr> {
        let first = self.loopbacks.first().map(IpNet::addr);
        self.underlay_address.0.or(first)
    }

    /// The tunnel of live migrations; whoever knows the uplinks says how large they
    /// are.
    fn tunnel(&self) -> Option<Tunnel> {
        self.underlay()
            .filter(|_| self.migration_tunnel)
            .map(|address| Tunnel {
                address,
                port: self.migration_tunnel_port,
                underlay: 0,
            })
    }

    /// The routing daemon that is spoken with that way; none for the kernel's.
    pub(crate) fn daemon(&self, way: Advertise) -> Option<Daemon> {
        match way {
            Advertise::Kernel => None,
            Advertise::Frr => Some(Daemon::Frr(FrrSettings {
                vtysh: self.vtysh_program.clone(),
                sockets: self.frr_sockets.clone(),
                user: self.advertise_user.0.clone(),
            })),
            Advertise::Bird => Some(Daemon::Bird(BirdSettings {
                socket: self.bird_socket.clone(),
                file: self.bird_file.clone(),
            })),
            Advertise::Gobgp => Some(Daemon::Gobgp(GobgpSettings {
                address: self.gobgp_address.clone(),
            })),
        }
    }

    /// What one machine may have open: its own connections, and those to it.
    pub(crate) fn connections_per_port(&self) -> u32 {
        self.limit_connections.saturating_mul(2)
    }

    /// What of it guests' services are planned with; `known` is what dnsmasq
    /// knows of options.
    pub(crate) fn guest(&self, known: Known) -> GuestConfig {
        GuestConfig {
            dhcp: self.dhcp,
            ipv6: self.ipv6_services,
            dns: self.dns_servers.0.clone(),
            domain: self.dhcp_domain.0.clone(),
            lifetime: u32::try_from(self.dhcp_lease_time.as_secs()).unwrap_or(u32::MAX),
            metadata: self.allow_metadata,
            known,
        }
    }

    /// The NFLOG group to which the firewall shows what says that another host announces
    /// the same, where somebody is to listen to it.
    pub(crate) fn strays(&self) -> Option<u16> {
        let wanted = self.find_duplicates && self.firewall && !self.loopbacks.is_empty();
        wanted.then_some(stray::GROUP)
    }

    /// What of it the firewall is planned with.
    pub(crate) fn filter(&self) -> FilterConfig {
        let limit = |rate: u32| Limit {
            rate,
            burst: rate.saturating_mul(2),
        };
        let protected = self.protected_prefixes.0.iter().chain(&self.loopbacks);
        FilterConfig {
            protected: protected.copied().collect(),
            gateway_link_local: Some(self.gateway_link_local),
            metadata: self.allow_metadata,
            dns: self.allow_dns,
            tunnel: self.tunnel().map(|tunnel| tunnel.port),
            uplinks: self.uplinks.0.clone(),
            strays: self.strays(),
            limits: Limits {
                new: limit(self.limit_new_connections),
                connections: self.limit_connections,
                arp: limit(self.limit_arp),
                nd: limit(self.limit_nd),
                dhcp: limit(self.limit_dhcp),
                ..Limits::default()
            },
            log_group: u16::try_from(self.log_drops_group).unwrap_or(u16::MAX),
            log: self.log_drops.0.clone(),
            ..FilterConfig::default()
        }
    }
}

/// Connections are given an eighth of the memory; one takes some 384 bytes
/// with all that belongs to it (`struct nf_conn` and its extensions).
fn connections_that_fit(memory: u64) -> u32 {
    u32::try_from(memory / 8 / 384).unwrap_or(u32::MAX)
}

/// The machine's memory in bytes.
fn memory() -> u64 {
    // It only fails for a wrong address.
    sysinfo().map_or(0, |info| info.ram_total())
}
/// All that is said about what is wrong with a secret.
const HIDDEN: &str = "is not what it should be (a $ that begins no reference is written $$)";

struct Lookup<'a> {
    ini: &'a Ini,
    problems: Vec<Problem>,
}

impl Reader for Lookup<'_> {
    fn get<T: Typed>(&mut self, spec: &Spec) -> Result<T, Problem> {
        let read = |text: &str| {
            let value = T::parse(text, &spec.bounds)?;
            (spec.check)(text)?;
            Ok(value)
        };
        if let Some(value) = self.ini.get(spec.group, spec.name) {
            let text = substitute(spec.group, &value.text, &|group, key| {
                text_of(self.ini, group, key)
            });
            // What is wrong with a reference quotes the value.
            let text = text.map_err(|reason| match T::SECRET {
                true => HIDDEN.to_owned(),
                false => reason,
            });
            match text.and_then(|text| read(&text)) {
                Ok(value) => return Ok(value),
                Err(reason) => self.problems.push(Problem {
                    place: Some(value.place.clone()),
                    option: Some((spec.group, spec.name.to_owned())),
                    value: (!T::SECRET).then(|| value.text.clone()),
                    reason: spec.explain(&reason),
                }),
            }
        }
        read(&default_of(spec)).map_err(|reason| Problem {
            place: None,
            option: Some((spec.group, spec.name.to_owned())),
            value: Some(default_of(spec)),
            reason,
        })
    }
}

/// The text of an option, ours or another's, as it is written or by default.
fn text_of(ini: &Ini, group: &str, key: &str) -> Option<String> {
    ini.get(group, key)
        .map(|value| value.text.clone())
        .or_else(|| option(group, key).map(default_of))
}

fn option(group: &str, name: &str) -> Option<&'static Spec> {
    let is_it = |spec: &&Spec| spec.group.eq_ignore_ascii_case(group) && spec.name == name;
    OPTIONS.iter().find(is_it)
}

fn default_of(spec: &Spec) -> String {
    if spec.default != HOST_NAME {
        return spec.default.to_owned();
    }
    let name = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname"));
    match name.as_deref().map(str::trim) {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}

/// What may have been meant by a key that is no option.
fn hint(key: &str) -> String {
    if let Some(spec) = OPTIONS.iter().find(|s| s.name == key && s.group != GROUP) {
        return format!(" of this group; it belongs to [{}]", spec.group);
    }
    let own = OPTIONS.iter().filter(|spec| spec.group == GROUP);
    let nearest = own
        .map(|spec| (distance(key, spec.name), spec.name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3));
    nearest.map_or_else(String::new, |(_, name)| format!("; did you mean {name}?"))
}

/// How many characters must be put in, taken out or changed to make one of the
/// other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (cell, b) in row.iter_mut().skip(1).zip(other.chars()) {
            let cost = (diagonal + usize::from(a != b))
                .min(left + 1)
                .min(*cell + 1);
            diagonal = *cell;
            *cell = cost;
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

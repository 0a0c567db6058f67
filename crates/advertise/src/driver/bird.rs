//! BIRD, by its control socket and a file that its configuration includes:
//! each prefix is a route of a static protocol of ours, with its attributes.
//!
//! The file is read by a BIRD that starts, so it announces at once what was
//! announced before. What is ours comes from the protocols [`PROTOCOLS`].
//!
//! On the socket, a line starts with a four-digit code; `0` ends an answer, `8`
//! and `9` are errors, a space continues the code before (BIRD's
//! `nest/cli.c`). What can break it: the words of `show protocols all` and
//! `show route all`.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use ipnet::IpNet;
use l2isolate_model::announce::{Announcements, Attributes, Community, Origin};

use super::{
    Change, Driver, Failure, FailureKind, Observed, PATIENCE, Peer, Reader, all, is_at_least,
};
use crate::{Family, replace};

/// The static protocols of the included file, by family.
pub(crate) const PROTOCOLS: [&str; 2] = ["l2isolate4", "l2isolate6"];
/// Older ones don't know `bgp_origin` and `bgp_community` of a static route.
const LEAST: [u32; 3] = [2, 0, 8];
/// What BIRD brings into BGP itself: static routes, and what it picked up from
/// the kernel.
const LOCAL: &str = "source = RTS_STATIC || source = RTS_INHERIT";

/// Where BIRD is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its control socket.
    pub socket: PathBuf,
    /// The file that its configuration includes.
    pub file: PathBuf,
}

/// A driver of BIRD.
pub struct Bird {
    settings: Settings,
    /// What the file has, once it is known.
    given: Option<Announcements>,
}

impl Bird {
    /// One that has asked nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            given: None,
        }
    }

    fn connect(&self) -> Result<Connection, Failure> {
        Connection::open(&self.settings.socket).map_err(|error| {
            let shown = self.settings.socket.display();
            match error.kind() {
                ErrorKind::PermissionDenied => Failure::new(
                    FailureKind::Permission,
                    format!("the agent may not open {shown}"),
                    "run the agent as root, or put its user into BIRD's group",
                ),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::new(
                    FailureKind::Absent,
                    format!("BIRD doesn't answer at {shown}: {error}"),
                    "start BIRD, or set bird_socket",
                ),
                _ => odd(&format!("{shown}: {error}")),
            }
        })
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), Failure> {
        let mut connection = self.connect()?;
        let known = match self.given.take() {
            Some(given) => given,
            None => observe(&mut connection)?.rib,
        };
        let mut given = known;
        for change in changes {
            match change {
                Change::Set(prefix, attributes) => {
                    given.insert(*prefix, attributes.clone());
                }
                Change::Delete(prefix) => {
                    given.remove(prefix);
                }
            }
        }
        let prepends = given.values().any(|attributes| attributes.prepend > 0);
        let asn = if prepends {
            own_as(&mut connection)?
        } else {
            0
        };
        let text = file(&given, asn);
        let path = &self.settings.file;
        replace(path, text.as_bytes()).map_err(|error| {
            let shown = path.display();
            let kind = match error.kind() {
                ErrorKind::PermissionDenied => FailureKind::Permission,
                _ => FailureKind::Refused,
            };
            Failure::new(
                kind,
                format!("{shown} can't be written: {error}"),
                "make its directory writable for the agent, or set bird_file",
            )
        })?;
        connection.ask("configure")?;
        // One that somebody disabled stays so through a reconfiguration.
        let enabled = connection.ask("enable \"l2isolate*\"");
        enabled.map_err(|_| {
            Failure::new(
                FailureKind::Refused,
                format!("BIRD doesn't read {}", path.display()),
                format!(
                    "put `include \"{}\";` into its configuration",
                    path.display()
                ),
            )
        })?;
        self.given = Some(given);
        Ok(())
    }
}

impl Reader for Bird {
    fn observe(&mut self) -> Result<Observed, Failure> {
        observe(&mut self.connect()?)
    }

    fn resend(&mut self, peer: &str) -> Result<(), Failure> {
        let mut connection = self.connect()?;
        let sessions = sessions(&connection.ask("show protocols all")?);
        for session in sessions.iter().filter(|session| session.peer == peer) {
            connection.ask(&format!("reload out {}", session.protocol))?;
        }
        Ok(())
    }
}

impl Driver for Bird {
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), Failure>> {
        match self.write(changes) {
            Ok(()) => changes.iter().map(|_| Ok(())).collect(),
            Err(failure) => all(changes, &failure),
        }
    }
}

fn observe(connection: &mut Connection) -> Result<Observed, Failure> {
    let version = connection.version.clone();
    if !is_at_least(&version, &LEAST) {
        return Err(Failure::new(
            FailureKind::Version,
            format!("BIRD {version} is too old to be driven"),
            "install BIRD 2.0.8 or newer, or set advertise = kernel",
        ));
    }
    let mut observed = Observed {
        daemon: format!("BIRD {version}"),
        ..Observed::default()
    };
    for family in Family::ALL {
        let table = table(family);
        let command = format!("show route table {table} where {LOCAL} all");
        for (prefix, route) in routes(&connection.ask(&command)?) {
            match PROTOCOLS.contains(&route.protocol.as_str()) {
                true => observed.rib.insert(prefix, route.attributes),
                false => observed.foreign.insert(prefix, route.attributes),
            };
        }
    }
    for session in sessions(&connection.ask("show protocols all")?) {
        let mut peer = session.about;
        if peer.established {
            for family in Family::ALL {
                let (table, name) = (table(family), &session.protocol);
                let command = format!("show route table {table} export {name}");
                for (prefix, _) in routes(&connection.ask(&command)?) {
                    let own = observed.rib.contains_key(&prefix)
                        || observed.foreign.contains_key(&prefix);
                    match own {
                        true => peer.sent.insert(prefix),
                        false => peer.leaked.insert(prefix),
                    };
                }
            }
        }
        // An interface may have a session that is down beside one that is up.
        let known = observed.peers.get(&session.peer);
        if known.is_none_or(|known| !known.established) {
            observed.peers.insert(session.peer, peer);
        }
    }
    Ok(observed)
}

fn own_as(connection: &mut Connection) -> Result<u32, Failure> {
    let lines = connection.ask("show protocols all")?;
    let own = lines.iter().find_map(|line| field(line, "Local AS:"));
    own.and_then(|text| text.parse().ok()).ok_or_else(|| {
        Failure::new(
            FailureKind::Answer,
            "BIRD has no BGP session, so its AS isn't known",
            "give it one: `l2isolate render-bgp --daemon bird` writes it",
        )
    })
}

fn table(family: Family) -> &'static str {
    match family {
        Family::V4 => "master4",
        Family::V6 => "master6",
    }
}

/// The included file.
fn file(given: &Announcements, asn: u32) -> String {
    let mut out =
        String::from("# Written by the l2isolate agent, and written anew with every change.\n");
    for (family, protocol) in Family::ALL.into_iter().zip(PROTOCOLS) {
        // Above BGP's 100: what is here is announced from here, also while
        // another host announces it.
        let _ = writeln!(
            out,
            "protocol static {protocol} {{\n  ipv{} {{ preference 200; }};",
            family.digit()
        );
        for (prefix, attributes) in given.iter().filter(|(prefix, _)| family.has(prefix)) {
            let _ = write!(out, "  route {prefix} blackhole {{");
            let origin = match attributes.origin {
                Origin::Igp => "ORIGIN_IGP",
                Origin::Egp => "ORIGIN_EGP",
                Origin::Incomplete => "ORIGIN_INCOMPLETE",
            };
            let _ = write!(out, " bgp_origin = {origin};");
            for Community(high, low) in &attributes.communities {
                let _ = write!(out, " bgp_community.add(({high},{low}));");
            }
            for _ in 0..attributes.prepend {
                let _ = write!(out, " bgp_path.prepend({asn});");
            }
            out.push_str(" };\n");
        }
        out.push_str("}\n");
    }
    out
}

/// A route that BIRD lists.
#[derive(Debug, Default, PartialEq, Eq)]
struct Route {
    protocol: String,
    attributes: Attributes,
}

/// Routes of `show route`, with or without `all`.
fn routes(lines: &[String]) -> Vec<(IpNet, Route)> {
    let mut routes: Vec<(IpNet, Route)> = Vec::new();
    let mut prefix = None;
    for line in lines {
        if let Some(attribute) = line.strip_prefix('\t') {
            if let Some((_, route)) = routes.last_mut() {
                take(&mut route.attributes, attribute);
            }
            continue;
        }
        // A further route to the same prefix starts with spaces.
        let first = line.split(' ').next().unwrap_or_default();
        if let Ok(net) = first.parse::<IpNet>() {
            prefix = Some(net);
        } else if !first.is_empty() {
            continue;
        }
        let protocol = line
            .split_once(" [")
            .and_then(|(_, rest)| rest.split([' ', ']']).next());
        if let Some((prefix, protocol)) = prefix.zip(protocol) {
            let route = Route {
                protocol: protocol.to_owned(),
                attributes: Attributes {
                    origin: Origin::Incomplete,
                    ..Attributes::default()
                },
            };
            routes.push((prefix, route));
        }
    }
    routes
}

fn take(attributes: &mut Attributes, line: &str) {
    let Some((name, value)) = line.split_once(": ") else {
        return;
    };
    match name {
        "BGP.origin" => {
            attributes.origin = match value {
                "IGP" => Origin::Igp,
                "EGP" => Origin::Egp,
                _ => Origin::Incomplete,
            }
        }
        "BGP.as_path" => {
            let length = value.split_ascii_whitespace().count();
            attributes.prepend = u8::try_from(length).unwrap_or(u8::MAX);
        }
        "BGP.community" => {
            let pair = |word: &str| {
                let (high, low) = word.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
                Some(Community(high.parse().ok()?, low.parse().ok()?))
            };
            let all = value.split_ascii_whitespace();
            attributes.communities = all.filter_map(pair).collect();
        }
        _ => {}
    }
}

/// A BGP protocol.
#[derive(Debug, Default, PartialEq, Eq)]
struct Session {
    protocol: String,
    peer: String,
    about: Peer,
}

/// The BGP protocols of `show protocols all`.
fn sessions(lines: &[String]) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    let mut in_bgp = false;
    for line in lines {
        if !line.starts_with(' ') && !line.is_empty() {
            // Name, protocol, table, state, since, info.
            let mut fields = line.split_ascii_whitespace();
            let (name, kind) = (fields.next().unwrap_or_default(), fields.next());
            in_bgp = kind == Some("BGP");
            if in_bgp {
                sessions.push(Session {
                    protocol: name.to_owned(),
                    peer: name.to_owned(),
                    about: Peer {
                        state: fields.nth(1).unwrap_or_default().to_owned(),
                        ..Peer::default()
                    },
                });
            }
            continue;
        }
        let Some(session) = sessions.last_mut().filter(|_| in_bgp) else {
            continue;
        };
        if let Some(state) = field(line, "BGP state:") {
            session.about.established = state == "Established";
            session.about.state = state.to_owned();
        } else if let Some(address) = field(line, "Neighbor address:") {
            session.peer = match address.split_once('%') {
                Some((_, interface)) => interface.to_owned(),
                None => address.to_owned(),
            };
        } else if let Some(range) = field(line, "Neighbor range:") {
            if let Some((_, interface)) = range.split_once('%') {
                session.peer = interface.to_owned();
            }
        } else if let Some(asn) = field(line, "Neighbor AS:") {
            session.about.remote_as = asn.parse().ok().filter(|asn| *asn > 0);
        } else if let Some(counts) = field(line, "Routes:") {
            let received = counts.split(' ').next().and_then(|word| word.parse().ok());
            session.about.received += received.unwrap_or(0_u64);
        }
    }
    sessions
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.trim_start().strip_prefix(name).map(str::trim)
}

/// A connection to the control socket.
struct Connection {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    version: String,
}

impl Connection {
    fn open(path: &PathBuf) -> std::io::Result<Self> {
        let writer = UnixStream::connect(path)?;
        writer.set_read_timeout(Some(PATIENCE))?;
        writer.set_write_timeout(Some(PATIENCE))?;
        let reader = BufReader::with_capacity(1 << 16, writer.try_clone()?);
        let mut connection = Self {
            writer,
            reader,
            version: String::new(),
        };
        let greeting = connection.answer().map_err(std::io::Error::other)?;
        // `BIRD 2.0.12 ready.`
        let words = greeting.first().map(|line| line.split(' '));
        let version = words.and_then(|mut words| words.nth(1));
        connection.version = version.unwrap_or_default().to_owned();
        Ok(connection)
    }

    /// One command; the answer's lines without their codes.
    fn ask(&mut self, command: &str) -> Result<Vec<String>, Failure> {
        let sent = self.writer.write_all(format!("{command}\n").as_bytes());
        sent.map_err(|error| odd(&format!("`{command}`: {error}")))?;
        self.answer().map_err(|what| {
            Failure::new(
                FailureKind::Refused,
                format!("BIRD answers `{command}` with: {what}"),
                "see its log and its configuration",
            )
        })
    }

    fn answer(&mut self) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        let mut text = String::new();
        loop {
            text.clear();
            match self.reader.read_line(&mut text) {
                Ok(0) => return Err("it hung up".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
            let line = text.trim_end_matches('\n');
            if let Some(rest) = line.strip_prefix(' ') {
                lines.push(rest.to_owned());
                continue;
            }
            let (code, rest) = line.split_at_checked(4).unwrap_or((line, ""));
            let said = rest.get(1..).unwrap_or_default();
            if code.starts_with(['8', '9']) {
                return Err(said.to_owned());
            }
            lines.push(said.to_owned());
            if code.starts_with('0') && !rest.starts_with('-') {
                return Ok(lines);
            }
        }
    }
}

fn odd(what: &str) -> Failure {
    Failure::new(
        FailureKind::Answer,
        format!("BIRD's control socket: {what}"),
        "see its log",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn routes_are_read_with_their_attributes() {
        let listed = lines(
            "Table master4:\n\
             10.252.0.5/32        blackhole [l2isolate4 18:30:34.711] * (200)\n\
             \tType: static univ\n\tBGP.origin: IGP\n\tBGP.as_path: 65010 65010\n\
             \tBGP.community: (65535,0) (65001,20)\n\
             10.252.0.6/32        unicast [kernel4 2026-11-28 18:30:34] * (200)\n\
             \tdev tap1\n\
             \x20                    unicast [t1_1 18:30:34.711 from fe80::1%t1] (100) [AS65001i]\n",
        );
        let all = routes(&listed);
        assert_eq!(all.len(), 3);
        assert_eq!(all[2].1.protocol, "t1_1");
        let routes: BTreeMap<IpNet, Route> = routes(&listed[..6]).into_iter().collect();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let five = &routes[&net("10.252.0.5/32")];
        assert_eq!(five.protocol, "l2isolate4");
        assert!(five.attributes.graceful_shutdown());
        assert_eq!(five.attributes.prepend, 2);
        assert_eq!(five.attributes.origin, Origin::Igp);
        assert!(five.attributes.communities.contains(&Community(65001, 20)));
    }

    #[test]
    fn sessions_are_found_by_their_interface() {
        let listed = lines(
            "Name       Proto      Table      State  Since         Info\n\
             static1    Static     master4    up     18:30:34.711  \n\
             \x20 Channel ipv4\n\
             \x20   Routes:         9 imported, 0 exported, 9 preferred\n\
             t2         BGP        ---        up     18:30:38.636  Established   \n\
             \x20 BGP state:          Established\n\
             \x20   Neighbor address: fe80::1%t2\n\
             \x20   Neighbor AS:      65002\n\
             \x20   Local AS:         65010\n\
             \x20 Channel ipv4\n\
             \x20   Routes:         1 imported, 2000 exported, 0 preferred\n\
             \x20 Channel ipv6\n\
             \x20   Routes:         2 imported, 5 exported, 0 preferred\n\
             t3         BGP        ---        start  18:30:34.711  Passive       \n\
             \x20 BGP state:          Passive\n",
        );
        let sessions = sessions(&listed);
        assert_eq!(sessions.len(), 2);
        let about = &sessions[0].about;
        assert_eq!(sessions[0].peer, "t2");
        assert!(about.established && about.received == 3 && about.remote_as == Some(65002));
        assert!(!sessions[1].about.established);
        assert_eq!(sessions[1].about.state, "Passive");
    }
}

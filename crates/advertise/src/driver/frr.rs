//! FRR's bgpd, by vtysh: each prefix is a `network` with a route-map that has
//! its attributes.
//!
//! Nothing is saved to FRR's own configuration, so a bgpd that restarts has
//! none of it and gets all of it again. What is ours carries a weight of our
//! own ([`WEIGHT`]), which never leaves the router.
//!
//! What can break it: vtysh's way to name failed lines of a file, and bgpd's
//! JSON (`frr_json`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    os::unix::{fs::MetadataExt as _, net::UnixStream, process::CommandExt as _},
    path::PathBuf,
    process::Command,
};

use ipnet::IpNet;
use l2isolate_model::announce::{Attributes, Origin};
use nix::unistd::{Group, User};

use super::{
    Change, Driver, Failure, FailureKind, Observed, Reader, all, frr_json, is_at_least,
    process::{self, Output},
};
use crate::{
    Family,
    frr::{told, word},
};

/// The weight of our paths: above the usual 32768 of what bgpd brings in
/// itself, so that it is also chosen.
pub(super) const WEIGHT: u64 = 32768 + 76;
/// Older ones don't have `json detail` with what was sent to whom.
const LEAST: [u32; 2] = [8, 0];
/// The group whose members may use vtysh.
const GROUP: &str = "frrvty";
/// Changes in one run of vtysh, so that one run takes no longer than a second.
const BATCH: usize = 4096;

/// Where FRR is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The program vtysh.
    pub vtysh: PathBuf,
    /// The directory of the daemons' vty sockets.
    pub sockets: PathBuf,
    /// The user as which vtysh runs, with the group `frrvty`; without one as
    /// whoever runs this.
    pub user: Option<String>,
}

/// A driver of bgpd.
pub struct Frr {
    settings: Settings,
    /// The bgpd that `defined` and `given` are about, by its socket.
    socket: Option<(u64, i64, i64)>,
    asn: Option<u32>,
    /// Route-maps that bgpd was given.
    defined: BTreeSet<String>,
    given: BTreeMap<IpNet, Attributes>,
}

impl Frr {
    /// One that has asked nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            socket: None,
            asn: None,
            defined: BTreeSet::new(),
            given: BTreeMap::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.settings.sockets.join("bgpd.vty")
    }

    fn vtysh(&self) -> Result<Command, Failure> {
        let mut command = Command::new(&self.settings.vtysh);
        command.arg("--vty_socket").arg(&self.settings.sockets);
        command.args(["-d", "bgpd"]);
        if let Some(user) = &self.settings.user {
            let missing = |what: &str, name: &str| {
                Failure::new(
                    FailureKind::Permission,
                    format!("there is no {what} {name} to run vtysh with"),
                    format!("make it, in the group {GROUP}, or set advertise_user"),
                )
            };
            let id = User::from_name(user).ok().flatten();
            let id = id.ok_or_else(|| missing("user", user))?;
            let group = Group::from_name(GROUP).ok().flatten();
            let group = group.ok_or_else(|| missing("group", GROUP))?;
            command.uid(id.uid.as_raw()).gid(group.gid.as_raw());
        }
        Ok(command)
    }

    /// Runs vtysh; its exit status says whether all lines were taken.
    fn run(&self, mut command: Command, input: Option<&str>) -> Result<Output, Failure> {
        let program = self.settings.vtysh.display();
        let output = process::run(&mut command, input).map_err(|error| {
            if error.kind() == std::io::ErrorKind::TimedOut {
                return Failure::new(
                    FailureKind::Answer,
                    format!("bgpd doesn't answer {program}: {error}"),
                    "bgpd is stuck or overloaded: see its log",
                );
            }
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => FailureKind::Absent,
                std::io::ErrorKind::PermissionDenied => FailureKind::Permission,
                _ => FailureKind::Answer,
            };
            Failure::new(
                kind,
                format!("{program} can't be run: {error}"),
                "install frr, or name it with vtysh_program",
            )
        })?;
        if output.stderr.contains("failed to connect to any daemons") {
            return Err(self.away());
        }
        Ok(output)
    }

    /// Why bgpd can't be reached.
    fn away(&self) -> Failure {
        let path = self.path();
        let shown = path.display();
        match UnixStream::connect(&path) {
            Ok(_) => Failure::new(
                FailureKind::Permission,
                format!("vtysh may not open {shown}"),
                match &self.settings.user {
                    Some(user) => format!("put the user {user} into the group {GROUP}"),
                    None => "run the agent as root, or set advertise_user".to_owned(),
                },
            ),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Failure::new(
                FailureKind::Permission,
                format!("the agent may not open {shown}"),
                format!("set advertise_user to a user of the group {GROUP}"),
            ),
            Err(error) => Failure::new(
                FailureKind::Absent,
                format!("bgpd doesn't answer at {shown}: {error}"),
                "start FRR with bgpd=yes in /etc/frr/daemons, or set frr_sockets",
            ),
        }
    }

    fn ask(&self, questions: &[&str]) -> Result<String, Failure> {
        let mut command = self.vtysh()?;
        for question in questions {
            command.args(["-c", question]);
        }
        let output = self.run(command, None)?;
        if output.success {
            return Ok(output.stdout);
        }
        // An old one says what it is before it refuses what it doesn't know.
        if let Some(version) = version(&output.stdout) {
            new_enough(version)?;
        }
        Err(Failure::new(
            FailureKind::Answer,
            format!("bgpd answers {questions:?} with {:?}", output.last_words()),
            "see its log",
        ))
    }

    /// Forgets what another bgpd was given.
    fn recognise(&mut self) {
        let socket = fs::metadata(self.path())
            .ok()
            .map(|meta| (meta.ino(), meta.ctime(), meta.ctime_nsec()));
        if socket != self.socket {
            self.socket = socket;
            self.asn = None;
            self.defined.clear();
            self.given.clear();
        }
    }

    fn asn(&mut self) -> Result<u32, Failure> {
        if let Some(asn) = self.asn {
            return Ok(asn);
        }
        let asn = frr_json::asn(&self.ask(&["show bgp summary json"])?)?;
        self.asn = Some(asn);
        Ok(asn)
    }

    /// Lines for vtysh, and which of them is whose change. The `last` of an order
    /// say as well that bgpd was told: see `render`.
    fn lines(
        &mut self,
        changes: &[Change],
        last: bool,
    ) -> Result<(String, BTreeMap<usize, usize>), Failure> {
        let mut out = Lines::default();
        let asn = self.asn()?;
        for change in changes {
            let Change::Set(prefix, attributes) = change else {
                continue;
            };
            let name = route_map(attributes);
            // What is asked for once more was undone, perhaps with its map.
            let again = self.given.get(prefix) == Some(attributes);
            if (again || !self.defined.contains(&name)) && out.maps.insert(name.clone()) {
                define(&mut out, &name, attributes, asn);
            }
        }
        let mut places = BTreeMap::new();
        out.line(format_args!("router bgp {asn}"));
        for family in Family::ALL {
            out.line(format_args!(
                " address-family ipv{} unicast",
                family.digit()
            ));
            for (index, change) in changes.iter().enumerate() {
                if !family.has(change.key()) {
                    continue;
                }
                match change {
                    Change::Set(prefix, attributes) => out.line(format_args!(
                        "  network {prefix} route-map {}",
                        route_map(attributes)
                    )),
                    Change::Delete(prefix) => out.line(format_args!("  no network {prefix}")),
                }
                places.insert(out.count, index);
            }
            out.line(format_args!(" exit-address-family"));
        }
        out.line(format_args!("exit"));
        if last {
            for family in Family::ALL {
                let (word, list) = (word(family), told(family));
                out.line(format_args!("{word} prefix-list {list} seq 1 permit any"));
            }
        }
        self.defined.append(&mut out.maps);
        Ok((out.text, places))
    }

    fn batch(&mut self, changes: &[Change], last: bool) -> Vec<Result<(), Failure>> {
        let outcome = self.lines(changes, last).and_then(|(text, places)| {
            let mut command = self.vtysh()?;
            command.args(["-f", "/dev/stdin"]);
            Ok((self.run(command, Some(&text))?, places))
        });
        let (output, places) = match outcome {
            Ok(outcome) => outcome,
            Err(failure) => {
                self.forget();
                return all(changes, &failure);
            }
        };
        let mut results: Vec<Result<(), Failure>> = changes.iter().map(|_| Ok(())).collect();
        if output.success {
            self.remember(changes);
            return results;
        }
        let said = format!("{}\n{}", output.stdout, output.stderr);
        let mut unplaced = None;
        for (number, text) in said.lines().filter_map(failed_line) {
            let failure = Failure::new(
                FailureKind::Refused,
                format!("bgpd refuses a line: {text}"),
                "see its log",
            );
            match places
                .get(&number)
                .and_then(|index| Some((changes.get(*index)?, results.get_mut(*index)?)))
            {
                // It isn't there: that was what was asked for.
                Some((Change::Delete(_), _)) => {}
                Some((Change::Set(..), result)) => *result = Err(failure),
                None => unplaced = Some(failure),
            }
        }
        self.forget();
        match unplaced {
            Some(failure) => all(changes, &failure),
            None => results,
        }
    }

    fn remember(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Set(prefix, attributes) => {
                    self.given.insert(*prefix, attributes.clone());
                }
                Change::Delete(prefix) => {
                    self.given.remove(prefix);
                }
            }
        }
    }

    /// Defines everything anew with the next change.
    fn forget(&mut self) {
        self.socket = None;
        self.asn = None;
        self.defined.clear();
        self.given.clear();
    }
}

impl Reader for Frr {
    fn observe(&mut self) -> Result<Observed, Failure> {
        let answer = self.ask(&[
            "show version",
            "show bgp summary json",
            "show bgp ipv4 unicast json detail",
            "show bgp ipv6 unicast json detail",
        ])?;
        let version = version(&answer).unwrap_or_default();
        new_enough(version)?;
        let daemon = format!("FRR {version}");
        let json = answer.find("\n{").map_or("", |at| &answer[at..]);
        let observed = frr_json::observed(json)?;
        Ok(Observed { daemon, ..observed })
    }

    fn resend(&mut self, peer: &str) -> Result<(), Failure> {
        let clear = Family::ALL
            .map(|family| format!("clear bgp ipv{} unicast {peer} soft out", family.digit()));
        let [v4, v6] = &clear;
        self.ask(&[v4, v6]).map(drop)
    }
}

impl Driver for Frr {
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), Failure>> {
        self.recognise();
        let batches = changes.chunks(BATCH);
        let count = batches.len();
        batches
            .zip(1..)
            .flat_map(|(changes, number)| self.batch(changes, number == count))
            .collect()
    }
}

#[derive(Default)]
struct Lines {
    text: String,
    count: usize,
    maps: BTreeSet<String>,
}

impl Lines {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{line}");
        self.count += 1;
    }
}

/// The name of the route-map that has these attributes.
fn route_map(attributes: &Attributes) -> String {
    let mut name = format!(
        "L2ISOLATE-{}-{}",
        origin(attributes.origin),
        attributes.prepend
    );
    for community in &attributes.communities {
        let _ = write!(name, "-{}.{}", community.0, community.1);
    }
    name
}

fn define(out: &mut Lines, name: &str, attributes: &Attributes, asn: u32) {
    out.line(format_args!("route-map {name} permit 10"));
    out.line(format_args!(" set origin {}", origin(attributes.origin)));
    out.line(format_args!(" set weight {WEIGHT}"));
    if !attributes.communities.is_empty() {
        let all: Vec<String> = attributes
            .communities
            .iter()
            .map(ToString::to_string)
            .collect();
        out.line(format_args!(" set community {}", all.join(" ")));
    }
    if attributes.prepend > 0 {
        let own = vec![asn.to_string(); attributes.prepend.into()];
        out.line(format_args!(" set as-path prepend {}", own.join(" ")));
    }
    out.line(format_args!("exit"));
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Igp => "igp",
        Origin::Egp => "egp",
        Origin::Incomplete => "incomplete",
    }
}

fn new_enough(version: &str) -> Result<(), Failure> {
    if is_at_least(version, &LEAST) {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Version,
        format!("FRR {version} is too old to be driven"),
        "install FRR 8 or newer, or set advertise = kernel",
    ))
}

/// The number in `FRRouting 8.4.4 (host) on Linux…`.
fn version(answer: &str) -> Option<&str> {
    let line = answer.lines().find(|line| line.starts_with("FRRouting "))?;
    line.split(' ').nth(1)
}

/// Number and text of a failed line, as vtysh names it.
fn failed_line(said: &str) -> Option<(usize, &str)> {
    let (number, text) = said.strip_prefix("line ")?.split_once(": ")?;
    Some((number.parse().ok()?, text))
}

#[cfg(test)]
mod tests {
    use l2isolate_model::announce::Community;

    use super::*;

    #[test]
    fn different_attributes_have_different_maps() {
        let usual = Attributes::default();
        let mut drained = usual.clone();
        drained.communities.insert(Community::GRACEFUL_SHUTDOWN);
        drained.prepend = 2;
        assert_eq!(route_map(&usual), "L2ISOLATE-igp-0");
        assert_eq!(route_map(&drained), "L2ISOLATE-igp-2-65535.0");
    }

    #[test]
    fn vtysh_is_understood() {
        let line = "line 3: % Unknown command[28]:   network 10.252.0.555/32";
        assert_eq!(
            failed_line(line),
            Some((3, "% Unknown command[28]:   network 10.252.0.555/32"))
        );
        assert_eq!(failed_line("% Can't find static route specified"), None);
        let answer = "FRRouting 8.4.4 (vm) on Linux(6.18.44).\nCopyright 1996-2005\n";
        assert_eq!(version(answer), Some("8.4.4"));
        assert_eq!(version("8.4.4"), None);
    }
}

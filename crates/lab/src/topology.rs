//! What a lab shall consist of, from a TOML file or the defaults.
//!
//! A file gives either the shape of a regular Clos fabric (how many of each)
//! or every node and link by name. Mistakes are reported in one line with file
//! and line number. No I/O but the reading of the file.
//!
//! What can break it: `toml`'s spans, from which line numbers come.

mod options;

use std::{collections::BTreeMap, ops::Range, path::Path};

use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use options::{Options, Tables};

use crate::{Error, Result};

/// Longest node name: interfaces carry the far end's name (IFNAMSIZ - 1).
const NAME_MAX: usize = 15;
/// Bounds, so that a slip of the finger doesn't exhaust the machine.
const SPINES_MAX: usize = 32;
const TORS_MAX: usize = 250;
const HYPERVISORS_MAX: usize = 1000;
const VMS_MAX: usize = 10_000;

/// Which routing daemon a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// FRRouting: zebra and bgpd.
    Frr,
    /// BIRD 2.
    Bird,
}

impl std::fmt::Display for Flavour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Frr => "frr",
            Self::Bird => "bird",
        })
    }
}

/// Which daemons a fabric runs where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// FRR everywhere.
    #[default]
    Frr,
    /// BIRD everywhere.
    Bird,
    /// FRR and BIRD by turns, within spines, ToRs and hypervisors each.
    Mixed,
}

impl Mix {
    /// The daemon of the `index`th node (from 0) of a role.
    fn flavour(self, index: usize) -> Flavour {
        match self {
            Self::Frr => Flavour::Frr,
            Self::Bird => Flavour::Bird,
            Self::Mixed if index.is_multiple_of(2) => Flavour::Frr,
            Self::Mixed => Flavour::Bird,
        }
    }
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Joins the racks.
    Spine,
    /// Top-of-rack switch.
    Tor,
    /// Runs the agent and VMs.
    Hypervisor,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Spine => "spine",
            Self::Tor => "ToR",
            Self::Hypervisor => "hypervisor",
        })
    }
}

/// A router of the fabric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Unique name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its routing daemon.
    pub flavour: Flavour,
    /// How many VMs it runs; 0 for switches.
    pub vms: usize,
}

/// A checked topology: every name once, every link between two known nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// What all of it does.
    pub options: Options,
    /// All routers: spines, then ToRs, then hypervisors.
    pub nodes: Vec<NodeSpec>,
    /// Links by the names of their ends, the one nearer to the spines first.
    pub links: Vec<(String, String)>,
}

/// The numbers of a regular fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Spines in all.
    pub spines: usize,
    /// Racks in all.
    pub racks: usize,
    /// ToRs in each rack, each linked to every spine.
    pub tors: usize,
    /// Hypervisors in each rack, each linked to every ToR of the rack.
    pub hypervisors: usize,
    /// VMs on each hypervisor.
    pub vms: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            spines: 2,
            racks: 2,
            tors: 2,
            hypervisors: 2,
            vms: 2,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    spines: Option<Spanned<usize>>,
    racks: Option<Spanned<usize>>,
    tors: Option<Spanned<usize>>,
    hypervisors: Option<Spanned<usize>>,
    vms: Option<Spanned<usize>>,
    fabric: Option<Mix>,
    #[serde(default)]
    bfd: bool,
    tcp_auth: Option<Spanned<String>>,
    #[serde(default)]
    tables: Tables,
    #[serde(default)]
    daemons: BTreeMap<Spanned<String>, Flavour>,
    #[serde(default, rename = "node")]
    nodes: Vec<FileNode>,
    #[serde(default, rename = "link")]
    links: Vec<FileLink>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileNode {
    name: Spanned<String>,
    role: Role,
    daemon: Option<Flavour>,
    vms: Option<Spanned<usize>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLink {
    ends: Spanned<(String, String)>,
}

/// Where in a file a mistake is, as "file:line".
struct Places<'a> {
    file: &'a str,
    text: &'a str,
}

impl Places<'_> {
    fn at(&self, span: Option<Range<usize>>, reason: impl Into<String>) -> Error {
        let place = match span {
            Some(span) => {
                let before = self.text.get(..span.start).unwrap_or(self.text);
                format!("{}:{}", self.file, 1 + before.matches('\n').count())
            }
            None => self.file.to_owned(),
        };
        let reason: String = reason.into();
        Error::Topology {
            place,
            reason: reason.replace('\n', " "),
        }
    }
}

impl Topology {
    /// The regular fabric of `shape`.
    #[must_use]
    pub fn regular(shape: Shape, mix: Mix) -> Self {
        let mut nodes = Vec::new();
        let mut links = Vec::new();
        let mut node = |name: String, role, index, vms| {
            nodes.push(NodeSpec {
                name,
                role,
                flavour: mix.flavour(index),
                vms,
            });
        };
        for spine in 1..=shape.spines {
            node(format!("spine{spine}"), Role::Spine, spine - 1, 0);
        }
        let racks = 1..=shape.racks;
        for (index, (rack, tor)) in pairs(racks.clone(), shape.tors).enumerate() {
            node(format!("tor{rack}-{tor}"), Role::Tor, index, 0);
            for spine in 1..=shape.spines {
                links.push((format!("spine{spine}"), format!("tor{rack}-{tor}")));
            }
        }
        for (index, (rack, hv)) in pairs(racks, shape.hypervisors).enumerate() {
            node(format!("hv{rack}-{hv}"), Role::Hypervisor, index, shape.vms);
            for tor in 1..=shape.tors {
                links.push((format!("tor{rack}-{tor}"), format!("hv{rack}-{hv}")));
            }
        }
        Self {
            nodes,
            links,
            options: Options::default(),
        }
    }

    /// Reads a topology file. `mix`, where given, overrides the file's.
    ///
    /// # Errors
    /// The file can't be read, isn't TOML, or has a mistake in it.
    pub fn read(path: &Path, mix: Option<Mix>) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
        Self::parse(&path.display().to_string(), &text, mix)
    }

    /// Reads a topology from `text`; `file` is its name in messages.
    ///
    /// # Errors
    /// As [`Topology::read`].
    pub fn parse(file: &str, text: &str, mix: Option<Mix>) -> Result<Self> {
        let places = Places { file, text };
        let parsed: File =
            toml::from_str(text).map_err(|e| places.at(e.span(), e.message().to_owned()))?;
        let mix = mix.or(parsed.fabric).unwrap_or_default();
        let mut topology = if parsed.nodes.is_empty() && parsed.links.is_empty() {
            from_shape(&parsed, mix, &places)?
        } else {
            from_lists(&parsed, mix, &places)?
        };
        topology.options = options::read(parsed.bfd, parsed.tcp_auth, parsed.tables, &places)?;
        topology.check_size(&places)?;
        Ok(topology)
    }

    fn check_size(&self, places: &Places<'_>) -> Result<()> {
        let count = |role| self.nodes.iter().filter(|n| n.role == role).count();
        let vms: usize = self.nodes.iter().map(|n| n.vms).sum();
        for (what, have, most) in [
            ("spines", count(Role::Spine), SPINES_MAX),
            ("ToRs", count(Role::Tor), TORS_MAX),
            ("hypervisors", count(Role::Hypervisor), HYPERVISORS_MAX),
            ("VMs", vms, VMS_MAX),
        ] {
            if have == 0 {
                return Err(places.at(None, format!("no {what}: a fabric needs at least one")));
            }
            if have > most {
                return Err(places.at(None, format!("{have} {what} are more than {most}")));
            }
        }
        Ok(())
    }
}

/// All (rack, n) with n from 1 to `each`.
fn pairs(
    racks: std::ops::RangeInclusive<usize>,
    each: usize,
) -> impl Iterator<Item = (usize, usize)> {
    racks.flat_map(move |rack| (1..=each).map(move |n| (rack, n)))
}

fn from_shape(file: &File, mix: Mix, places: &Places<'_>) -> Result<Topology> {
    let number = |key: &str, value: &Option<Spanned<usize>>, default: usize| match value {
        None => Ok(default),
        Some(n) if *n.get_ref() == 0 => {
            Err(places.at(Some(n.span()), format!("{key} = 0: at least 1 is needed")))
        }
        Some(n) if *n.get_ref() > VMS_MAX => Err(places.at(
            Some(n.span()),
            format!("{key} = {}: more than {VMS_MAX}", n.get_ref()),
        )),
        Some(n) => Ok(*n.get_ref()),
    };
    let default = Shape::default();
    let shape = Shape {
        spines: number("spines", &file.spines, default.spines)?,
        racks: number("racks", &file.racks, default.racks)?,
        tors: number("tors", &file.tors, default.tors)?,
        hypervisors: number("hypervisors", &file.hypervisors, default.hypervisors)?,
        vms: number("vms", &file.vms, default.vms)?,
    };
    // Before anything is built from them: the product may be too large.
    let most = [
        (shape.racks.saturating_mul(shape.tors), TORS_MAX, "ToRs"),
        (
            shape.racks.saturating_mul(shape.hypervisors),
            HYPERVISORS_MAX,
            "hypervisors",
        ),
    ];
    for (have, most, what) in most {
        if have > most {
            return Err(places.at(None, format!("{have} {what} are more than {most}")));
        }
    }
    let mut topology = Topology::regular(shape, mix);
    for (name, flavour) in &file.daemons {
        let node = topology
            .nodes
            .iter_mut()
            .find(|n| n.name == *name.get_ref());
        match node {
            Some(node) => node.flavour = *flavour,
            None => return Err(unknown(places, name.span(), name.get_ref())),
        }
    }
    Ok(topology)
}

fn from_lists(file: &File, mix: Mix, places: &Places<'_>) -> Result<Topology> {
    for (key, value) in [
        ("spines", &file.spines),
        ("racks", &file.racks),
        ("tors", &file.tors),
        ("hypervisors", &file.hypervisors),
        ("vms", &file.vms),
    ] {
        if let Some(n) = value {
            let reason = format!("{key} and [[node]] exclude each other: name every node, or none");
            return Err(places.at(Some(n.span()), reason));
        }
    }
    if let Some(name) = file.daemons.keys().next() {
        let reason = "[daemons] and [[node]] exclude each other: write `daemon` in the node";
        return Err(places.at(Some(name.span()), reason));
    }
    let mut nodes: Vec<NodeSpec> = Vec::new();
    for node in &file.nodes {
        let name = node.name.get_ref();
        check_name(name).map_err(|reason| places.at(Some(node.name.span()), reason))?;
        if nodes.iter().any(|n| n.name == *name) {
            let reason = format!("`{name}` is the name of two nodes");
            return Err(places.at(Some(node.name.span()), reason));
        }
        let vms = match &node.vms {
            Some(vms) if node.role != Role::Hypervisor => {
                let reason = format!("`{name}` is a {} and can't run VMs", node.role);
                return Err(places.at(Some(vms.span()), reason));
            }
            Some(vms) => *vms.get_ref(),
            None if node.role == Role::Hypervisor => Shape::default().vms,
            None => 0,
        };
        let index = nodes.iter().filter(|n| n.role == node.role).count();
        nodes.push(NodeSpec {
            name: name.clone(),
            role: node.role,
            flavour: node.daemon.unwrap_or_else(|| mix.flavour(index)),
            vms,
        });
    }
    nodes.sort_by_key(|n| n.role);
    let links = read_links(&file.links, &nodes, places)?;
    for node in &file.nodes {
        let name = node.name.get_ref();
        if !links.iter().any(|(a, b)| a == name || b == name) {
            let reason = format!("`{name}` has no link");
            return Err(places.at(Some(node.name.span()), reason));
        }
    }
    Ok(Topology {
        nodes,
        links,
        options: Options::default(),
    })
}

fn read_links(
    file: &[FileLink],
    nodes: &[NodeSpec],
    places: &Places<'_>,
) -> Result<Vec<(String, String)>> {
    let mut links: Vec<(String, String)> = Vec::new();
    for link in file {
        let span = link.ends.span();
        let (a, b) = link.ends.get_ref();
        let role = |name: &String| {
            nodes
                .iter()
                .find(|n| n.name == *name)
                .map(|n| n.role)
                .ok_or_else(|| unknown(places, span.clone(), name))
        };
        let (role_a, role_b) = (role(a)?, role(b)?);
        if a == b {
            return Err(places.at(Some(span), format!("the link joins `{a}` to itself")));
        }
        let ends = match (role_a, role_b) {
            (Role::Spine, Role::Tor) | (Role::Tor, Role::Hypervisor) => (a.clone(), b.clone()),
            (Role::Tor, Role::Spine) | (Role::Hypervisor, Role::Tor) => (b.clone(), a.clone()),
            _ => {
                let reason = format!(
                    "a {role_a} and a {role_b} can't be linked (`{a}`, `{b}`): \
                     links go from spine to ToR and from ToR to hypervisor"
                );
                return Err(places.at(Some(span), reason));
            }
        };
        if links.contains(&ends) {
            let reason = format!("`{a}` and `{b}` are linked already");
            return Err(places.at(Some(span), reason));
        }
        links.push(ends);
    }
    Ok(links)
}

fn unknown(places: &Places<'_>, span: Range<usize>, name: &str) -> Error {
    places.at(
        Some(span),
        format!("`{name}` is not a node of this topology"),
    )
}

/// Whether `name` can name a node, its namespace and the interfaces towards it.
fn check_name(name: &str) -> std::result::Result<(), String> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(format!(
            "`{name}` has {} characters; a node's name is also an interface's: 1 to {NAME_MAX}",
            name.len()
        ));
    }
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(good) {
        return Err(format!(
            "`{name}`: a node's name is a lower-case letter, then letters, digits and hyphens"
        ));
    }
    if name == "lo" || name.starts_with("tap") || name.starts_with("vm") {
        return Err(format!(
            "`{name}` is reserved: lo, tap… and vm… are the lab's own names"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Topology::parse("t.toml", text, None)
            .unwrap_err()
            .to_string()
    }

    // What people see first: an empty file is the documented default.
    #[test]
    fn default_is_two_racks() {
        let t = Topology::parse("t.toml", "", None).unwrap();
        let names: Vec<_> = t.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "spine1", "spine2", "tor1-1", "tor1-2", "tor2-1", "tor2-2", "hv1-1", "hv1-2",
                "hv2-1", "hv2-2"
            ]
        );
        assert_eq!(t.links.len(), 16);
    }

    // The issue asks for one line with the place for each of these.
    #[test]
    fn mistakes_have_a_line() {
        let head =
            "[[node]]\nname = \"s\"\nrole = \"spine\"\n[[node]]\nname = \"t\"\nrole = \"tor\"\n";
        let with = |tail: &str| error(&format!("{head}{tail}"));
        assert_eq!(
            with("[[link]]\nends = [\"s\", \"x\"]\n"),
            "t.toml:8: `x` is not a node of this topology"
        );
        assert_eq!(
            with("[[link]]\nends = [\"t\", \"t\"]\n"),
            "t.toml:8: the link joins `t` to itself"
        );
        assert_eq!(
            with("[[node]]\nname = \"s\"\nrole = \"tor\"\n"),
            "t.toml:8: `s` is the name of two nodes"
        );
        assert!(error("spines = 2\nracks = 0\n").starts_with("t.toml:2: racks = 0"));
        assert!(error("spines = 2\nleaves = 0\n").starts_with("t.toml:2: unknown field"));
        assert!(error("[daemons]\nhv9-9 = \"bird\"\n").starts_with("t.toml:2: `hv9-9` is not"));
        assert!(
            with("[[node]]\nname = \"much-too-long-a-name\"\nrole = \"tor\"\n")
                .starts_with("t.toml:8: `much-too-long-a-name` has 20")
        );
        assert_eq!(
            with("[[link]]\nends = [\"s\", \"t\"]\n[[node]]\nname = \"u\"\nrole = \"tor\"\n"),
            "t.toml:10: `u` has no link"
        );
        assert!(error("vms = 1\ntcp_auth = \"a b\"\n").starts_with("t.toml:2: tcp_auth is"));
        assert!(error("[tables]\nipv5 = 1\n").starts_with("t.toml:2: unknown field"));
        assert!(error("racks = 100\ntors = 100\n").contains("10000 ToRs"));
        assert!(!with("[[link]]\nends = [\n").contains('\n'));
    }

    // What people copy from must work.
    #[test]
    fn examples_are_good() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/topologies");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            Topology::read(&entry.unwrap().path(), None).unwrap();
            count += 1;
        }
        assert!(count > 0);
    }

    // Both daemons in every role, or the interop would go untested.
    #[test]
    fn mixed_alternates_within_each_role() {
        let t = Topology::regular(Shape::default(), Mix::Mixed);
        for role in [Role::Spine, Role::Tor, Role::Hypervisor] {
            let of = |f| t.nodes.iter().any(|n| n.role == role && n.flavour == f);
            assert!(of(Flavour::Frr) && of(Flavour::Bird), "{role}");
        }
    }
}

//! What bgpd says in JSON.
//!
//! Of each prefix FRR 8 and 9 list a head, with whom it was sent to, and its
//! paths in one array; newer ones have an object with `paths`.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use l2isolate_model::announce::{Attributes, Community, Origin};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Failure, FailureKind, Observed, Peer, frr::WEIGHT};

/// `show bgp summary json`: by address family.
type Summary = BTreeMap<String, SummaryFamily>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SummaryFamily {
    #[serde(rename = "as")]
    asn: Option<u32>,
    #[serde(default)]
    peers: BTreeMap<String, SummaryPeer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SummaryPeer {
    #[serde(default)]
    remote_as: u32,
    #[serde(default)]
    state: String,
    #[serde(default)]
    pfx_rcd: u64,
    peer_uptime_msec: Option<u64>,
}

#[derive(Deserialize)]
struct Table {
    #[serde(default)]
    routes: BTreeMap<IpNet, Entry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    List(Vec<Item>),
    Object(Item),
}

/// A head or a path.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    #[serde(default)]
    advertised_to: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(default)]
    paths: Vec<Item>,
    aspath: Option<AsPath>,
    #[serde(default)]
    origin: String,
    #[serde(default)]
    weight: u64,
    /// By `network`.
    #[serde(default)]
    local: bool,
    /// By `network`, or taken from zebra.
    #[serde(default)]
    sourced: bool,
    community: Option<Communities>,
}

#[derive(Deserialize)]
struct AsPath {
    #[serde(default)]
    length: u32,
}

#[derive(Deserialize)]
struct Communities {
    string: String,
}

/// The AS of bgpd, out of its summary.
pub(super) fn asn(text: &str) -> Result<u32, Failure> {
    let [summary] = documents::<1>(text)?;
    let summary: Summary = read(summary)?;
    let asn = summary.values().find_map(|family| family.asn);
    asn.ok_or_else(|| {
        Failure::new(
            FailureKind::Answer,
            "bgpd has no `router bgp` with neighbours yet",
            "give it one: `l2isolate render-bgp --daemon frr` writes it",
        )
    })
}

/// Summary, IPv4 and IPv6 tables.
pub(super) fn observed(text: &str) -> Result<Observed, Failure> {
    let [summary, v4, v6] = documents::<3>(text)?;
    let mut observed = Observed::default();
    let summary: Summary = read(summary)?;
    for family in summary.into_values() {
        for (name, about) in family.peers {
            // One session carries both families: it is up where both are.
            let up = about.state == "Established";
            let first = !observed.peers.contains_key(&name);
            let peer = observed.peers.entry(name).or_default();
            peer.established = up && (first || peer.established);
            peer.received += about.pfx_rcd;
            peer.remote_as = Some(about.remote_as).filter(|asn| *asn > 0);
            peer.seconds = about.peer_uptime_msec.map(|ms| ms / 1000);
            peer.state = about.state;
        }
    }
    for table in [v4, v6] {
        let table: Table = read(table)?;
        for (prefix, entry) in table.routes {
            take(&mut observed, prefix, entry);
        }
    }
    Ok(observed)
}

fn take(observed: &mut Observed, prefix: IpNet, entry: Entry) {
    let items = match entry {
        Entry::List(items) => items,
        Entry::Object(item) => vec![item],
    };
    let mut sent_to = BTreeSet::new();
    let mut own: Option<Item> = None;
    for mut item in items {
        let paths = std::mem::take(&mut item.paths);
        sent_to.extend(std::mem::take(&mut item.advertised_to).into_keys());
        for path in paths.into_iter().chain([item]) {
            let better = own.as_ref().is_none_or(|own| path.weight > own.weight);
            if (path.local || path.sourced) && better {
                own = Some(path);
            }
        }
    }
    for name in sent_to {
        let peer: &mut Peer = observed.peers.entry(name).or_default();
        match own {
            Some(_) => peer.sent.insert(prefix),
            None => peer.leaked.insert(prefix),
        };
    }
    if let Some(path) = own {
        let attributes = attributes(&path);
        match path.weight {
            WEIGHT => observed.rib.insert(prefix, attributes),
            _ => observed.foreign.insert(prefix, attributes),
        };
    }
}

fn attributes(path: &Item) -> Attributes {
    let words = path.community.as_ref().map(|known| known.string.as_str());
    Attributes {
        communities: words
            .unwrap_or_default()
            .split_ascii_whitespace()
            .filter_map(community)
            .collect(),
        origin: match path.origin.as_str() {
            "IGP" => Origin::Igp,
            "EGP" => Origin::Egp,
            _ => Origin::Incomplete,
        },
        prepend: path.aspath.as_ref().map_or(0, |path| {
            // A path that some switch sends may be longer than any of ours.
            u8::try_from(path.length).unwrap_or(u8::MAX)
        }),
    }
}

/// A community as FRR writes it, the well-known ones by name.
fn community(word: &str) -> Option<Community> {
    Some(match word {
        "internet" => Community(0, 0),
        "graceful-shutdown" => Community::GRACEFUL_SHUTDOWN,
        "accept-own" => Community(65535, 1),
        "route-filter-translated-v4" => Community(65535, 2),
        "route-filter-v4" => Community(65535, 3),
        "route-filter-translated-v6" => Community(65535, 4),
        "route-filter-v6" => Community(65535, 5),
        "accept-own-nexthop" => Community(65535, 8),
        "llgr-stale" => Community(65535, 6),
        "no-llgr" => Community(65535, 7),
        "blackhole" => Community(65535, 666),
        "no-export" => Community(65535, 65281),
        "no-advertise" => Community(65535, 65282),
        "local-AS" => Community(65535, 65283),
        "no-peer" => Community(65535, 65284),
        word => word.parse().ok()?,
    })
}

/// So many JSON documents, one behind the other.
fn documents<const N: usize>(text: &str) -> Result<[&serde_json::value::RawValue; N], Failure> {
    let stream = serde_json::Deserializer::from_str(text).into_iter();
    let all: Vec<&serde_json::value::RawValue> = stream
        .collect::<Result<_, _>>()
        .map_err(|error| odd(&error))?;
    let count = all.len();
    all.try_into()
        .map_err(|_| odd(&format!("{count} documents instead of {N}")))
}

fn read<T: DeserializeOwned>(text: &serde_json::value::RawValue) -> Result<T, Failure> {
    serde_json::from_str(text.get()).map_err(|error| odd(&error))
}

fn odd(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        FailureKind::Answer,
        format!("bgpd's answer isn't understood: {error}"),
        "say so to l2isolate's authors, with FRR's version",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = r#"{"ipv4Unicast":{"as":65010,"peers":{"t1":{"remoteAs":65001,
        "state":"Established","pfxRcd":1,"peerUptimeMsec":2000},"t2":{"remoteAs":0,"state":"Idle"}}},
        "ipv6Unicast":{"as":65010,"peers":{"t1":{"remoteAs":65001,"state":"Active"}}}}"#;

    // Both shapes of a table say the same.
    #[test]
    fn heads_and_paths_are_told_apart() {
        let path = |weight: u64, local: bool| {
            format!(
                r#"{{"aspath":{{"string":"65010","length":1}},"origin":"IGP","weight":{weight},
                "local":{local},"community":{{"string":"graceful-shutdown 65001:20"}}}}"#
            )
        };
        // What is learned may be longer than any path of ours.
        let learned = path(0, false).replace(r#""length":1"#, r#""length":300"#);
        let ours = path(WEIGHT, true);
        let array = format!(
            r#"{{"routes":{{"10.252.0.5/32":[{{"advertisedTo":{{"t1":{{}}}}}},{ours}],
            "10.252.0.6/32":[{{"advertisedTo":{{"t1":{{}}}}}},{learned}],
            "10.252.0.7/32":[{{}},{}]}}}}"#,
            path(32768, true)
        );
        let object = format!(
            r#"{{"routes":{{"10.252.0.5/32":{{"advertisedTo":{{"t1":{{}}}},"paths":[{ours}]}},
            "10.252.0.6/32":{{"advertisedTo":{{"t1":{{}}}},"paths":[{learned}]}},
            "10.252.0.7/32":{{"paths":[{}]}}}}}}"#,
            path(32768, true)
        );
        for table in [array, object] {
            let observed = observed(&format!("{SUMMARY}\n{table}\n{{}}\n")).unwrap();
            let net = |text: &str| text.parse::<IpNet>().unwrap();
            let attributes = &observed.rib[&net("10.252.0.5/32")];
            assert!(attributes.graceful_shutdown() && attributes.prepend == 1);
            assert!(attributes.communities.contains(&Community(65001, 20)));
            assert_eq!(observed.rib.len(), 1);
            assert!(observed.foreign.contains_key(&net("10.252.0.7/32")));
            let t1 = &observed.peers["t1"];
            assert!(t1.sent.contains(&net("10.252.0.5/32")) && t1.sent.len() == 1);
            assert!(t1.leaked.contains(&net("10.252.0.6/32")) && t1.leaked.len() == 1);
            assert!(!t1.established, "IPv6 isn't up");
            assert_eq!(observed.peers["t2"].state, "Idle");
        }
    }

    #[test]
    fn a_bgpd_without_neighbours_is_named() {
        assert_eq!(asn(SUMMARY), Ok(65010));
        assert!(asn("{}").unwrap_err().remedy.contains("render-bgp"));
        assert!(observed("{}\n{").is_err());
    }
}

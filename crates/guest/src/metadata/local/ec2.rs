//! EC2's layout, `/VERSION/meta-data/…` and `/VERSION/user-data`, as far as
//! Nova has it.

use std::collections::BTreeMap;

use super::{Document, Instance, LATEST};

/// Versions that Nova has; all have the same here.
const VERSIONS: [&str; 9] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
];

/// What stands at a path.
enum Node {
    Text(String),
    Directory(BTreeMap<String, Self>),
    /// Listed by number and name, `0=me`.
    Numbered(Vec<(String, Self)>),
}

pub(super) fn document(instance: &Instance, parts: &[&str]) -> Option<Document> {
    let rest = match parts {
        [] => return Some(Document::list(VERSIONS.into_iter().chain([LATEST]))),
        [version, rest @ ..] if *version == LATEST || VERSIONS.contains(version) => rest,
        _ => return None,
    };
    let user_data = instance.metadata().user_data.as_ref();
    match rest {
        [] => {
            let user_data = user_data.map(|_| "user-data");
            Some(Document::list(["meta-data/"].into_iter().chain(user_data)))
        }
        ["user-data"] => Some(Document::bytes(user_data?.as_bytes())),
        ["meta-data", path @ ..] => Some(shown(walk(&tree(instance), path)?)),
        _ => None,
    }
}

fn tree(instance: &Instance) -> Node {
    let (own, metadata) = (&instance.own, instance.metadata());
    let mut root = BTreeMap::new();
    let mut text = |name: &str, text: &str| {
        root.insert(name.to_owned(), Node::Text(text.to_owned()));
    };
    text("ami-id", "ami-00000000");
    text("ami-launch-index", "0");
    text("instance-action", "none");
    text("instance-id", instance.id());
    text("reservation-id", &format!("r-{}", instance.id()));
    text("mac", &own.mac.to_string());
    for name in ["hostname", "local-hostname", "public-hostname"] {
        text(name, &own.hostname);
    }
    let addresses = own.networks.iter().map(|network| network.address);
    for address in addresses.filter(std::net::IpAddr::is_ipv4).take(1) {
        text("local-ipv4", &address.to_string());
    }
    if let Some(kind) = &metadata.instance_type {
        text("instance-type", kind);
    }
    if let Some(zone) = &metadata.availability_zone {
        let zone = Node::Text(zone.clone());
        let placement = BTreeMap::from([("availability-zone".to_owned(), zone)]);
        root.insert("placement".to_owned(), Node::Directory(placement));
    }
    if !metadata.public_keys.is_empty() {
        let one = |(name, key): (&str, &str)| {
            let key = Node::Text(key.to_owned());
            let key = BTreeMap::from([("openssh-key".to_owned(), key)]);
            (name.to_owned(), Node::Directory(key))
        };
        let keys = metadata.public_keys.iter().map(one).collect();
        root.insert("public-keys".to_owned(), Node::Numbered(keys));
    }
    Node::Directory(root)
}

fn walk<'a>(node: &'a Node, path: &[&str]) -> Option<&'a Node> {
    let [name, rest @ ..] = path else {
        return Some(node);
    };
    let next = match node {
        Node::Text(_) => None,
        Node::Directory(entries) => entries.get(*name),
        Node::Numbered(entries) => {
            let number: usize = name.parse().ok()?;
            entries.get(number).map(|(_, node)| node)
        }
    };
    walk(next?, rest)
}

fn shown(node: &Node) -> Document {
    match node {
        Node::Text(text) => Document::text(text.clone()),
        Node::Directory(entries) => Document::list(entries.iter().map(|(name, node)| match node {
            Node::Text(_) => name.clone(),
            Node::Directory(_) | Node::Numbered(_) => format!("{name}/"),
        })),
        Node::Numbered(entries) => Document::list(
            (0..)
                .zip(entries)
                .map(|(number, (name, _)): (usize, _)| format!("{number}={name}")),
        ),
    }
}

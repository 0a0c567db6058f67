//! OpenStack's layout, `/openstack/VERSION/…` (nova/api/metadata/base.py).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Document, Instance, LATEST, network};

/// Versions that Nova has, in order. The later ones have more documents; what
/// is in a document is the same in all of them.
const VERSIONS: [&str; 9] = [
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
];

const META: &str = "meta_data.json";
const USER: &str = "user_data";
const VENDOR: &str = "vendor_data.json";
const NETWORK: &str = "network_data.json";
const VENDOR2: &str = "vendor_data2.json";

/// Each document, with the version that it came with.
const DOCUMENTS: [(&str, &str); 5] = [
    (META, "2012-08-10"),
    (USER, "2012-08-10"),
    (VENDOR, "2013-10-17"),
    (NETWORK, "2015-10-15"),
    (VENDOR2, "2016-10-06"),
];

pub(super) fn document(instance: &Instance, parts: &[&str], seed: &[u8]) -> Option<Document> {
    let (version, rest) = match parts {
        [] => return Some(Document::list(VERSIONS.into_iter().chain([LATEST]))),
        [LATEST, rest @ ..] => (VERSIONS.last().copied()?, rest),
        [version, rest @ ..] => (*VERSIONS.iter().find(|known| *known == version)?, rest),
    };
    // Dates in this form sort as text.
    let here = |name: &str| {
        DOCUMENTS
            .iter()
            .any(|(document, since)| *document == name && *since <= version)
    };
    match rest {
        [] => {
            let there = DOCUMENTS.iter().filter(|(name, _)| {
                here(name) && (*name != USER || instance.metadata().user_data.is_some())
            });
            Some(Document::list(there.map(|(name, _)| name)))
        }
        [name] if here(name) => one(instance, name, seed),
        _ => None,
    }
}

fn one(instance: &Instance, name: &str, seed: &[u8]) -> Option<Document> {
    let metadata = instance.metadata();
    let vendor_data = || Value::Object(metadata.vendor_data.clone());
    match name {
        META => Some(Document::json(&meta(instance, seed))),
        USER => {
            let data = metadata.user_data.as_ref()?;
            Some(Document::bytes(data.as_bytes()))
        }
        VENDOR => Some(Document::json(&vendor_data())),
        NETWORK => Some(Document::json(&network::data(&instance.all))),
        VENDOR2 if metadata.vendor_data.is_empty() => Some(Document::json(&json!({}))),
        VENDOR2 => Some(Document::json(&json!({ "static": vendor_data() }))),
        _ => None,
    }
}

fn meta(instance: &Instance, seed: &[u8]) -> Value {
    let metadata = instance.metadata();
    let keys = metadata.public_keys.iter();
    let keys: Vec<Value> = keys
        .map(|(name, data)| json!({"name": name, "type": "ssh", "data": data}))
        .collect();
    json!({
        "uuid": instance.id(),
        "name": instance.name(),
        "hostname": instance.own.hostname,
        "launch_index": 0,
        "project_id": instance.own.project,
        "availability_zone": metadata.availability_zone,
        "devices": [],
        "public_keys": metadata.public_keys,
        "keys": keys,
        "meta": metadata.meta,
        "random_seed": STANDARD.encode(seed),
    })
}

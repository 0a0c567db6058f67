//! The schema, the examples that show it, and readers that no text can break.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use l2isolate_model::{
    document::{self, Document},
    intent::{Change, Intent},
};
use proptest::{prelude::*, sample::Index};
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The example documents, by path.
fn examples() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![repository().join("examples/intent")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 2);
    found
}

fn parse(path: &Path, text: &str) -> Document {
    document::parse(text.as_bytes(), path).unwrap()
}

/// What operators copy from must be right.
#[test]
fn examples_are_a_host_without_a_problem() {
    let mut intent = Intent::default();
    for (path, text) in examples() {
        let document = parse(&path, &text);
        assert_eq!(document.unidentified, []);
        intent.update(document.objects);
    }
    assert_eq!(intent.problems().collect::<Vec<_>>(), Vec::<&_>::new());
    assert!(intent.ports().count() >= 3);
    assert!(intent.ports().all(|(_, port)| port.effective().is_some()));
}

/// `docs/intent.schema.json` is generated from the model.
#[test]
fn schema_is_up_to_date() {
    let path = repository().join("docs/intent.schema.json");
    let mut schema = serde_json::to_string_pretty(&document::schema()).unwrap();
    schema.push('\n');
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &schema).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == schema,
        "docs/intent.schema.json is stale; run UPDATE_EXPECT=1 cargo test -p l2isolate-source schema"
    );
}

/// The schema describes what is read: examples satisfy it, and so does what the
/// cache writes of them.
#[test]
fn examples_satisfy_the_schema() {
    let schema = serde_json::to_value(document::schema()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let check = |what: &Path, text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|e| e.to_string())
            .collect();
        assert_eq!(errors, Vec::<String>::new(), "{}", what.display());
    };
    for (path, text) in examples() {
        check(&path, &text);
        for (_, change) in parse(&path, &text).objects {
            if let Change::Set { object, .. } = change {
                check(&path, &object.to_document(&[]).unwrap());
            }
        }
    }
    assert!(!validator.is_valid(&serde_json::json!({"version": 1, "ports": [{"id": "/"}]})));
}

/// Reads a text, and puts it into a store that has the examples.
fn survive(text: &[u8]) {
    let mut intent = Intent::default();
    for (path, text) in examples() {
        intent.update(parse(&path, &text).objects);
    }
    if let Ok(document) = document::parse(text, Path::new("fuzz.json")) {
        let ids: Vec<_> = document.objects.iter().map(|(id, _)| id.clone()).collect();
        intent.update(document.objects);
        intent.update(ids.into_iter().map(|id| (id, Change::Gone)));
    }
}

/// The value at a place of a document, counted depth first.
fn place<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| place(item, left)),
        Value::Object(map) => map.values_mut().find_map(|item| place(item, left)),
        _ => None,
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "0.0.0.0",
        "::",
        "::/0",
        "255.255.255.255/32",
        "fe80::1",
        "ff:ff:ff:ff:ff:ff",
        "tap89d98975-3d",
        "10.252.1.10",
        "10.252.0.0/16",
        "9999-12-31T23:59:59Z",
        "..",
        "/",
        "1f9b0c52-7f6e-4d1c-9a55-3b7c5d0c1a01",
        "89d98975-3d1e-4c37-8d0a-6a1f4f8f0001",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
        ".*".prop_map(Value::from),
        Just(serde_json::json!([])),
        Just(serde_json::json!({})),
        Just(serde_json::json!([{"id": "x"}, {"id": "x"}])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_text_breaks_the_reader(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        survive(&text);
    }

    #[test]
    fn no_damage_to_a_document_breaks_the_reader(
        which in any::<Index>(), from in any::<Index>(), len in 0..60_usize,
        with in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        let all = examples();
        let mut text = which.get(&all).1.clone().into_bytes();
        let from = from.index(text.len());
        let to = (from + len).min(text.len());
        text.splice(from..to, with);
        survive(&text);
    }

    #[test]
    fn no_odd_value_breaks_the_reader(
        which in any::<Index>(),
        changes in proptest::collection::vec((0..120_usize, odd_value()), 1..6),
    ) {
        let all = examples();
        let mut value: Value = serde_json::from_str(&which.get(&all).1).unwrap();
        for (mut at, by) in changes {
            if let Some(value) = place(&mut value, &mut at) {
                *value = by;
            }
        }
        survive(value.to_string().as_bytes());
    }
}

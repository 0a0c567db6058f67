//! Bad input: what is wrong is shown with file, field and reason, and changes
//! nothing; all others stay as they are.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Flow, Host, Port, document};

/// A host with one sound guest, and what is asserted about it.
struct Sound {
    host: Host,
    ports: Vec<Port>,
}

/// The problems that the agent reports, once there are any.
fn problems(host: &Host) -> Vec<Value> {
    let mut found = Vec::new();
    host.until("a problem is reported", || {
        found = host.status()["problems"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        !found.is_empty()
    });
    found
}

impl Sound {
    fn new() -> Self {
        let mut host = Host::new();
        let guests: [_; 2] = host.guests();
        host.start();
        let ports: Vec<Port> = guests.into_iter().map(|guest| guest.port).collect();
        let sound = Self { host, ports };
        sound.unharmed();
        sound
    }

    fn unharmed(&self) {
        self.host.wired(&self.ports.iter().collect::<Vec<_>>());
    }

    /// Adds a port that is wrong in one way, and expects exactly one problem,
    /// with this in its field and its reason, in `status` and in the log.
    fn refuses(&self, bad: &Port, field: &str, reason: &str) {
        self.host.write(bad);
        self.complains(&bad.file(), bad.id(), field, reason);
        self.host.remove(bad);
        self.host.until("the problem goes with the file", || {
            self.host.status()["problems"] == json!([])
        });
    }

    fn complains(&self, file: &str, object: &str, field: &str, reason: &str) {
        let found = problems(&self.host);
        let [problem] = &found[..] else {
            panic!("not one problem: {found:#?}")
        };
        let part = |name: &str| problem[name].as_str().unwrap_or_default();
        assert!(part("origin").ends_with(file), "{problem}");
        assert!(part("object").contains(object), "{problem}");
        assert!(
            part("field").starts_with(field),
            "expected field {field}: {problem}"
        );
        assert!(
            part("reason").contains(reason),
            "expected {reason}: {problem}"
        );
        self.host.until("it is in the log", || {
            self.host.whole_log().contains(part("reason")) && self.host.whole_log().contains(file)
        });
        self.unharmed();
    }
}

/// Ports that were never good: each is reported, nobody else is harmed.
#[test]
fn a_new_port_that_is_wrong_is_reported_and_not_wired() {
    let sound = Sound::new();
    let new = Port::new(9);
    let first = &sound.ports[0];
    let address = |address: &str| new.with_addresses(&[(address, "net4")]);
    let peer = |peer: &str| new.with("binding", json!({"state": "outgoing", "peer": peer}));
    let younger = |port: &Port| port.with("created", "2026-11-23T06:00:00Z");
    let cases = [
        (new.with("mac", "02:00:00:00:zz:01"), "mac", ""),
        (new.with("mac", 7), "mac", ""),
        (new.with("mac", Value::Null), "mac", "null"),
        (address("10.253.0.9"), "addresses", "outside its subnet"),
        (address("10.252.0.1"), "addresses", "gateway"),
        (address("10.252.0.999"), "addresses", ""),
        (
            new.with_addresses(&[("10.252.9.9", "nowhere")]),
            "addresses",
            "not known",
        ),
        (
            new.with_addresses(&[("2001:db8:252::9", "net4")]),
            "addresses",
            "outside its subnet",
        ),
        (new.with("tap", "tap0123456789012"), "tap", "16 bytes"),
        (new.with("tap", "tap/../../x"), "tap", ""),
        (new.with("mtu", 20), "mtu", ""),
        (new.with("mtu", 1000), "mtu", "IPv6"),
        (new.with("mtu", "big"), "mtu", ""),
        (new.with("created", "yesterday"), "created", ""),
        (peer("hv2"), "binding", ""),
        (peer("224.0.0.1"), "binding", "can't be a host's"),
        (peer("fe80::1"), "binding", "can't be a host's"),
        (younger(&new.with("tap", first.tap())), "tap", first.id()),
        (younger(&address(&first.v4())), "address", first.id()),
        // Made at the same time: the smaller id has it.
        (new.with("tap", first.tap()), "tap", first.id()),
    ];
    for (bad, field, reason) in &cases {
        sound.host.tap(new.tap(), &sound.host.world, "eth9");
        sound.refuses(bad, field, reason);
        sound.host.ip(&format!("link del {}", new.tap()));
    }
}

/// Files that can't be read at all, and one whose entries are partly good.
#[test]
fn a_file_that_is_wrong_is_reported() {
    let sound = Sound::new();
    let host = &sound.host;
    let entry = json!({ "version": 1, "ports": [{ "mac": "02:00:00:00:00:09" }] }).to_string();
    let cases = [
        ("{ \"version\": 1, \"ports\": [", "", "JSON"),
        ("", "", "JSON"),
        ("[]", "", "object"),
        ("{ \"version\": 2 }", "version", "2"),
        ("{ \"ports\": [] }", "version", ""),
        ("{ \"version\": 1, \"ports\": {} }", "ports", "list"),
        (&entry, "", "id"),
    ];
    for (text, field, reason) in cases {
        host.write_file("bad.json", text);
        sound.complains("bad.json", "", field, reason);
        fs::remove_file(host.intent().join("bad.json")).unwrap();
        host.until("the problem goes with the file", || {
            host.status()["problems"] == json!([])
        });
    }
    // Neither unknown fields nor other files are problems.
    host.write_file("README.txt", "not for you");
    host.write_file("empty.json", r#"{ "version": 1, "weather": "fine" }"#);
    host.write(&sound.ports[0].with("colour", "blue").with("revision", 2));
    sound.unharmed();
    host.settled();
    assert_eq!(host.status()["problems"], json!([]));
}

/// A port that was good keeps its wiring, whatever its next version is, and
/// takes up the version after that.
#[test]
fn a_port_that_was_good_keeps_its_wiring() {
    let mut host = Host::new();
    let [one, two] = host.guests();
    host.start();
    host.wired(&[&one.port, &two.port]);
    let flow = Flow::start(&two, &one, 4);
    let bad = [
        "not JSON".to_owned(),
        "{ \"version\": 7, \"ports\": [] }".to_owned(),
        one.port.with("mac", "x").to_document(),
        one.port
            .with_addresses(&[("10.253.0.9", "net4")])
            .to_document(),
        one.port.with("tap", "tap0123456789012").to_document(),
        one.port.with("mtu", 1).to_document(),
    ];
    for text in &bad {
        host.write_file(&one.port.file(), text);
        assert!(!problems(&host).is_empty());
        host.wired(&[&one.port, &two.port]);
    }
    // Also through a restart, from the last intent.
    host.kill();
    host.start();
    problems(&host);
    host.settled();
    host.wired(&[&one.port, &two.port]);
    assert_eq!(host.status()["written"], 0);
    let next = one.port.with("mtu", 1450).with("revision", 2);
    host.write(&next);
    host.wired(&[&next, &two.port]);
    host.until("no problem is left", || {
        host.status()["problems"] == json!([])
    });
    flow.unharmed();
}

/// A subnet whose gateway becomes a port's address, or that can't be read any
/// more: its ports keep what they have.
#[test]
fn a_subnet_that_turns_bad_harms_no_port() {
    let sound = Sound::new();
    let host = &sound.host;
    let good = fs::read_to_string(host.intent().join("subnets.json")).unwrap();
    let taken = sound.ports[0].v4();
    for (text, reason) in [
        (
            good.replace("\"10.252.0.1\"", &format!("\"{taken}\"")),
            "gateway",
        ),
        (good.replace("10.252.0.0/16", "10.252.0.0/99"), ""),
        (good.replace("10.252.0.0/16", "10.252.0.7/16"), "host bits"),
    ] {
        assert_ne!(text, good);
        host.write_file("subnets.json", &text);
        let found = problems(host);
        assert!(
            found
                .iter()
                .any(|problem| problem["reason"].as_str().unwrap().contains(reason)),
            "{found:#?}"
        );
        // Others of the subnet may follow its new gateway; this one may not lose.
        let routes = host.ip(&format!("route show {taken} metric 5"));
        assert!(routes.contains(sound.ports[0].tap()), "{routes}");
        host.write_file("subnets.json", &good);
        host.until("no problem is left", || {
            host.status()["problems"] == json!([])
        });
        sound.unharmed();
    }
}

/// When the older of two claimants goes, the younger has what both wanted.
#[test]
fn the_younger_of_two_follows_the_older() {
    let sound = Sound::new();
    let host = &sound.host;
    let [one, two] = &sound.ports[..] else {
        panic!()
    };
    let heir = Port::new(9).with("created", "2026-11-23T06:00:00Z");
    let heir = heir.with_addresses(&[(&one.v4(), "net4"), (&one.v6(), "net6")]);
    host.tap(heir.tap(), &host.world, "eth9");
    host.write(&heir);
    problems(host);
    sound.unharmed();
    host.remove(one);
    host.wired(&[&heir, two]);
    host.until("no problem is left", || {
        host.status()["problems"] == json!([])
    });
    // In one file of several, one port that is wrong is wrong alone.
    host.remove(&heir);
    let wrong = Port::new(10).with("mac", "x");
    host.write_file("several.json", &document(&[&heir, &wrong]));
    host.wired(&[&heir, two]);
    host.until("one problem is left", || {
        let found = problems(host);
        found.len() == 1 && found[0]["field"] == "mac"
    });
}

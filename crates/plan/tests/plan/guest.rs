//! What guests are told: whatever an intent says, a line for dnsmasq is of its
//! own tap, and what can't be served is named.

use l2isolate_model::guest::{Key, Service, Value};
use l2isolate_plan::guest::{GuestConfig, Known, Plan, plan};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::common::intent;

fn config() -> GuestConfig {
    GuestConfig {
        dhcp: true,
        ipv6: true,
        dns: vec![
            "192.0.2.53".parse().unwrap(),
            "2001:db8::53".parse().unwrap(),
        ],
        domain: Some("example.org".to_owned()),
        lifetime: 86400,
        metadata: true,
        known: Known::default(),
    }
}

fn of(port: Json) -> Plan {
    let intent = intent(&json!({"version": 1, "ports": [port]}));
    let tap = intent
        .ports()
        .find_map(|(_, entry)| Some(entry.effective()?.port.tap));
    let tap = tap.unwrap_or_else(|| "tap0".parse().unwrap());
    plan(tap, intent.on_tap(tap).map(AsRef::as_ref), &config())
}

fn port(fields: Json) -> Json {
    let mut port = json!({"id": "p", "tap": "tap0", "mac": "fa:16:3e:00:00:01",
        "addresses": [{"address": "10.252.0.5", "subnet": "s4"}, {"address": "2001:db8:1::5", "subnet": "s6"}]});
    for (field, value) in fields.as_object().unwrap() {
        port[field] = value.clone();
    }
    port
}

fn text(plan: &Plan, service: Service) -> Option<String> {
    match plan.objects.get(&Key::File(service, "p".into()))? {
        Value::Content(text) => Some(text.to_string()),
        other => panic!("{other}"),
    }
}

/// The files of one port, word for word: a change here is a change of what
/// guests are told.
#[test]
fn a_ports_files() {
    let plan = of(port(json!({"hostname": "web-1", "mtu": 1450,
        "dhcp_options": [{"name": "tag:!ipxe,67", "value": "a"}, {"name": "bootfile-name", "value": "b"}]})));
    assert_eq!(
        text(&plan, Service::Hosts).unwrap(),
        "tag:tap0,fa:16:3e:00:00:01,10.252.0.5,id:*\n"
    );
    let options = "tag:tap0,1,255.255.0.0\ntag:tap0,3,10.252.0.1\ntag:tap0,6,192.0.2.53\ntag:tap0,12,web-1\n\
        tag:tap0,15,example.org\ntag:tap0,26,1450\ntag:tap0,28,10.252.255.255\ntag:tap0,67,b\n\
        tag:tap0,121,169.254.169.254/32,10.252.0.1,0.0.0.0/0,10.252.0.1\n\
        tag:tap0,249,169.254.169.254/32,10.252.0.1,0.0.0.0/0,10.252.0.1\ntag:tap0,tag:!ipxe,67,a\n";
    assert_eq!(text(&plan, Service::Options).unwrap(), options);
    assert_eq!(plan.problems, []);
}

/// Taps that dnsmasq couldn't be told of, or that it doesn't serve.
#[test]
fn a_tap_that_cant_be_named_is_named_to_the_operator() {
    for tap in ["tap,x", "tap*", "tap#1"] {
        let plan = of(port(json!({"tap": tap})));
        assert!(plan.objects.is_empty(), "{tap}");
        assert!(
            plan.problems[0].field == "tap",
            "{tap}: {:?}",
            plan.problems
        );
        // IPv6 needs no dnsmasq.
        assert!(plan.ipv6.is_some());
    }
}

/// Nothing for a port that is down. For a guest that is still elsewhere all is
/// ready: it asks as soon as it is here.
#[test]
fn who_is_down_is_told_nothing() {
    assert_eq!(of(port(json!({"admin_state_up": false}))), Plan::default());
    let incoming = of(port(json!({"binding": {"state": "incoming"}})));
    assert_eq!(incoming, of(port(json!({}))));
    let neither = of(port(json!({"addresses": []})));
    assert!(neither.objects.is_empty() && neither.ipv6.is_none());
}

/// With DHCP off for the port its subnets' word counts for nothing: no lease, no
/// advertisement, no DHCPv6. Neighbours are found all the same: a guest that is
/// configured by hand needs them.
#[test]
fn a_port_with_dhcp_off_is_told_nothing() {
    let plan = of(port(json!({"dhcp": false, "hostname": "web-1"})));
    assert!(plan.objects.is_empty());
    assert_eq!(plan.problems, []);
    let answers = plan.ipv6.unwrap();
    assert_eq!((answers.router, answers.dhcp), (None, None));
    assert!(answers.silent.contains(&"2001:db8:1::5".parse().unwrap()));
}

fn option() -> impl Strategy<Value = Json> {
    let name = prop_oneof![
        any::<u8>().prop_map(|n| n.to_string()),
        prop::sample::select(vec![
            "mtu",
            "router",
            "ntp-server",
            "option:mtu",
            "tag:ipxe,67",
            "tag:tap1,3",
            "classless-static-route"
        ])
        .prop_map(str::to_owned),
        "[ -~\\n]{0,20}",
    ];
    let value = prop_oneof![
        "[0-9.,:a-f]{0,20}",
        "[ -~\\n\"#\\\\]{0,30}",
        any::<String>(),
        Just("x".repeat(300))
    ];
    (name, value, prop_oneof![Just(4), Just(6)]).prop_map(
        |(name, value, version)| json!({"name": name, "value": value, "ip_version": version}),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No option and no name writes a line of another tap, or two lines; each
    /// one is served or named.
    #[test]
    fn lines_are_of_their_own_tap(
        options in prop::collection::vec(option(), 0..6),
        hostname in prop::option::of(any::<String>()),
        tap in "tap[!-$&-.0-9;-~]{1,11}",
    ) {
        let plan = of(port(json!({"tap": tap, "hostname": hostname, "dhcp_options": options})));
        let prefix = format!("tag:{tap},");
        if let Some(host) = text(&plan, Service::Hosts) {
            prop_assert_eq!(host, format!("{prefix}fa:16:3e:00:00:01,10.252.0.5,id:*\n"));
            let lines = text(&plan, Service::Options).unwrap();
            for line in lines.lines() {
                let rest = line.strip_prefix(&prefix);
                prop_assert!(rest.is_some(), "{}", line);
                let rest = rest.unwrap();
                let rest = rest.strip_prefix("tag:ipxe,").or_else(|| rest.strip_prefix("tag:!ipxe,")).unwrap_or(rest);
                let number = rest.split(',').next().unwrap();
                prop_assert!(number.parse::<u8>().is_ok(), "{}", line);
                prop_assert!(line.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{}", line);
            }
            let own = 9 + usize::from(lines.contains(",12,"));
            let bad = plan.problems.iter().filter(|p| p.field.starts_with("dhcp_options")).count();
            let v6 = options.iter().filter(|o| o["ip_version"] == 6).count();
            // Options that replace others of the same number aren't lines more.
            prop_assert!(lines.lines().count() + bad <= own + options.len(), "{}", lines);
            prop_assert!(bad <= options.len() && v6 <= options.len());
        } else {
            prop_assert!(plan.problems.iter().any(|p| p.field == "tap"));
        }
    }
}

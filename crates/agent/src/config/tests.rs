//! The configuration as an operator meets it.

use std::{path::Path, time::Duration};

use super::{
    Config, Ini, Loaded, LogFormat,
    options::{HOST_NAME, OPTIONS},
    typed,
};

fn load(text: &str) -> Loaded {
    let mut ini = Ini::default();
    let problems = ini.read(text, Path::new("l2isolate.conf"));
    typed(&ini, problems.into_iter().map(Into::into).collect()).unwrap()
}

fn problems(text: &str) -> Vec<String> {
    load(text)
        .problems
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn config(text: &str) -> Config {
    let loaded = load(text);
    assert_eq!(loaded.problems, []);
    loaded.config
}

#[test]
fn every_option_has_a_default() {
    let config = config("");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(config.host, kernel.trim());
    assert_eq!(config.route_protocol, 76);
    assert_eq!(config.route_metric, 5);
    assert_eq!(config.shrink_grace, Duration::from_secs(300));
    assert_eq!(config.loopbacks, []);
}

#[test]
fn every_option_can_be_given() {
    let config = config(
        "[DEFAULT]\nhost = hv1\ntransport_url = rabbit://\n[ovs]\nbridge = br-int\n\
         [l2isolate]\nintent_directory = /srv/$host/intent\nstate_directory = /srv/${host}\n\
         socket = ${l2isolate.state_directory}/agent.sock\n\
         loopbacks = 10.255.1.1/32, 2001:db8:ff::1,\ntap_mac = 02:00:00:00:00:01\n\
         gateway_link_local = fe80::2\nroute_protocol = 77\nroute_metric = 6\n\
         manage_host = No\nshrink_grace = 0.5\nresync_interval = 10\n\
         log_format = json\nlog_level = info,l2isolate_source=debug\n",
    );
    assert_eq!(config.intent_directory, Path::new("/srv/hv1/intent"));
    assert_eq!(config.socket, Path::new("/srv/hv1/agent.sock"));
    let loopbacks = ["10.255.1.1/32", "2001:db8:ff::1/128"].map(|net| net.parse().unwrap());
    assert_eq!(config.loopbacks, loopbacks);
    assert_eq!(config.tap_mac.to_string(), "02:00:00:00:00:01");
    assert_eq!((config.route_protocol, config.route_metric), (77, 6));
    assert!(!config.manage_host);
    assert_eq!(config.shrink_grace, Duration::from_millis(500));
    assert_eq!(config.log_format, LogFormat::Json);
}

/// The host name is the only default that others are made from.
#[test]
fn a_reference_finds_defaults() {
    let kernel = config("").host;
    let path = config("[l2isolate]\nstate_directory = /srv/$host\n").state_directory;
    assert_eq!(path, Path::new("/srv").join(kernel));
}

#[test]
fn signs_that_refer_to_nothing_stand() {
    let host = |value: &str| config(&format!("[DEFAULT]\nhost = {value}\n")).host;
    assert_eq!(host("$$host"), "$host");
    assert_eq!(host(r"\$host"), "$host");
    assert_eq!(host("cost $5 $"), "cost $5 $");
    assert_eq!(host("${open"), "${open");
}

/// What is wrong with a secret is said without saying the secret.
#[test]
fn a_secret_is_never_shown() {
    let text = "[DEFAULT]\nmetadata_proxy_shared_secret = pass$wrd\n";
    let found = problems(text).join("\n");
    assert!(found.contains("written $$"), "{found}");
    assert!(!found.contains("pass") && !found.contains("wrd"), "{found}");
    let config = config("[DEFAULT]\nmetadata_proxy_shared_secret = s3cret\n");
    assert!(!format!("{config:?}").contains("s3cret"));
}

/// Neutron's own file says where Nova is, and its other options disturb nobody.
#[test]
fn the_metadata_agents_file_is_understood() {
    let config = config(
        "[DEFAULT]\nnova_metadata_host = 10.0.0.2, [2001:db8::2]:443\nnova_metadata_protocol = https\n\
         metadata_proxy_shared_secret = s3cret\nauth_ca_cert = /etc/ssl/nova.pem\nmetadata_workers = 4\n\
         [l2isolate]\nmetadata_source = nova\n",
    );
    let options = format!("{:?}", config.metadata().unwrap());
    for said in [
        "10.0.0.2",
        "8775",
        "2001:db8::2",
        "443",
        "/etc/ssl/nova.pem",
    ] {
        assert!(options.contains(said), "{said} in {options}");
    }
    assert!(!options.contains("s3cret"), "{options}");
}

/// Everything that is wrong is said at once: place, option, value, what was
/// expected. The option falls back to its default.
#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (
            "route_metric = 0",
            "is out of range; expected a whole number from 1 to 16777214.",
        ),
        ("route_metric = -1", "is no whole number; expected"),
        (
            "route_protocol = 012",
            "belongs to BIRD, whose routes would be deleted; expected",
        ),
        (
            "route_protocol = 256",
            "is out of range; expected a whole number from 5 to 255.",
        ),
        (
            "tap_mac = 01:00:00:00:00:01",
            "is none; expected a unicast MAC address",
        ),
        (
            "gateway_link_local = 2001:db8::1",
            "is not in fe80::/10; expected a link-local",
        ),
        (
            "loopbacks = 10.0.0.1, 10.0.0.0/24",
            "has 10.0.0.0/24, which is no single address (/32);",
        ),
        (
            "loopbacks = ::1",
            "has ::1/128, which can't be routed to from elsewhere;",
        ),
        ("loopbacks = lo", "has \"lo\", which is no address;"),
        (
            "socket = agent.sock",
            "is no absolute path; expected an absolute path.",
        ),
        (
            "socket = $socket",
            "refers to itself, or through too many others;",
        ),
        (
            "socket = /run/$hots",
            "refers to $hots, which is no option; write $$ for $;",
        ),
        ("shrink_grace = -1", "is no number of seconds;"),
        ("shrink_grace = nan", "is no number of seconds;"),
        ("manage_host = maybe", "is neither; expected true or false."),
        ("log_format = xml", "is neither; expected human or json."),
        ("log_level = inof", "has \"inof\", which is no level;"),
    ];
    for (line, reason) in cases {
        let found = problems(&format!("[l2isolate]\n{line}\n"));
        let expected = format!("l2isolate.conf:2: [l2isolate] {line}: {reason}");
        assert_eq!(found.len(), 1, "{line}: {found:?}");
        assert!(
            found[0].starts_with(&expected),
            "{} is not {expected}",
            found[0]
        );
    }
    assert_eq!(
        load("[l2isolate]\nroute_metric = x\n").config.route_metric,
        5
    );
    let all = cases.map(|(line, _)| line).join("\n");
    let keys = problems(&format!("[l2isolate]\n{all}\n"));
    assert!(keys.len() > 5, "{keys:?}");
}

/// The agent shares neutron.conf: what reaches RabbitMQ is read from there, and
/// only where it is needed. A password is never repeated.
/// It could verify nothing, and would call every prefix missing.
#[test]
fn gobgp_is_not_asked_what_it_picked_up() {
    let said = problems("[l2isolate]\nverify_daemon = gobgp\n");
    let [problem] = said.as_slice() else {
        panic!("{said:?}");
    };
    assert!(problem.contains("advertise = gobgp"), "{problem}");
    assert!(
        problem.contains("expected kernel, frr or bird"),
        "{problem}"
    );
}

#[test]
fn messaging_is_read_from_neutron_conf() {
    let text = "[DEFAULT]\ntransport_url = rabbit://u:geheim@h1,u:geheim@h2/v\n\
        [oslo_messaging_rabbit]\nssl = true\nssl_ca_file = /etc/$host/ca.pem\nrabbit_ha_queues = 1\n\
        [l2isolate]\nsource = neutron\n";
    let host = config("").host;
    let messaging = config(text).messaging.unwrap();
    assert_eq!(messaging.url.hosts.len(), 2);
    assert_eq!(
        (&*messaging.url.vhost, &*messaging.exchange),
        ("v", "neutron")
    );
    let ca = messaging.tls.unwrap().ca_file.unwrap();
    assert_eq!(ca, Path::new("/etc").join(host).join("ca.pem"));
    assert_eq!(
        config(&text.replace("= neutron", "= directory")).messaging,
        None
    );
    for (from, to, expected) in [
        (
            "ssl = true",
            "ssl = perhaps",
            "l2isolate.conf:4: [oslo_messaging_rabbit] ssl = perhaps: expected",
        ),
        (
            "$host",
            "$hots",
            "l2isolate.conf:5: [oslo_messaging_rabbit] ssl_ca_file = /etc/$hots/ca.pem: refers to $hots",
        ),
        (
            "h2/v",
            "h2:x",
            "l2isolate.conf:2: [DEFAULT] transport_url: transport_url has a port",
        ),
        (
            "= neutron",
            "= cloud",
            "l2isolate.conf:8: [l2isolate] source = cloud: is neither",
        ),
    ] {
        let found = problems(&text.replace(from, to)).join("\n");
        assert!(found.starts_with(expected), "{found} is not {expected}");
        assert!(!found.contains("geheim"), "{found}");
    }
}

#[test]
fn an_unknown_key_gets_a_hint() {
    let unknown = |key: &str| problems(&format!("[l2isolate]\n{key} = 1\n")).join("\n");
    assert_eq!(
        unknown("route_metrik"),
        "l2isolate.conf:2: [l2isolate] route_metrik: is no option; did you mean route_metric?"
    );
    assert_eq!(
        unknown("host"),
        "l2isolate.conf:2: [l2isolate] host: is no option of this group; it belongs to [DEFAULT]"
    );
    assert_eq!(
        unknown("bridge_mappings"),
        "l2isolate.conf:2: [l2isolate] bridge_mappings: is no option"
    );
}

/// `docs/l2isolate.conf.sample` is this.
fn sample() -> String {
    let mut text = String::from(
        "# Configuration of the l2isolate agent, with all defaults. Made from the table of\n\
         # options by: UPDATE_EXPECT=1 cargo test -p l2isolate sample\n",
    );
    let mut group = "";
    for spec in OPTIONS {
        if group != spec.group {
            group = spec.group;
            text += &format!("\n[{group}]\n");
        }
        text += "\n";
        for line in spec.help {
            text += &format!("# {}\n", line.trim());
        }
        text += &format!("# Expected: {}.\n", spec.expectation());
        text += format!("#{} = {}", spec.name, spec.default).trim_end();
        text += "\n";
    }
    text += "\n[oslo_messaging_rabbit]\n\n\
        # As in neutron.conf, and read as there, with older names and the query of\n\
        # transport_url: ssl, ssl_ca_file, ssl_cert_file, ssl_key_file,\n\
        # ssl_enforce_hostname_verification, heartbeat_timeout_threshold,\n\
        # rabbit_retry_interval, rabbit_retry_backoff, rabbit_interval_max,\n\
        # kombu_failover_strategy, rabbit_login_method. Others mean nothing here.\n";
    text
}

#[test]
fn the_sample_file_is_up_to_date() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/l2isolate.conf.sample"
    );
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, sample()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == sample(),
        "docs/l2isolate.conf.sample is stale; run UPDATE_EXPECT=1 cargo test -p l2isolate sample"
    );
}

/// The sample with its comment signs taken off is a configuration.
#[test]
fn the_sample_file_says_the_defaults() {
    let text: String = sample()
        .lines()
        .filter(|line| !line.contains(HOST_NAME))
        .map(|line| match line.strip_prefix('#') {
            Some(option) if !option.starts_with(' ') => format!("{option}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(config(&text), config(""));
}

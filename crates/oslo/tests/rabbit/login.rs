//! Whom the broker lets in, and what an operator reads where it doesn't.

use std::{path::PathBuf, time::Duration};

use l2isolate_lab::broker::Broker;
use l2isolate_oslo::{Context, Error, Options, State, Target, Transport};
use serde_json::json;

use crate::harness::{arguments, broker, connected, inside, until};

/// Why these options don't lead to a connection.
async fn refusal(options: Options) -> String {
    let transport = Transport::start(options);
    let mut status = transport.status();
    let failed = status.wait_for(|status| matches!(&status.state, State::Connecting(Some(_))));
    let failed = tokio::time::timeout(Duration::from_secs(40), failed).await;
    let state = failed.expect("no verdict").unwrap().state.clone();
    // A call says the same, and doesn't wait longer than it may.
    let client = transport
        .client(Target::new("t"))
        .timeout(Duration::from_millis(100));
    let error = client
        .call(&Context::admin(), "m", arguments(json!({})))
        .await;
    assert!(
        matches!(error, Err(Error::NotConnected { .. })),
        "{error:?}"
    );
    match state {
        State::Connecting(Some(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn plain(url: &str) -> Options {
    Options::read(url, |_| None).unwrap()
}

/// Each of an operator's usual mistakes has its own words, with the option to
/// look at, and never a password.
#[test]
fn mistakes_are_named() {
    let broker = broker();
    broker.control(&["add_vhost", "forbidden"]).unwrap();
    inside(broker, async || {
        for (url, parts) in [
            (
                "rabbit://openstack:wrongpass@127.0.0.1/",
                vec!["user `openstack`", "ACCESS_REFUSED"],
            ),
            (
                "rabbit://nobody:wrongpass@127.0.0.1/",
                vec!["user `nobody`", "transport_url"],
            ),
            (
                "rabbit://openstack:secret@127.0.0.1/nowhere",
                vec!["`nowhere`", "list_vhosts"],
            ),
            (
                "rabbit://openstack:secret@127.0.0.1/forbidden",
                vec!["`forbidden`", "list_permissions"],
            ),
            (
                "rabbit://openstack:secret@127.0.0.1:1/",
                vec!["127.0.0.1:1", "can't be reached", "refused"],
            ),
            (
                "rabbit://openstack:secret@no-such-name.invalid/",
                vec!["no-such-name.invalid", "can't be reached"],
            ),
            // The TLS port without TLS, the port mapper's, and TLS at the plain port.
            (
                "rabbit://openstack:secret@127.0.0.1:5671/",
                vec!["ssl = true"],
            ),
            (
                "rabbit://openstack:secret@127.0.0.1:4369/",
                vec!["doesn't answer as RabbitMQ does"],
            ),
            (
                "rabbit://openstack:secret@127.0.0.1:5672/?ssl=1",
                vec!["doesn't speak TLS", "5671"],
            ),
        ] {
            let reason = refusal(plain(url)).await;
            for part in parts {
                assert!(reason.contains(part), "{url}: {reason}");
            }
            assert!(
                !reason.contains("wrongpass") && !reason.contains("secret@"),
                "{reason}"
            );
        }
    });
}

/// The next host is tried where one doesn't answer, and names are found.
#[test]
fn one_good_host_is_enough() {
    let broker = broker();
    inside(broker, async || {
        let url = "rabbit://a:b@127.0.0.1:1,a:b@127.0.0.1:2,openstack:secret@localhost:5672/";
        let transport = Transport::start(plain(url));
        connected(&transport).await;
        let host = transport.status().borrow().state.clone();
        assert_eq!(
            host,
            State::Connected {
                host: "localhost:5672".to_owned(),
                blocked: None
            }
        );
    });
}

/// Operators find a connection by its name.
#[test]
fn the_connection_has_a_name() {
    let broker = broker();
    let mut options = plain(&broker.url(crate::harness::LOCALHOST));
    options.connection_name = crate::harness::unique("known-as");
    let name = options.connection_name.clone();
    inside(broker, async || {
        let transport = Transport::start(options);
        connected(&transport).await;
        let list = || {
            broker
                .control(&["list_connections", "client_properties"])
                .unwrap()
        };
        // What the command reads is refreshed now and then.
        until("the name is shown", async || list().contains(&name)).await;
        drop(transport);
        until("the connection is closed", async || !list().contains(&name)).await;
    });
}

/// TLS with options as in `[oslo_messaging_rabbit]`, at the port for it.
fn tls(broker: &Broker, address: &str, more: &[(&str, PathBuf)]) -> Options {
    let url = format!("rabbit://openstack:secret@{address}:5671/");
    let _ = broker;
    Options::read(&url, |name| match name {
        "ssl" => Some("true".to_owned()),
        _ => more
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, path)| path.to_string_lossy().into_owned()),
    })
    .unwrap()
}

/// By oslo.messaging's rules: without an authority nothing is verified; with
/// one, the chain is, and the name unless that is switched off.
#[test]
fn tls_is_as_strict_as_configured() {
    let broker = broker();
    let files = broker.certificates();
    let ca = ("ssl_ca_file", files.authority());
    let no_name = ("ssl_enforce_hostname_verification", PathBuf::from("false"));
    inside(broker, async || {
        for (address, more) in [
            ("127.0.0.1", vec![ca.clone()]),
            ("localhost", vec![ca.clone()]),
            ("127.0.0.2", vec![ca.clone(), no_name.clone()]),
            ("127.0.0.2", vec![]),
            (
                "localhost",
                vec![
                    ca.clone(),
                    ("ssl_cert_file", files.client()),
                    ("ssl_key_file", files.client_key()),
                ],
            ),
        ] {
            let transport = Transport::start(tls(broker, address, &more));
            connected(&transport).await;
        }
        let foreign = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(files.client(), foreign.path()).unwrap();
        let nothing = tempfile::NamedTempFile::new().unwrap();
        let file = |file: &tempfile::NamedTempFile| file.path().to_owned();
        let missing = PathBuf::from("/nowhere/ca.pem");
        for (address, more, parts) in [
            (
                "127.0.0.2",
                vec![ca.clone()],
                vec!["for another name", "ssl_enforce_hostname_verification"],
            ),
            (
                "localhost",
                vec![("ssl_ca_file", file(&foreign))],
                vec!["none of the authorities", "ssl_ca_file"],
            ),
            (
                "localhost",
                vec![("ssl_ca_file", missing)],
                vec!["ssl_ca_file /nowhere/ca.pem can't be read"],
            ),
            (
                "localhost",
                vec![("ssl_ca_file", file(&nothing))],
                vec!["has no certificate"],
            ),
            (
                "localhost",
                vec![
                    ca.clone(),
                    ("ssl_cert_file", files.client()),
                    ("ssl_key_file", files.server_key()),
                ],
                vec!["doesn't fit"],
            ),
            (
                "localhost",
                vec![ca.clone(), ("ssl_key_file", files.client_key())],
                vec!["no ssl_cert_file"],
            ),
        ] {
            let reason = refusal(tls(broker, address, &more)).await;
            for part in parts {
                assert!(reason.contains(part), "{reason}");
            }
        }
    });
}

/// The client's certificate arrives.
#[test]
fn the_broker_sees_the_clients_certificate() {
    let broker = broker();
    let files = broker.certificates();
    let more = [
        ("ssl_ca_file", files.authority()),
        ("ssl_cert_file", files.client()),
        ("ssl_key_file", files.client_key()),
    ];
    inside(broker, async || {
        let transport = Transport::start(tls(broker, "localhost", &more));
        connected(&transport).await;
        let list = || {
            broker
                .control(&["list_connections", "peer_cert_subject"])
                .unwrap()
        };
        until("the certificate is shown", async || {
            list().contains("CN=client")
        })
        .await;
    });
}

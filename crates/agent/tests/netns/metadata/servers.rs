//! The servers behind the proxy: several, some of them ill, in TLS, or
//! neutron-metadata-agent.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use l2isolate_lab::{
    netns,
    nova::{Manner, Nova, Options},
};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{LONG, ask, get, good, listens, nova, nova_options, served, served_by_nova, talk};
use crate::harness::{Guest, Host, Proxy};

/// A proxy that gives servers a second to answer.
fn impatient(host: &Host, guest: &Guest, servers: &[SocketAddr]) -> Proxy {
    let proxy = host.proxy(&format!("metadata_timeout = 1\n{}", nova_options(servers)));
    listens(host, guest);
    proxy
}

fn with(manner: Manner) -> Options {
    Options { manner, ..good() }
}

/// An address on which nobody listens.
fn nobody(host: &Host) -> SocketAddr {
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    netns::inside(&host.hv, free).unwrap()
}

/// Whatever is wrong with Nova, the guest gets an answer that says whose fault
/// it is, and the log says which server and why.
#[test]
fn an_ill_server_is_said_to_be_ill() {
    let (host, [one], first) = served("", "");
    drop(first);
    for (manner, status, reason) in [
        (None, 502, "Connection refused"),
        (Some(Manner::Silent), 504, "no answer within 1 s"),
        (
            Some(Manner::Slow(Duration::from_secs(3))),
            504,
            "no answer within 1 s",
        ),
        (Some(Manner::Garbage), 502, "invalid HTTP version"),
    ] {
        let stub = manner.clone().map(|manner| nova(&host, with(manner)));
        let address = stub
            .as_ref()
            .map_or_else(|| nobody(&host), |stub| stub.address);
        let proxy = impatient(&host, &one, &[address]);
        let before = host.proxy_log().len();
        let answer = get(&one, 4, "/openstack/latest/meta_data.json");
        assert_eq!(answer.status, status, "{manner:?}: {answer:?}");
        let log = host.proxy_log();
        let said = log[before..].lines().any(|line| {
            line.contains(&address.to_string())
                && line.contains(reason)
                && line.contains(one.port.id())
        });
        assert!(said, "{manner:?}: {}", &log[before..]);
        drop(proxy);
    }
    // One that breaks off in the middle: the guest sees that it isn't all.
    let stub = nova(&host, with(Manner::Torn));
    let _proxy = impatient(&host, &one, &[stub.address]);
    let torn = get(&one, 4, "/");
    assert!(
        torn.head.contains("content-length: 100") && torn.body.len() < 100,
        "{torn:?}"
    );
    // Nova's own refusals pass as they are.
    let wrong = nova(
        &host,
        Options {
            secret: "another".to_owned(),
            ..good()
        },
    );
    drop(_proxy);
    let _proxy = impatient(&host, &one, &[wrong.address]);
    let answer = get(&one, 4, "/");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (403, "the signature is wrong")
    );
}

/// With several servers guests notice nothing of one that is away or breaks
/// off; the others have its work, and it is asked again later.
#[test]
fn others_take_over() {
    let (host, [one], first) = served("", "");
    drop(first);
    let well = nova(&host, good());
    let garbage = nova(&host, with(Manner::Garbage));
    let away = nobody(&host);
    let proxy = impatient(&host, &one, &[away, garbage.address, well.address]);
    for round in 0..12 {
        assert_eq!(get(&one, 4, "/").status, 200, "round {round}");
        // What may not be said twice is said to one that hasn't heard it.
        let answer = ask(&one, 4, "POST", "/", "", "word");
        assert!(matches!(answer.status, 200 | 502), "{answer:?}");
    }
    // Those that are ill are left alone meanwhile.
    assert!(garbage.requests() < 12, "{}", garbage.requests());
    assert!(well.requests() >= 20, "{}", well.requests());
    // One that comes back gets its share.
    let back = Nova::start(&host.hv, away, good()).unwrap();
    host.until("it is asked again", || {
        assert_eq!(get(&one, 4, "/").status, 200);
        back.requests() > 0
    });
    assert!(
        host.proxy_log().contains("answers again"),
        "{}",
        host.proxy_log()
    );
    drop(proxy);
}

/// A server that restarts has closed its idle connections: no guest's request
/// is lost on one of them.
#[test]
fn a_restart_of_nova_costs_nothing() {
    let (host, [one], _proxy, mut nova) = served_by_nova("");
    for round in 0..20 {
        assert_eq!(get(&one, 4, "/").status, 200, "round {round}");
        let address = nova.address;
        drop(nova);
        nova = Nova::start(&host.hv, address, good()).unwrap();
        assert_eq!(get(&one, 4, "/").status, 200, "round {round}");
    }
}

/// Bodies go through piece by piece, both ways, and have their limits.
#[test]
fn bodies_pass_in_both_directions() {
    let (host, [one], proxy, _nova) = served_by_nova("");
    let large = get(&one, 6, "/bytes/8000000");
    assert_eq!((large.status, large.body.len()), (200, 8_000_000));
    let sent = "y".repeat(1_000_000);
    let said = ask(&one, 4, "POST", "/x", "", &sent).echo();
    assert_eq!(said["body"].as_str().unwrap().len(), sent.len());
    let chunks = "5\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n";
    let words = format!(
        "PUT /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
    );
    let said = super::Answer::read(&talk(&one, 4, words.as_bytes())).echo();
    assert_eq!(said["body"], "hello world");
    assert_eq!(said["headers"]["content-length"], serde_json::Value::Null);
    // More than the limit of 1 MiB, said at first or found out.
    let much = "z".repeat(1024 * 1024 + 1);
    assert_eq!(ask(&one, 4, "POST", "/x", "", &much).status, 413);
    let chunk = format!("{:x}\r\n{much}\r\n0\r\n\r\n", much.len());
    let words = format!(
        "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
    );
    assert_eq!(
        super::Answer::read(&talk(&one, 4, words.as_bytes())).status,
        413
    );
    assert!(proxy.peak() < 60 * 1024, "{} KiB for 8 MB", proxy.peak());
    assert!(
        !host.proxy_log().contains("doesn't answer"),
        "none of this is Nova's fault: {}",
        host.proxy_log()
    );
}

/// An authority, and a certificate for 127.0.0.1 of it, in the host's directory.
fn certificates(host: &Host) {
    let script = "
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
            -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=nova -keyout nova.key -out nova.csr
        printf 'subjectAltName=IP:127.0.0.1\\n' >nova.ext
        openssl x509 -req -in nova.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile nova.ext -out nova.pem
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other \
            -keyout other.key -out other.pem
        chmod 644 *.pem";
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(host.path("map").parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// TLS with an authority of one's own; nobody else is believed.
#[test]
fn tls_believes_only_its_authority() {
    let (host, [one], first) = served("", "");
    drop(first);
    certificates(&host);
    let chain = CertificateDer::from_pem_file(host.path("nova.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(host.path("nova.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let tls = Some(Arc::new(config));
    let nova = nova(&host, Options { tls, ..good() });
    for (lines, status) in [
        (
            format!("auth_ca_cert = {}", host.path("ca.pem").display()),
            200,
        ),
        (
            format!("auth_ca_cert = {}", host.path("other.pem").display()),
            502,
        ),
        ("nova_metadata_insecure = true".to_owned(), 200),
    ] {
        let options = nova_options(&[nova.address]);
        let proxy = host.proxy(&format!(
            "{options}nova_metadata_protocol = https\n{lines}\n"
        ));
        listens(&host, &one);
        assert_eq!(
            get(&one, 4, "/").status,
            status,
            "{lines}: {}",
            host.proxy_log()
        );
        drop(proxy);
    }
    assert!(
        host.proxy_log().contains("certificate"),
        "{}",
        host.proxy_log()
    );
}

/// The secret may be in a file of its own, which others can't read; it is never
/// in the log.
#[test]
fn the_secret_stays_secret() {
    let (host, [one], first) = served("", "log_level = trace");
    drop(first);
    let nova = nova(&host, good());
    let file = host.path("secret");
    std::fs::write(&file, format!("{}\n", super::SECRET)).unwrap();
    std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
    let options = format!(
        "log_level = trace\nmetadata_secret_file = {}\nmetadata_source = nova\n\
         [DEFAULT]\nnova_metadata_host = {}\n",
        file.display(),
        nova.address
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let status = host.proxy_command(&options).status().unwrap();
    assert_eq!(status.code(), Some(1));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let _proxy = host.proxy(&options);
    listens(&host, &one);
    assert_eq!(get(&one, 4, "/").status, 200);
    // Without any it doesn't begin: Nova would refuse everybody.
    let status = host
        .proxy_command("metadata_source = nova")
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(host.path("proxy.log")).unwrap();
    assert!(
        log.contains("chmod 600") && log.contains("wants a secret"),
        "{log}"
    );
    assert!(!log.contains(super::SECRET), "{log}");
}

/// neutron-metadata-agent reads once, at most 4,096 bytes, and closes; it finds
/// the port by the address, since no router has this id.
#[test]
fn neutrons_agent_is_asked_by_its_socket() {
    let (host, [one], first) = served("", "");
    drop(first);
    let path = host.path("metadata_proxy");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let agent = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            seen.push(String::from_utf8_lossy(&request[..length]).into_owned());
            stream
                .write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nfrom nova")
                .unwrap();
        }
        seen
    });
    let options = format!(
        "metadata_source = neutron\n[DEFAULT]\nmetadata_proxy_socket = {}\n",
        path.display()
    );
    let _proxy = host.proxy(&options);
    listens(&host, &one);
    let fields = "X-Neutron-Network-ID: other\r\nX-Forwarded-For: 10.0.0.1\r\nX-Long: ";
    let fields = format!("{fields}{}\r\n", "l".repeat(5000));
    for (family, method, body) in [(4, "GET", ""), (6, "GET", ""), (4, "POST", "password")] {
        let answer = ask(
            &one,
            family,
            method,
            "/openstack/latest/password?x=1",
            &fields,
            body,
        );
        assert_eq!((answer.status, answer.body.as_str()), (200, "from nova"));
    }
    for (request, method) in agent.join().unwrap().iter().zip(["GET", "GET", "POST"]) {
        let request = request.to_ascii_lowercase();
        let first = format!("{method} /openstack/latest/password?x=1 http/1.1\r\n").to_lowercase();
        assert!(request.starts_with(&first), "{request}");
        assert!(
            request.contains(&format!("x-forwarded-for: {}\r\n", one.port.v4())),
            "{request}"
        );
        assert!(request.contains("x-neutron-router-id: 00000000-0000-0000-0000-000000000000\r\n"));
        assert!(
            !request.contains("network-id") && !request.contains("x-long"),
            "{request}"
        );
        assert_eq!(
            request.ends_with("\r\n\r\npassword"),
            method == "POST",
            "{request}"
        );
    }
    // The agent is away.
    let started = Instant::now();
    assert_eq!(get(&one, 4, "/").status, 502);
    assert!(started.elapsed() < LONG);
}

//! A broker of a test's own: it starts, keeps what is durable over a kill, and
//! leaves nothing behind.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use l2isolate_lab::{
    broker::{Alone, Options},
    netns,
    process::in_namespaces,
};

/// Everybody builds on this: a broker that answers, that is another process
/// after a kill, and that takes namespace, directory and all its processes
/// along when it goes.
#[test]
fn a_broker_comes_and_goes() {
    let broker = Alone::start(Options {
        tls: Some(5671),
        ..Options::default()
    })
    .unwrap();
    let namespace = broker.namespace().to_owned();
    let directory = broker.log().ancestors().nth(2).unwrap().to_owned();
    // The TLS port sends no first word; it is enough that somebody is there.
    for port in [5671, 5672] {
        let socket = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        netns::inside(&namespace, || TcpStream::connect(socket).unwrap()).unwrap();
    }
    assert!(broker.certificates().authority().is_file());
    broker.control(&["add_vhost", "kept"]).unwrap();
    let first = broker.process().unwrap();
    broker.kill().unwrap();
    assert!(broker.process().is_none());
    broker.start().unwrap();
    assert_ne!(broker.process().unwrap(), first);
    let vhosts = broker.control(&["list_vhosts"]).unwrap();
    assert!(vhosts.lines().any(|line| line == "kept"), "{vhosts}");
    broker.restart().unwrap();
    let before = in_namespaces(std::slice::from_ref(&namespace)).unwrap();
    let before: Vec<_> = before.into_values().flatten().collect();
    assert!(before.len() >= 2, "server and port mapper");
    drop(broker);
    assert!(before.iter().all(|process| !process.lives()));
    assert!(netns::identity(&namespace).is_err());
    assert!(!directory.exists());
}

/// Who comes with a wrong password must be told so, or nobody can test that.
#[test]
fn credentials_are_checked() {
    let broker = Alone::start(Options {
        user: "somebody".to_owned(),
        password: "right".to_owned(),
        vhost: "a/b".to_owned(),
        ..Options::default()
    })
    .unwrap();
    assert_eq!(
        broker.url(Ipv4Addr::LOCALHOST.into()),
        "rabbit://somebody:right@127.0.0.1:5672/a%2Fb"
    );
    let ask = |password| broker.control(&["authenticate_user", "somebody", password]);
    ask("right").unwrap();
    ask("wrong").unwrap_err();
    // Not AMQP: the broker answers with its own version and hangs up.
    let socket = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), broker.options().port);
    let mut answer = [0; 4];
    netns::inside(broker.namespace(), || {
        let mut stream = TcpStream::connect(socket).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        stream.read_exact(&mut answer).unwrap();
    })
    .unwrap();
    assert_eq!(&answer, b"AMQP");
}

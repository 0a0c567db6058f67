//! A broker that tests share, and the other end in Python.

use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    time::{Duration, Instant},
};

use l2isolate_lab::{
    broker::{Alone, Broker, Options as BrokerOptions},
    netns,
};
use l2isolate_oslo::{Options, RemoteError, Transport};
use serde_json::{Map, Value};

/// The Python that Debian's packages are for.
const PYTHON: &str = "/usr/bin/python3";
/// Nothing takes that long; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(60);
pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A broker for all tests that leave it as it is. It lives in a thread of its
/// own, which is there until the end of the process, and so is the broker.
pub(crate) fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let alone = Alone::start(BrokerOptions {
                addresses: vec![LOCALHOST, Ipv4Addr::new(127, 0, 0, 2).into()],
                tls: Some(5671),
                ..BrokerOptions::default()
            });
            let alone = alone.unwrap();
            sender.send((*alone).clone()).unwrap();
            loop {
                std::thread::park();
            }
        });
        receiver.recv().unwrap()
    })
}

/// A broker of one test alone. Not several at once: each takes a core for
/// some seconds.
pub(crate) fn own_broker() -> (Alone, impl Drop) {
    static ONE: Mutex<()> = Mutex::new(());
    let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    (Alone::start(BrokerOptions::default()).unwrap(), turn)
}

/// Runs a test's work in the broker's namespace.
pub(crate) fn inside<T: Send>(broker: &Broker, work: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(async {
            tokio::time::timeout(LONG * 2, work())
                .await
                .expect("a test takes two minutes")
        });
        runtime.shutdown_background();
        result
    };
    netns::inside(broker.namespace(), run).unwrap()
}

/// Options for the broker's plain port.
pub(crate) fn options(broker: &Broker) -> Options {
    Options::read(&broker.url(LOCALHOST), |_| None).unwrap()
}

pub(crate) fn transport(broker: &Broker) -> Transport {
    Transport::start(options(broker))
}

/// A name that no other test has.
pub(crate) fn unique(kind: &str) -> String {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{kind}-{}-{number}", std::process::id())
}

/// Arguments of a call.
pub(crate) fn arguments(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

/// The exception of the other side.
pub(crate) fn remote(error: l2isolate_oslo::Error) -> RemoteError {
    match error {
        l2isolate_oslo::Error::Remote { error, .. } => error,
        other => panic!("{other}"),
    }
}

/// Waits for something.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !condition().await {
        assert!(Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the transport is connected.
pub(crate) async fn connected(transport: &Transport) {
    let mut status = transport.status();
    let up = status.wait_for(|status| status.state.is_connected());
    tokio::time::timeout(LONG, up).await.unwrap().unwrap();
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/python")
        .join(name)
}

fn python(broker: &Broker, name: &str) -> Command {
    // Executed in place, so that it doesn't outlive the test.
    let mut command = netns::command(broker.namespace(), "setpriv");
    command
        .args(["--pdeathsig", "KILL", PYTHON])
        .arg(script(name))
        .stdin(Stdio::null());
    command
}

/// `examples/python/server.py`, running; dropping it kills it.
pub(crate) struct PythonServer(Child);

impl PythonServer {
    /// Starts one and waits until it serves.
    pub(crate) fn start(broker: &Broker, topic: &str, more: &[&str]) -> Self {
        Self::at(broker, &broker.url(LOCALHOST), topic, more)
    }

    /// The same, with another URL.
    pub(crate) fn at(broker: &Broker, url: &str, topic: &str, more: &[&str]) -> Self {
        let mut child = python(broker, "server.py")
            .args([url, topic])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "serving\n");
        Self(child)
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `examples/python/client.py`, and returns what it prints.
pub(crate) async fn python_client(broker: &Broker, more: &[&str]) -> Value {
    let mut command = python(broker, "client.py");
    command.arg(broker.url(LOCALHOST)).args(more);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

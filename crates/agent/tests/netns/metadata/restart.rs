//! The agent, the proxy and the port map come and go; guests are served.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdout, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use l2isolate_lab::nova::{Manner, Options};

use super::{Answer, connect, get, good, listens, nova, nova_options, served, served_by_nova};
use crate::harness::{Host, Port};

/// The proxy under a service manager; dropping it ends both.
struct Managed {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Managed {
    fn start(host: &Host, options: &str) -> Self {
        let command = host.proxy_command(options);
        let mut manager = std::process::Command::new("python3");
        manager
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/netns/metadata/manager.py"
            ))
            .arg(host.path("notify"))
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let log = fs::OpenOptions::new()
            .append(true)
            .open(host.path("proxy.log"));
        let mut child = manager.stderr(log.unwrap()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    fn order(&mut self, order: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(order).unwrap();
    }

    /// What is told until this line, which it ends with.
    fn until(&mut self, line: &str) -> Vec<String> {
        // Whoever waits in vain finds the line it waits for in the test's output.
        eprintln!("waiting for: {line}");
        let mut lines = Vec::new();
        loop {
            let mut next = String::new();
            assert!(
                self.said.read_line(&mut next).unwrap() > 0,
                "it ended: {lines:?}"
            );
            let next = next.trim_end().to_owned();
            let found = next == line;
            lines.push(next);
            if found {
                return lines;
            }
        }
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Sets the flag when it is dropped.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The socket's names of a guest's tap.
fn kept(port: &Port) -> [String; 2] {
    ["4", "6"].map(|family| format!("kept {}.{family}", port.tap()))
}

/// Restarted by its service manager, the proxy fails nobody: who connects
/// meanwhile waits in a socket that stays open, and who has asked is answered.
/// Killed, it is back at once.
#[test]
fn a_restart_of_the_proxy_fails_nobody() {
    let (host, [one, two], first) = served("", "");
    drop(first);
    let slow = Options {
        manner: Manner::Slow(Duration::from_millis(300)),
        ..good()
    };
    let stub = nova(&host, slow);
    let mut managed = Managed::start(&host, &nova_options(&[stub.address]));
    managed.until("ready");
    listens(&host, &one);
    listens(&host, &two);
    let (asked, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let end = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        for (guest, family) in [(&one, 4), (&two, 6)] {
            let (asked, failed, end) = (asked.clone(), failed.clone(), end.clone());
            scope.spawn(move || {
                let words = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
                while !end.load(Ordering::Relaxed) {
                    let mut answer = String::new();
                    let done = connect(guest, family).and_then(|mut stream| {
                        stream.write_all(words)?;
                        stream.read_to_string(&mut answer)
                    });
                    let answered = done.is_ok() && Answer::read(&answer).status == 200;
                    if !answered {
                        eprintln!("IPv{family}: {done:?} {answer:?}");
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(u64::from(!answered), Ordering::Relaxed);
                }
            });
        }
        // Also if an assertion fails, or its guests would ask for ever.
        let _ending = Ending(&end);
        for _ in 0..4 {
            let before = asked.load(Ordering::Relaxed);
            host.until("guests ask", || asked.load(Ordering::Relaxed) > before + 2);
            managed.order(b"r");
            let told = managed.until("ready");
            assert!(told.contains(&"ended 0".to_owned()), "{told:?}");
        }
        let before = asked.load(Ordering::Relaxed);
        host.until("guests ask", || asked.load(Ordering::Relaxed) > before + 2);
    });
    let asked = asked.load(Ordering::Relaxed);
    assert_eq!(
        failed.load(Ordering::Relaxed),
        0,
        "of {asked} requests: {}",
        host.proxy_log()
    );
    assert!(
        host.proxy_log().contains("adopted=4"),
        "{}",
        host.proxy_log()
    );
    managed.order(b"k");
    managed.until("ready");
    assert_eq!(get(&one, 4, "/").status, 200);

    // A tap that went meanwhile: its sockets are given back.
    fs::remove_file(
        host.metadata_directory()
            .join(format!("{}.json", two.port.tap())),
    )
    .unwrap();
    let told = managed.until(&format!("forgot {}.6", two.port.tap()));
    assert!(
        told.contains(&format!("forgot {}.4", two.port.tap())),
        "{told:?}"
    );
    host.tell(&[&two.port]);
    let names = kept(&two.port);
    let told = managed.until(&names[1]);
    assert!(told.contains(&names[0]), "{told:?}");
    assert_eq!(get(&two, 4, "/").status, 200);
}

/// Without a service manager that keeps its sockets it ends as it should:
/// requests under way are answered, further ones refused at once.
#[test]
fn the_end_is_orderly() {
    let (host, [one], first) = served("", "");
    drop(first);
    let slow = Options {
        manner: Manner::Slow(Duration::from_secs(1)),
        ..good()
    };
    let stub = nova(&host, slow);
    let proxy = host.proxy(&nova_options(&[stub.address]));
    listens(&host, &one);
    let mut stream = connect(&one, 4).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    host.until("it is asked", || stub.requests() > 0);
    proxy.terminate();
    host.until("nobody listens", || connect(&one, 4).is_err());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(Answer::read(&answer).status, 200, "{answer}");
    proxy.ended();
}

/// The agent's end, a file that is broken, a map that is away: guests that are
/// known stay known.
#[test]
fn what_is_known_outlives_the_agent() {
    let (mut host, [one, two], _proxy, _nova) = served_by_nova("");
    host.kill();
    for guest in [&one, &two] {
        for family in [4, 6] {
            assert_eq!(get(guest, family, "/").status, 200);
        }
    }
    host.tell_text(&one.port, "{\"version\": 1, ");
    host.until("it is said", || host.proxy_log().contains("can't be used"));
    assert_eq!(get(&one, 4, "/").status, 200);
    let map = host.metadata_directory();
    fs::rename(&map, host.path("elsewhere")).unwrap();
    host.until("it is said", || {
        host.proxy_log().contains("the port map can't be read")
    });
    assert_eq!(get(&one, 4, "/").status, 200);
    fs::rename(host.path("elsewhere"), &map).unwrap();
    host.start();
    // News are followed again, in the directory that is there now.
    host.write(&one.port.with("instance", "i2"));
    host.until("the map is read", || {
        get(&one, 4, "/").echo()["headers"]["x-instance-id"] == "i2"
    });
    assert_eq!(get(&two, 6, "/").status, 200);
}

//! What a guest does to harm others harms itself.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    thread::sleep,
    time::Duration,
};

use l2isolate_lab::netns;
use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn},
};

use super::{LONG, connect, get, served, served_by_nova, talk};
use crate::harness::{Guest, Proxy, Random};

/// The proxy's open files.
fn files(proxy: &Proxy) -> usize {
    let directory = format!("/proc/{}/fd", proxy.pid());
    fs::read_dir(directory).unwrap().count()
}

/// Connections that nobody waits for: some are made, some wait for their turn.
fn besiege(guest: &Guest, count: usize) -> Vec<OwnedFd> {
    let one = |_| {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        let address = SockaddrIn::new(169, 254, 169, 254, 80);
        let result = socket::connect(socket.as_raw_fd(), &address);
        assert_eq!(result, Err(Errno::EINPROGRESS));
        socket
    };
    netns::inside(&guest.namespace, || (0..count).map(one).collect()).unwrap()
}

/// A thousand connections of one guest take as many places as it has, and no
/// more of the proxy; others don't notice.
#[test]
fn a_thousand_connections_are_one_guests_own_trouble() {
    let (host, [greedy, other], proxy) = served("", "");
    // At rest: of what it was asked until now something may still be open.
    let at_rest = (0..20).map(|_| {
        sleep(Duration::from_millis(20));
        files(&proxy)
    });
    let before = at_rest.min().unwrap();
    let siege = besiege(&greedy, 1000);
    host.until("its places are taken", || files(&proxy) >= before + 14);
    for family in [4, 6].repeat(20) {
        assert_eq!(get(&other, family, "/latest/meta-data/mac").status, 200);
    }
    assert!(files(&proxy) <= before + 20, "{} files", files(&proxy));
    assert!(proxy.peak() < 48 * 1024, "{} KiB", proxy.peak());
    drop(siege);
    // What it has left behind in the kernel is worked off.
    host.until("it is served again", || {
        connect(&greedy, 4).is_ok_and(|mut stream| {
            let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let mut answer = String::new();
            asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
        })
    });
}

/// A header that takes its time, and a body that does, are cut off; so many of
/// them as one guest can have don't keep another one waiting.
#[test]
fn slow_guests_are_cut_off() {
    let (_host, [slow, other], _proxy, nova) = served_by_nova("");
    let begin = |words: &[u8]| -> TcpStream {
        let mut stream = connect(&slow, 4).unwrap();
        stream.write_all(words).unwrap();
        stream
    };
    let mut slow_ones: Vec<TcpStream> = (0..8).map(|_| begin(b"GET / HTTP/1.1\r\nX-A: ")).collect();
    slow_ones.extend(
        (0..4).map(|_| begin(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")),
    );
    // Idle, and nothing said at all.
    slow_ones.extend((0..2).map(|_| begin(b"")));
    let mut cut = 0;
    for second in 0..LONG.as_secs() * 2 {
        for stream in &mut slow_ones {
            // A byte a second is always something.
            let _ = stream.write_all(b"x");
        }
        assert_eq!(get(&other, 4, "/").status, 200, "after {second} s");
        cut = slow_ones.iter().filter(|stream| is_closed(stream)).count();
        if cut == slow_ones.len() {
            break;
        }
        sleep(Duration::from_secs(1));
    }
    assert_eq!(cut, slow_ones.len(), "some are still served");
    drop(slow_ones);
    // Nova isn't blamed for them.
    assert!(nova.requests() > 0);
    assert_eq!(get(&slow, 4, "/").status, 200);
}

/// Whether the other end has closed it, or reset it.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut answer = [0; 1024];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// A request is as large as it may be, or refused.
#[test]
fn huge_requests_are_refused() {
    let (_host, [one], proxy) = served("", "");
    let long = "a".repeat(100_000);
    let many = "A: b\r\n".repeat(1000);
    for (words, status) in [
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"),
            "431",
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "414"),
    ] {
        let answer = talk(&one, 4, words.as_bytes());
        let code = answer.split(' ').nth(1).unwrap_or("none");
        // What is sent after it was refused may reset the connection.
        assert!(["none", "431", status].contains(&code), "{answer}");
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert_eq!(get(&one, 4, "/").status, 200);
    assert!(proxy.peak() < 48 * 1024, "{} KiB", proxy.peak());
}

/// Bytes that are no HTTP, or nearly: each connection ends, the proxy goes on,
/// and nothing of it becomes another request to Nova than was meant.
#[test]
fn no_bytes_break_it() {
    let (host, [one, other], proxy, nova) = served_by_nova("");
    let mut random = Random::new();
    let sound = b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\nTE: x\r\n\r\nword";
    for round in 0..300 {
        let mut words: Vec<u8> = sound.to_vec();
        if random.chance(1, 4) {
            words = (0..random.below(400))
                .map(|_| random.next().to_le_bytes()[0])
                .collect();
        }
        for _ in 0..random.below(4) {
            let at = usize::try_from(random.below(words.len() as u64 + 1)).unwrap();
            match random.below(4) {
                0 => words.insert(at, random.next().to_le_bytes()[0]),
                1 => words.truncate(at),
                2 => words.extend_from_slice(b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                _ => drop(words.splice(at..at, *b"\r\n")),
            }
        }
        let mut stream = connect(&one, if round % 2 == 0 { 4 } else { 6 }).unwrap();
        let _ = stream.write_all(&words);
        // It may have been closed at the other end already.
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        // At most as many answers as requests were begun.
        assert!(
            answer.matches("HTTP/1.").count() <= 3,
            "{words:?}: {answer}"
        );
    }
    assert_eq!(get(&other, 4, "/").status, 200);
    let log = host.proxy_log();
    assert!(!log.contains("panic"), "{log}");
    assert!(proxy.peak() < 48 * 1024, "{} KiB", proxy.peak());
    assert!(nova.requests() > 0);
}

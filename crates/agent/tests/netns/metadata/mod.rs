//! The metadata proxy, asked by guests on taps that the agent has wired.

mod clients;
mod cloud_init;
mod identity;
mod limits;
mod restart;
mod servers;

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream},
    time::Duration,
};

use l2isolate_lab::{
    netns,
    nova::{Nova, Options},
};
use nix::net::if_::if_nametoindex;

use crate::harness::{Guest, Host, Port, Proxy};

/// What the proxy and the stub of Nova share.
const SECRET: &str = "correct horse";

/// Longer than anything may take.
const LONG: Duration = Duration::from_secs(20);

/// Where guests ask.
const V4: &str = "169.254.169.254";
const V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);

/// A host whose guests' taps are wired and known to a proxy.
fn served<const N: usize>(options: &str, proxy: &str) -> (Host, [Guest; N], Proxy) {
    let mut host = Host::with(options);
    let guests: [Guest; N] = host.guests();
    host.start();
    let ports: Vec<&Port> = guests.iter().map(|guest| &guest.port).collect();
    host.wired(&ports);
    host.tell(&ports);
    let proxy = host.proxy(proxy);
    for guest in &guests {
        listens(&host, guest);
    }
    (host, guests, proxy)
}

/// Waits until a guest finds the proxy at both addresses.
fn listens(host: &Host, guest: &Guest) {
    for family in [4, 6] {
        host.until("the proxy listens", || connect(guest, family).is_ok());
    }
}

/// A stub of Nova in the hypervisor's namespace, and the proxy's options for it.
fn nova(host: &Host, options: Options) -> Nova {
    Nova::start(&host.hv, "127.0.0.1:0".parse().unwrap(), options).unwrap()
}

/// Lines for the proxy's configuration, after `[l2isolate]`.
fn nova_options(servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    format!(
        "metadata_source = nova\n[DEFAULT]\nnova_metadata_host = {}\n\
         metadata_proxy_shared_secret = {SECRET}\n",
        servers.join(", ")
    )
}

/// As [`served`], with a stub of Nova that behaves.
fn served_by_nova<const N: usize>(options: &str) -> (Host, [Guest; N], Proxy, Nova) {
    let (host, guests, first) = served::<N>(options, "");
    drop(first);
    let nova = nova(&host, good());
    let proxy = host.proxy(&nova_options(&[nova.address]));
    for guest in &guests {
        listens(&host, guest);
    }
    (host, guests, proxy, nova)
}

fn good() -> Options {
    Options {
        secret: SECRET.to_owned(),
        ..Options::default()
    }
}

/// Connects from a guest, by one of the families.
fn connect(guest: &Guest, family: u8) -> std::io::Result<TcpStream> {
    let connect = || {
        let stream = match family {
            4 => TcpStream::connect((V4, 80)),
            _ => {
                let device = if_nametoindex("eth0").unwrap();
                TcpStream::connect(SocketAddrV6::new(V6, 80, 0, device))
            }
        }?;
        stream.set_read_timeout(Some(LONG))?;
        Ok(stream)
    };
    netns::inside(&guest.namespace, connect).unwrap()
}

/// Sends bytes on a new connection, and reads until the proxy closes it.
fn talk(guest: &Guest, family: u8, words: &[u8]) -> String {
    let mut stream = connect(guest, family).unwrap();
    // It may have been closed before all was written.
    let _ = stream.write_all(words);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Asks for a path, on a new connection.
fn get(guest: &Guest, family: u8, path: &str) -> Answer {
    ask(guest, family, "GET", path, "", "")
}

/// Asks with further header lines and a body.
fn ask(guest: &Guest, family: u8, method: &str, path: &str, fields: &str, body: &str) -> Answer {
    let length = match body {
        "" => String::new(),
        body => format!("Content-Length: {}\r\n", body.len()),
    };
    let words = format!(
        "{method} {path} HTTP/1.1\r\nHost: {V4}\r\nConnection: close\r\n{fields}{length}\r\n{body}"
    );
    Answer::read(&talk(guest, family, words.as_bytes()))
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            status: status.unwrap_or_default(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// What a stub of Nova says that it was sent.
    fn echo(&self) -> serde_json::Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

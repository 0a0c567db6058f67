//! A DHCPv4 client that only asks: for tests and benchmarks that need hundreds
//! of them, or questions that no decent client would ask.
//!
//! It shares no code with the agent and sets nothing up with what it is told.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};

use crate::{Error, Result, netns};

/// Message types (RFC 2132, 9.6).
pub const DISCOVER: u8 = 1;
/// What the server proposes.
pub const OFFER: u8 = 2;
/// Asks for an address.
pub const REQUEST: u8 = 3;
/// The server agrees.
pub const ACK: u8 = 5;
/// The server doesn't.
pub const NAK: u8 = 6;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Options that are asked for: netmask, router, name servers, host name,
/// domain, MTU, broadcast, NTP, boot server and file, routes by both numbers.
const ASKED: [u8; 12] = [1, 3, 6, 12, 15, 26, 28, 42, 66, 67, 121, 249];

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its message type.
    pub kind: u8,
    /// The address for the client (yiaddr).
    pub address: Ipv4Addr,
    /// Where to boot from (siaddr).
    pub next_server: Ipv4Addr,
    /// Options by number.
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl Answer {
    /// The server's identifier.
    #[must_use]
    pub fn server(&self) -> Ipv4Addr {
        self.addresses(54)
            .first()
            .copied()
            .unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// An option's addresses.
    #[must_use]
    pub fn addresses(&self, option: u8) -> Vec<Ipv4Addr> {
        let bytes = self
            .options
            .get(&option)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let octets = bytes
            .chunks_exact(4)
            .filter_map(|four| <[u8; 4]>::try_from(four).ok());
        octets.map(Ipv4Addr::from).collect()
    }

    /// An option as text, without the zero that some servers put behind it.
    #[must_use]
    pub fn text(&self, option: u8) -> String {
        let bytes = self
            .options
            .get(&option)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        text.trim_end_matches('\0').to_owned()
    }

    fn read(bytes: &[u8], transaction: u32) -> Option<Self> {
        let four = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
        if bytes.first() != Some(&2)
            || four(4)? != transaction.to_be_bytes()
            || four(236)? != COOKIE
        {
            return None;
        }
        let mut options = BTreeMap::new();
        let mut rest = bytes.get(240..)?;
        while let Some((&code, after)) = rest.split_first() {
            rest = match code {
                0 => after,
                255 => break,
                _ => {
                    let (&length, after) = after.split_first()?;
                    let (content, after) = after.split_at_checked(length.into())?;
                    options
                        .entry(code)
                        .or_insert_with(Vec::new)
                        .extend_from_slice(content);
                    after
                }
            };
        }
        Some(Self {
            kind: *options.get(&53)?.first()?,
            address: four(16)?.into(),
            next_server: four(20)?.into(),
            options,
        })
    }
}

/// A client on a device.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    mac: [u8; 6],
    transaction: u32,
    last: Vec<u8>,
}

impl Client {
    /// Opens one on a device of a namespace; `mac` is what it says to have.
    ///
    /// # Errors
    /// The namespace or the device isn't there.
    pub fn open(namespace: &str, device: &str, mac: [u8; 6]) -> Result<Self> {
        netns::inside(namespace, || Self::open_here(device, mac))?
            .map_err(Error::io(format!("DHCP client on {device} in {namespace}")))
    }

    /// The same in the namespace of the calling thread.
    ///
    /// # Errors
    /// The device isn't there.
    pub fn open_here(device: &str, mac: [u8; 6]) -> std::io::Result<Self> {
        // Several on one host, each on its device, with one port.
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Datagram,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::Broadcast, &true)?;
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(device))?;
        let any = nix::sys::socket::SockaddrIn::new(0, 0, 0, 0, 68);
        nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &any)?;
        let socket = UdpSocket::from(socket);
        socket.set_nonblocking(true)?;
        let [.., c, d, e, f] = mac;
        Ok(Self {
            socket,
            mac,
            transaction: u32::from_be_bytes([c, d, e, f]),
            last: Vec::new(),
        })
    }

    /// Sends a message with further options; the next answers are to it.
    ///
    /// # Errors
    /// The device is down.
    pub fn send(&mut self, kind: u8, options: &[(u8, &[u8])]) -> std::io::Result<()> {
        self.send_from(kind, self.mac, Ipv4Addr::UNSPECIFIED, options)
    }

    /// The same in another's name: hardware address, and the address that the
    /// client has (ciaddr).
    ///
    /// # Errors
    /// The device is down.
    pub fn send_from(
        &mut self,
        kind: u8,
        mac: [u8; 6],
        address: Ipv4Addr,
        options: &[(u8, &[u8])],
    ) -> std::io::Result<()> {
        self.transaction = self.transaction.wrapping_add(1);
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(self.transaction.to_be_bytes());
        // No seconds; answers by broadcast: there is no address yet.
        bytes.extend([0, 0, 0x80, 0]);
        bytes.extend(address.octets());
        bytes.resize(28, 0);
        bytes.extend(mac);
        bytes.resize(236, 0);
        bytes.extend(COOKIE);
        bytes.extend([53, 1, kind]);
        for (code, content) in options {
            bytes.push(*code);
            bytes.push(u8::try_from(content.len()).unwrap_or(u8::MAX));
            bytes.extend(*content);
        }
        bytes.push(55);
        bytes.push(ASKED.len() as u8);
        bytes.extend(ASKED);
        bytes.push(255);
        bytes.resize(bytes.len().max(300), 0);
        self.last = bytes;
        self.again()
    }

    /// Sends the last message again, as clients do that get no answer: it is
    /// the same transaction.
    ///
    /// # Errors
    /// The device is down.
    pub fn again(&self) -> std::io::Result<()> {
        self.raw(&self.last)
    }

    /// Sends any bytes to the server.
    ///
    /// # Errors
    /// The device is down.
    pub fn raw(&self, bytes: &[u8]) -> std::io::Result<()> {
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
        self.socket.send_to(bytes, everybody).map(drop)
    }

    /// An answer to the last message, if there is one already.
    #[must_use]
    pub fn received(&self) -> Option<Answer> {
        let mut bytes = [0; 2048];
        while let Ok((length, _)) = self.socket.recv_from(&mut bytes) {
            let answer = Answer::read(bytes.get(..length)?, self.transaction);
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// An answer to the last message, waited for.
    #[must_use]
    pub fn answer(&self, longest: Duration) -> Option<Answer> {
        let end = Instant::now() + longest;
        loop {
            if let Some(answer) = self.received() {
                return Some(answer);
            }
            let left = end.checked_duration_since(Instant::now())?;
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut fds, timeout);
        }
    }

    /// Asks for what an offer offers.
    ///
    /// # Errors
    /// The device is down.
    pub fn request(&mut self, offer: &Answer) -> std::io::Result<()> {
        let (address, server) = (offer.address.octets(), offer.server().octets());
        self.send(REQUEST, &[(50, &address), (54, &server)])
    }

    /// Gets a lease: asks again every `pause`, as clients do, until `longest`
    /// is over.
    #[must_use]
    pub fn lease(&mut self, pause: Duration, longest: Duration) -> Option<Answer> {
        let end = Instant::now() + longest;
        while Instant::now() < end {
            if self.send(DISCOVER, &[]).is_err() {
                std::thread::sleep(pause);
                continue;
            }
            let Some(offer) = self.answer(pause) else {
                continue;
            };
            if offer.kind != OFFER || self.request(&offer).is_err() {
                continue;
            }
            match self.answer(pause) {
                Some(answer) if answer.kind == ACK => return Some(answer),
                // Not too fast: somebody else's answer is awaited as well.
                Some(_) => std::thread::sleep(Duration::from_millis(20)),
                None => {}
            }
        }
        None
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

//! Frames that no ordinary program sends: ARP requests of every kind (RFC 826,
//! RFC 5227), and a router advertisement from where none belongs (RFC 4861).

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use l2isolate_lab::netns;
use nix::{
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send,
            setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// How long one look for frames takes at least.
const PAUSE: Duration = Duration::from_millis(20);

/// ARP on one device of a guest, past the guest's kernel.
pub(crate) struct Arp {
    socket: OwnedFd,
    own: Mac,
}

impl Arp {
    /// Listens on a device.
    pub(crate) fn open(namespace: &str, device: &str) -> Self {
        let (socket, own) = netns::inside(namespace, || packets(device)).unwrap();
        Self { socket, own }
    }

    /// Broadcasts a request for `target`, as from `sender` with the device's
    /// own hardware address. Sender 0.0.0.0 is a probe, sender = target an
    /// announcement (RFC 5227).
    pub(crate) fn request(&self, sender: &str, target: &str) {
        let mut frame = ethernet(BROADCAST, self.own, ARP);
        // Ethernet, IPv4, lengths, request.
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(self.own);
        frame.extend(sender.parse::<Ipv4Addr>().unwrap().octets());
        frame.extend([0; 6]);
        frame.extend(target.parse::<Ipv4Addr>().unwrap().octets());
        send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
    }

    /// Who claims, within `wait`, to have `target`. A first answer ends it.
    pub(crate) fn answer(&self, target: &str, wait: Duration) -> Option<String> {
        let target = target.parse::<Ipv4Addr>().unwrap().octets();
        let end = Instant::now() + wait;
        let mut frame = [0; 2048];
        while Instant::now() < end {
            let Ok(length) = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) else {
                continue;
            };
            let frame = &frame[..length];
            // An ARP reply whose sender has the address; ours aren't replies.
            let reply = length >= 42 && frame[12..14] == ARP && frame[20..22] == [0, 2];
            if reply && frame[28..32] == target {
                let mac: Vec<String> = frame[22..28]
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                return Some(mac.join(":"));
            }
        }
        None
    }
}

/// Sends a router advertisement for 2001:db8:bad::/64 out of a device, as from
/// the router fe80::bad.
pub(crate) fn advertise_router(namespace: &str, device: &str) {
    let (socket, own) = netns::inside(namespace, || packets(device)).unwrap();
    let source = "fe80::bad".parse::<Ipv6Addr>().unwrap().octets();
    let everybody = "ff02::1".parse::<Ipv6Addr>().unwrap().octets();
    // Type, code, checksum, hop limit, flags, lifetime 1800 s, two timers.
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // Prefix information: 64 bits, on-link and autonomous, two lifetimes.
    message.extend([
        3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0,
    ]);
    message.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
    message.extend([1, 1]);
    message.extend(own);
    send_icmp6(&socket, own, (&source, &everybody), message);
}

/// Sends a neighbour solicitation as from `source`, or an advertisement that
/// claims `target`, with the device's own hardware address (RFC 4861).
pub(crate) fn claim_neighbour(
    namespace: &str,
    device: &str,
    claims: &[(Ipv6Addr, Ipv6Addr, bool)],
) {
    let (socket, own) = netns::inside(namespace, || packets(device)).unwrap();
    let everybody = "ff02::1".parse::<Ipv6Addr>().unwrap().octets();
    for (source, target, solicits) in claims {
        // An advertisement overrides what is known.
        let (kind, flags, option) = if *solicits {
            (135, 0, 1)
        } else {
            (136, 0x20, 2)
        };
        let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        message.extend(target.octets());
        message.extend([option, 1]);
        message.extend(own);
        send_icmp6(&socket, own, (&source.octets(), &everybody), message);
    }
}

/// Sends an ICMPv6 message, whose checksum is made here, with hop limit 255.
fn send_icmp6(
    socket: &OwnedFd,
    own: Mac,
    (source, destination): (&[u8; 16], &[u8; 16]),
    mut message: Vec<u8>,
) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    // RFC 8200, 8.1: addresses, length and next header stand before it.
    let pseudo = [
        &source[..],
        destination,
        &[0, 0],
        &length,
        &[0, 0, 0, 58],
        &message,
    ]
    .concat();
    let checksum = checksum(&pseudo).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], own, IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length);
    frame.extend([58, 255]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(message);
    send(socket.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
}

fn ethernet(to: Mac, from: Mac, kind: [u8; 2]) -> Vec<u8> {
    [&to[..], &from, &kind].concat()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// A socket for all frames of a device, and the device's hardware address.
pub(crate) fn packets(device: &str) -> (OwnedFd, Mac) {
    let found = getifaddrs().unwrap().find_map(|interface| {
        let address = interface.address?;
        let link = address.as_link_addr()?;
        (interface.interface_name == device).then_some(*link)
    });
    let link = found.unwrap();
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .unwrap();
    bind(socket.as_raw_fd(), &link).unwrap();
    let pause = TimeVal::new(0, PAUSE.as_micros().try_into().unwrap());
    setsockopt(&socket, sockopt::ReceiveTimeout, &pause).unwrap();
    (socket, link.addr().unwrap())
}

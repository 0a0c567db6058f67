//! Dropped packets as an operator sees them, by a listener of this test's own to
//! the NFLOG group (linux/netfilter/nfnetlink_log.h).

use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, OwnedFd},
};

use l2isolate_kernel::testing::in_new_netns;
use l2isolate_plan::filter::FilterConfig;
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
        setsockopt, socket, sockopt,
    },
};
use serde_json::json;

use crate::{
    cloud::{address, mac},
    guest::{one_port, wire},
    judge::Wire,
    rig::{Rig, frame},
};

/// `NFNL_SUBSYS_ULOG << 8`, with NFULNL_MSG_PACKET and _CONFIG.
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = 4 << 8 | 1;
/// NFULA_CFG_CMD (NFULNL_CFG_CMD_BIND) and NFULA_CFG_MODE (NFULNL_COPY_PACKET).
const BIND: [u8; 8] = [5, 0, 1, 0, 1, 0, 0, 0];
const COPY: [u8; 12] = [10, 0, 2, 0, 0, 0, 0xff, 0xff, 2, 0, 0, 0];
/// NFULA_CFG_QTHRESH: each packet by itself.
const SINGLY: [u8; 8] = [8, 0, 5, 0, 0, 0, 0, 1];
/// NFULA_IFINDEX_INDEV, _OUTDEV, NFULA_PAYLOAD, NFULA_PREFIX.
const IN: u16 = 4;
const OUT: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;

/// A listener to an NFLOG group of this namespace.
struct Log(OwnedFd);

/// A packet that was logged.
#[derive(Debug)]
struct Entry {
    prefix: String,
    /// Indexes of the devices by which it came, and by which it would have left.
    from: Option<u32>,
    to: Option<u32>,
    packet: Vec<u8>,
}

impl Log {
    fn open(group: u16) -> Self {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).unwrap();
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
        let [high, low] = group.to_be_bytes();
        let body = [&[0, 0, high, low][..], &BIND, &COPY, &SINGLY].concat();
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(CONFIG.to_ne_bytes());
        // NLM_F_REQUEST and NLM_F_ACK.
        request.extend(5_u16.to_ne_bytes());
        request.extend([0; 8]);
        request.extend(body);
        send(socket.as_raw_fd(), &request, MsgFlags::empty()).unwrap();
        let mut answer = [0; 256];
        recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
        assert_eq!(answer[16..20], [0; 4], "the group can't be had");
        Self(socket)
    }

    /// What was logged since it was last asked.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => entries.extend(read(&buffer[..length])),
                Err(Errno::EAGAIN) => return entries,
                Err(error) => panic!("listening to the log: {error}"),
            }
        }
    }
}

fn read(datagram: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut rest = datagram;
    while rest.len() >= 16 {
        let length = usize::try_from(u32::from_ne_bytes(rest[..4].try_into().unwrap())).unwrap();
        if u16::from_ne_bytes(rest[4..6].try_into().unwrap()) == PACKET {
            entries.push(entry(&rest[20..length]));
        }
        rest = &rest[((length + 3) & !3).min(rest.len())..];
    }
    entries
}

fn entry(mut attributes: &[u8]) -> Entry {
    let mut values: BTreeMap<u16, &[u8]> = BTreeMap::new();
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(attributes[..2].try_into().unwrap()));
        let kind = u16::from_ne_bytes(attributes[2..4].try_into().unwrap()) & 0x3fff;
        values.insert(kind, &attributes[4..length]);
        attributes = &attributes[((length + 3) & !3).min(attributes.len())..];
    }
    let index = |kind| {
        Some(u32::from_be_bytes(
            (*values.get(&kind)?).try_into().unwrap(),
        ))
    };
    let prefix = String::from_utf8(values[&PREFIX].to_vec()).unwrap();
    Entry {
        prefix: prefix.trim_end_matches('\0').to_owned(),
        from: index(IN),
        to: index(OUT),
        packet: values[&PAYLOAD].to_vec(),
    }
}

/// Who asks for a port's or a group's dropped packets sees them, with the reason,
/// the port and, if it was asked for, the group; a flood doesn't flood the log, and ports
/// that nobody asked about aren't in it.
#[test]
fn dropped_packets_are_shown_to_who_asks() {
    const FLOOD: u32 = 400;
    in_new_netns(|| {
        let mut rig = Rig::new();
        let mut document = one_port();
        // Nobody may send or receive anything; the other port isn't asked about.
        document["groups"][0]["rules"] = json!([]);
        let mut other = document["ports"][0].clone();
        other["id"] = "q".into();
        other["tap"] = "tap1".into();
        other["mac"] = mac(1).into();
        other["groups"] = json!([]);
        other["addresses"] = json!([{"address": address(false, 1), "subnet": "s4"}]);
        document["ports"].as_array_mut().unwrap().push(other);
        for (asked, who) in [("p", "port p"), ("g", "port p of group g")] {
            let group = 1000 + u16::try_from(asked.len()).unwrap();
            let config = FilterConfig {
                log: [asked.to_owned()].into(),
                log_group: group,
                ..FilterConfig::default()
            };
            rig.apply_with(&document, config);
            let log = Log::open(group);
            let index = |name: &str| Some(if_nametoindex(name).unwrap());
            let world = address(false, 3);
            let out = wire("10.252.0.2", &world, 17, (5000, 53));
            let into = Wire {
                from: 3,
                mac: mac(3),
                ..wire(&world, "10.252.0.2", 17, (53, 6000))
            };
            let elsewhere = Wire {
                from: 1,
                mac: mac(1),
                ..wire(&address(false, 1), &world, 17, (5000, 53))
            };
            let lie = wire("10.252.0.77", &world, 17, (5000, 53));
            let cases = [
                (&out, "refused-from", (index("tap0"), index("up0"))),
                (&into, "refused-to", (index("up0"), index("tap0"))),
                (&lie, "spoofed", (index("tap0"), None)),
            ];
            for (packet, reason, (from, to)) in cases {
                // The packet itself, without Ethernet: addresses and ports. The
                // ends' own kernels may say something as well.
                let sent = frame(packet, 1);
                let ours = |entry: &Entry| entry.packet.get(12..24) == sent.get(26..38);
                // The limit is one for the port: its tokens come back.
                let seen = std::iter::repeat_with(|| {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    rig.raw(packet.from, &sent);
                    log.entries().into_iter().rfind(ours)
                });
                let shown = seen.take(500).flatten().next();
                let shown = shown.unwrap_or_else(|| panic!("{reason} ({asked}): not shown"));
                assert_eq!(shown.prefix, format!("l2isolate {reason} {who}"));
                assert_eq!((shown.from, shown.to), (from, to), "{reason}");
            }
            let before = rig.counted("dropped-from");
            for number in 0..FLOOD {
                rig.raw(0, &frame(&out, number));
            }
            assert_eq!(rig.counted("dropped-from") - before, u64::from(FLOOD));
            let shown = log.entries().len();
            assert!(
                shown < usize::try_from(FLOOD).unwrap() / 2,
                "{shown} of {FLOOD} were logged"
            );
            rig.raw(1, &frame(&elsewhere, 1));
            let entries = log.entries();
            assert!(
                !entries.iter().any(|entry| entry.from == index("tap1")),
                "{entries:?}"
            );
        }
    });
}

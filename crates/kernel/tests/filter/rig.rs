//! A router in a namespace: three taps and an uplink, each with its other end
//! here as well, on which raw frames are sent and seen.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::Instant,
};

use l2isolate_kernel::{
    conntrack::Conntrack,
    nft::Nft,
    testing::{ip_batch, set_sysctl, tap},
};
use l2isolate_model::{
    document,
    filter::{Limit, Objects},
    intent::Intent,
};
use l2isolate_plan::filter::{
    FilterConfig, FilterRules, Limits, Owner, Packet, Planner, Taps, would_begin,
};
use l2isolate_reconcile::Reconciler;
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
        socket, sockopt,
    },
};

use crate::{
    cloud::{Cloud, PORTS, address, mac, pair},
    judge::Wire,
};

/// The taps' own hardware address.
const ROUTER: [u8; 6] = [0x02, 0x4c, 0x32, 0x49, 0x53, 0x4f];

pub(crate) struct Rig {
    nft: Nft,
    conntrack: Conntrack,
    /// What was planned last, and for whom.
    wanted: Objects,
    taps: Taps,
    /// The far ends: guests, and the world last.
    ends: Vec<OwnedFd>,
}

impl Rig {
    /// In the namespace of this thread.
    pub(crate) fn new() -> Self {
        let names: Vec<String> = (0..PORTS)
            .map(|n| format!("tap{n}"))
            .chain(["up0".to_owned()])
            .collect();
        let mut lines = Vec::new();
        for (n, name) in names.iter().enumerate() {
            tap(name, &format!("end{n}"));
            lines.push(format!("link set {name} address 02:4c:32:49:53:4f"));
            let place = u8::try_from(n).unwrap();
            if n < PORTS {
                for six in [false, true] {
                    let address = address(six, place);
                    lines.push(format!("route add {address} dev {name}"));
                    lines.push(format!(
                        "neigh add {address} lladdr {} dev {name} nud permanent",
                        mac(n)
                    ));
                }
            }
        }
        for (gateway, own) in [
            ("192.0.2.2", "192.0.2.1/30"),
            ("2001:db8:aaaa::2", "2001:db8:aaaa::1/64"),
        ] {
            let nodad = if own.contains(':') { "nodad" } else { "" };
            lines.push(format!("addr add {own} dev up0 {nodad}"));
            lines.push(format!(
                "neigh add {gateway} lladdr {} dev up0 nud permanent",
                mac(PORTS)
            ));
            lines.push(format!("route add default via {gateway} dev up0"));
        }
        // Where the answers to address pairs go.
        lines.push(format!("route add {} via 192.0.2.2", pair(false)));
        lines.push(format!("route add {} via 2001:db8:aaaa::2", pair(true)));
        for device in ["all", "default", "up0", "tap0", "tap1", "tap2"] {
            set_sysctl(&format!("ipv4/conf/{device}/rp_filter"), "0");
            set_sysctl(&format!("ipv6/conf/{device}/forwarding"), "1");
        }
        set_sysctl("ipv4/ip_forward", "1");
        ip_batch(lines);
        let nft = Nft::open().unwrap();
        let ends = (0..names.len())
            .map(|n| packets(&format!("end{n}")))
            .collect();
        let conntrack = Conntrack::open().unwrap();
        Self {
            nft,
            conntrack,
            wanted: Objects::new(),
            taps: Taps::default(),
            ends,
        }
    }

    /// Puts the cloud's firewall in place of what was there.
    pub(crate) fn apply(&mut self, cloud: &Cloud) {
        let many = Limit {
            rate: 1_000_000,
            burst: 1_000_000,
        };
        let limits = Limits {
            new: many,
            nd: many,
            ..Limits::default()
        };
        self.apply_document(&cloud.document(), limits);
    }

    /// The same for an intent that was written by hand.
    pub(crate) fn apply_document(&mut self, document: &serde_json::Value, limits: Limits) {
        let config = FilterConfig {
            limits,
            ..FilterConfig::default()
        };
        self.apply_with(document, config);
    }

    /// The same with other settings of the firewall.
    pub(crate) fn apply_with(&mut self, document: &serde_json::Value, config: FilterConfig) {
        let text = document.to_string();
        let mut intent = Intent::default();
        intent.update(
            document::parse(text.as_bytes(), "cloud.json".as_ref())
                .unwrap()
                .objects,
        );
        assert_eq!(intent.problems().next(), None);
        let config = FilterConfig {
            owned: false,
            ..config
        };
        let wanted: Objects = Planner::whole(config, &intent)
            .into_values()
            .flatten()
            .collect();
        self.taps = Taps::default();
        for (_, entry) in intent.ports() {
            self.taps.set(entry.effective().unwrap(), true);
        }
        self.wanted = wanted.clone();
        let now = Instant::now();
        let mut reconciler: Reconciler<FilterRules> = Reconciler::default();
        reconciler.hold_deletions(false);
        reconciler.observe_all(now, self.nft.observe().unwrap());
        reconciler.want(&Owner::Base, wanted);
        let changes = reconciler.next(now);
        for (change, result) in changes
            .iter()
            .zip(self.nft.apply(&changes, reconciler.observed()))
        {
            assert!(result.is_ok(), "{change:?}: {result:?}");
        }
        set_sysctl("netfilter/nf_conntrack_checksum", "0");
        // Flows of former packets.
        let flows = self.conntrack.flows(|_| true).unwrap();
        self.conntrack.end(&flows).unwrap();
    }

    /// What the plan itself says of a packet, without the kernel.
    pub(crate) fn planned(&self, wire: &Wire) -> bool {
        let ports = wire
            .has_ports()
            .then_some((wire.source_port, wire.destination_port));
        let packet = Packet {
            source: wire.source,
            destination: wire.destination,
            protocol: wire.protocol,
            ports,
            icmp: wire.is_icmp().then_some(wire.icmp),
        };
        would_begin(&self.wanted, &self.taps, &packet)
    }

    /// Sends a frame as it is.
    pub(crate) fn raw(&self, end: usize, frame: &[u8]) {
        send(self.ends[end].as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    }

    /// Packets of the first tap that counters called so counted, in both tables.
    pub(crate) fn counted(&mut self, name: &str) -> u64 {
        let counters = self.nft.counters().unwrap();
        let ours = counters.iter().filter(|((_, counter, device), _)| {
            let first = device.is_none_or(|device| device.as_str() == "tap0");
            first && counter.starts_with(name)
        });
        ours.map(|(_, count)| count.packets).sum()
    }

    /// Flows that connection tracking knows.
    pub(crate) fn flows(&mut self) -> usize {
        self.conntrack.flows(|_| true).unwrap().len()
    }

    /// Sends packets one after the other; at which ends each has arrived.
    pub(crate) fn send(&mut self, packets: &[(u32, Wire)]) -> BTreeMap<u32, Vec<usize>> {
        for (number, packet) in packets {
            let frame = frame(packet, *number);
            send(
                self.ends[packet.from].as_raw_fd(),
                &frame,
                MsgFlags::empty(),
            )
            .unwrap();
        }
        let mut arrived: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        // Devices that are pairs deliver while the sender waits; only a kernel
        // thread that takes over under load needs a moment.
        for _ in 0..2 {
            std::thread::sleep(std::time::Duration::from_millis(8));
            for (end, socket) in self.ends.iter().enumerate() {
                let mut frame = [0; 2048];
                loop {
                    match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                        Ok(length) => {
                            let frame = &frame[..length];
                            // From the router, and with our mark.
                            if length > 22
                                && frame[6..12] == ROUTER
                                && frame[length - 8..length - 4] == *MARK
                            {
                                let number =
                                    u32::from_be_bytes(frame[length - 4..].try_into().unwrap());
                                arrived.entry(number).or_default().push(end);
                            }
                        }
                        Err(Errno::EAGAIN) => break,
                        Err(error) => panic!("receiving: {error}"),
                    }
                }
            }
        }
        arrived
    }
}

const MARK: &[u8; 4] = b"l2is";

pub(crate) fn frame(packet: &Wire, number: u32) -> Vec<u8> {
    let mut transport = Vec::new();
    if packet.is_icmp() {
        let (kind, code) = packet.icmp;
        transport.extend([kind, code, 0, 0]);
        transport.extend(packet.source_port.to_be_bytes());
        transport.extend([0, 1]);
    } else {
        transport.extend(packet.source_port.to_be_bytes());
        transport.extend(packet.destination_port.to_be_bytes());
        match packet.protocol {
            // SYN, or SYN and ACK.
            6 => {
                let flags = if packet.known { 0x12 } else { 0x02 };
                transport.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
            }
            17 => transport.extend([0, 16, 0, 0]),
            _ => transport.extend([0; 12]),
        }
    }
    transport.extend(MARK);
    transport.extend(number.to_be_bytes());
    let mut frame = ROUTER.to_vec();
    frame.extend(
        packet
            .mac
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap()),
    );
    let length = u16::try_from(transport.len()).unwrap();
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([8, 0]);
            let [high, low] = (length + 20).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, packet.protocol, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let mut sum: u32 = header
                .chunks(2)
                .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
                .sum();
            sum = (sum & 0xffff) + (sum >> 16);
            sum = (sum & 0xffff) + (sum >> 16);
            let sum = !u16::try_from(sum).unwrap();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([packet.protocol, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => panic!("two families in one packet"),
    }
    frame.extend(transport);
    frame
}

/// A socket for all frames of a device.
fn packets(device: &str) -> OwnedFd {
    let found = getifaddrs().unwrap().find_map(|interface| {
        let address = interface.address?;
        let link = address.as_link_addr()?;
        (interface.interface_name == device).then_some(*link)
    });
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .unwrap();
    bind(socket.as_raw_fd(), &found.unwrap()).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)).unwrap();
    socket
}

//! Messages of the real kernel, as they are, cut short and spoilt.
//!
//! With `L2ISOLATE_RECORD=DIRECTORY` they are kept there, a directory for each
//! decoder, as what fuzz targets begin with (`scripts/fuzz`).

use std::{collections::BTreeMap, fs, net::UdpSocket, path::Path};

use l2isolate_kernel::{
    Config, Kernel,
    conntrack::Conntrack,
    nft::Nft,
    testing::{decoders, in_new_netns, ip, tap},
};
use l2isolate_model::{
    desired::{Key, Value},
    filter::Objects,
};
use l2isolate_reconcile::Change;

use crate::common::{everything, intent, plan, put};

/// Keeps of a datagram the messages that fit.
const KEPT: usize = 4096;

/// Holds a decoder to what was recorded: it makes something out of it, and no
/// part of it or error in it does harm.
fn hold(name: &str, datagrams: &[Vec<u8>], decode: fn(&[u8]) -> usize) {
    let found: usize = datagrams.iter().map(|bytes| decode(bytes)).sum();
    assert!(
        found > 3,
        "{name}: {found} in {} datagrams",
        datagrams.len()
    );
    for datagram in datagrams {
        let step = 1 + datagram.len() / 48;
        let mut spoilt = datagram.clone();
        for place in (0..datagram.len()).step_by(step) {
            decode(&datagram[..place]);
            decode(&datagram[place..]);
            for bit in [0x01, 0xff] {
                spoilt[place] ^= bit;
                decode(&spoilt);
                spoilt[place] ^= bit;
            }
        }
    }
    if let Some(directory) = std::env::var_os("L2ISOLATE_RECORD") {
        keep(&Path::new(&directory).join(name), datagrams);
    }
}

fn keep(directory: &Path, datagrams: &[Vec<u8>]) {
    fs::create_dir_all(directory).unwrap();
    // Those of one length say much the same.
    let kept: BTreeMap<usize, &[u8]> = datagrams
        .iter()
        .map(|bytes| whole(bytes))
        .filter(|bytes| !bytes.is_empty())
        .map(|bytes| (bytes.len(), bytes))
        .collect();
    for (length, bytes) in kept {
        fs::write(directory.join(format!("kernel-{length:04}")), bytes).unwrap();
    }
}

/// As many whole messages as fit.
fn whole(datagram: &[u8]) -> &[u8] {
    let mut end = 0;
    while let Some(length) = datagram.get(end..end + 4) {
        let length = usize::try_from(u32::from_ne_bytes(length.try_into().unwrap())).unwrap();
        let next = end + ((length + 3) & !3);
        if next > datagram.len().min(KEPT) {
            break;
        }
        end = next;
    }
    &datagram[..end]
}

#[test]
fn rtnetlink_cut_short_and_spoilt() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let datagrams = decoders::recorded(|| {
            let mut kernel = Kernel::open(Config::new(76)).unwrap();
            kernel.observe().unwrap();
            let gateway = Key::Address("tap0".parse().unwrap(), "10.252.0.1/32".parse().unwrap());
            for outcome in kernel.apply(&[Change::Set(gateway, Value::Address)]) {
                outcome.unwrap();
            }
            for line in [
                "addr add fe80::1/64 dev tap0 nodad",
                "route add 10.252.0.5/32 dev tap0 proto 76 metric 5",
                "route add unreachable 2001:db8::5/128 proto 76 metric 9",
                "route add 198.51.100.0/24 via inet6 fe80::9 dev tap0",
                "neigh add 10.252.0.5 lladdr fa:16:3e:00:00:05 dev tap0 nud permanent protocol 76",
                "link set tap0 mtu 1400 address 02:4c:32:49:53:4f",
                "route del 10.252.0.5/32 dev tap0 metric 5",
                "link del tap0",
            ] {
                ip(line);
            }
            kernel.drain().unwrap();
            tap("tap0", "vm0");
            kernel.observe().unwrap();
        });
        hold("rtnetlink", &datagrams, decoders::rtnetlink);
    });
}

#[test]
fn nftables_cut_short_and_spoilt() {
    in_new_netns(|| {
        let datagrams = decoders::recorded(|| {
            let mut kernel = Nft::open().unwrap();
            let mut listener = Nft::open().unwrap();
            put(&mut kernel, plan(&intent(&everything())));
            kernel.observe().unwrap();
            kernel.counters().unwrap();
            put(&mut kernel, Objects::new());
            assert!(listener.heard());
        });
        hold("nftables", &datagrams, decoders::nftables);
    });
}

#[test]
fn conntrack_cut_short_and_spoilt() {
    in_new_netns(|| {
        let mut kernel = Nft::open().unwrap();
        // Its rules ask for connections, so there are some.
        put(&mut kernel, plan(&intent(&everything())));
        for own in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(own).unwrap();
            let itself = socket.local_addr().unwrap();
            for _ in 0..3 {
                socket.send_to(b"flow", itself).unwrap();
                let other = UdpSocket::bind(own).unwrap();
                other.send_to(b"another", itself).unwrap();
            }
        }
        let datagrams = decoders::recorded(|| {
            let mut conntrack = Conntrack::open().unwrap();
            let flows = conntrack.flows(|_| true).unwrap();
            conntrack.end(&flows[..1]).unwrap();
        });
        hold("conntrack", &datagrams, decoders::conntrack);
    });
}

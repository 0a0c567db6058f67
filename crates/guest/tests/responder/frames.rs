//! Frames as guests send them, made and read without the code under test.

use std::net::Ipv6Addr;

/// Ones' complement sum over payload and pseudo-header, as RFC 8200 has it.
pub(crate) fn sum(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> u16 {
    let mut bytes = [source.octets(), destination.octets()].concat();
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(payload);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    let words = bytes
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A frame; the checksum at `sum_at` of the payload is filled in.
pub(crate) fn frame(
    mac: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    hops: u8,
    mut payload: Vec<u8>,
    sum_at: usize,
) -> Vec<u8> {
    let sum = sum(source, destination, protocol, &payload).to_be_bytes();
    payload[sum_at..sum_at + 2].copy_from_slice(&sum);
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 2];
    frame.extend(mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([protocol, hops]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(payload);
    frame
}

/// A frame taken apart, its checksum found right.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) to: [u8; 6],
    pub(crate) from: [u8; 6],
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn read(frame: &[u8]) -> Read {
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let (source, destination, protocol) = (address(22), address(38), frame[20]);
    let payload = frame[54..].to_vec();
    assert_eq!(&frame[12..15], [0x86, 0xdd, 0x60]);
    assert_eq!(
        usize::from(u16::from_be_bytes([frame[18], frame[19]])),
        payload.len()
    );
    assert_eq!(frame[21], 255, "hop limit");
    assert_eq!(sum(source, destination, protocol, &payload), 0, "checksum");
    Read {
        to: frame[..6].try_into().unwrap(),
        from: frame[6..12].try_into().unwrap(),
        source,
        destination,
        protocol,
        payload,
    }
}

//! What dnsmasq remembers of leases, and how to have it forget one.
//!
//! A lease outlives the host line that it came from, by design: its holder may
//! come back. Here it is only in the way: dnsmasq refuses an address whose
//! lease another hardware address holds, also after it has read its files anew.
//! What it does obey is the holder's own release (RFC 2131, 4.4.6), so the
//! agent sends that in the old guest's name.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    path::Path,
};

use l2isolate_model::{IfName, Mac};
use nix::sys::socket::{setsockopt, sockopt};

/// DHCP's server port.
pub(super) const SERVER: u16 = 67;

/// Who has which address, by dnsmasq's file: a line is expiry, hardware
/// address, address, name, client identifier.
pub(super) fn read(file: &Path) -> io::Result<BTreeMap<Ipv4Addr, Mac>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let lease = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let mac: Mac = fields.next()?.parse().ok()?;
        Some((fields.next()?.parse().ok()?, mac))
    };
    Ok(text.lines().filter_map(lease).collect())
}

/// The hardware address and the address of a host line.
pub(super) fn host(line: &str) -> Option<(Ipv4Addr, Mac)> {
    let mut fields = line.trim().split(',').skip(1);
    let mac: Mac = fields.next()?.parse().ok()?;
    Some((fields.next()?.parse().ok()?, mac))
}

/// Releases a lease in its holder's name, by way of a tap that has all of
/// these addresses of the server. Which of them dnsmasq takes for its own
/// depends on the address (and on other taps); it ignores the others.
pub(super) fn release(
    address: Ipv4Addr,
    mac: Mac,
    tap: IfName,
    servers: &[Ipv4Addr],
) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // Then it arrives as if from the tap, though it never leaves the host.
    setsockopt(&socket, sockopt::BindToDevice, &tap.as_str().into())?;
    for server in servers {
        let message = message(address, mac, *server);
        socket.send_to(&message, SocketAddrV4::new(*server, SERVER))?;
    }
    Ok(())
}

/// A DHCPRELEASE (RFC 2131, table 5).
fn message(address: Ipv4Addr, mac: Mac, server: Ipv4Addr) -> Vec<u8> {
    // BOOTREQUEST, Ethernet, six bytes of hardware address.
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(address.octets());
    bytes.extend([0; 4]);
    bytes.extend(address.octets());
    bytes.resize(28, 0);
    bytes.extend(mac.bytes());
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99]);
    bytes.extend([53, 1, 7, 54, 4]);
    bytes.extend(server.octets());
    bytes.push(255);
    // The least that BOOTP allows (RFC 951).
    bytes.resize(300, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of dnsmasq 2.90, DHCPv6 and nonsense among them.
    #[test]
    fn reads_what_dnsmasq_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "1795542613 02:00:00:00:00:03 10.9.0.5 vm-three 01:02:00:00:00:00:03\n\
            1795542613 06-02:00:00:00:00:02 203.0.113.77 * *\nduid 00:01\n\
            1795542635 7 2001:db8:252::99 * 00:03\nnonsense\n\n\
            0 02:00:00:00:00:01 10.252.1.10 * *\n";
        fs::write(file.path(), text).unwrap();
        let leases = read(file.path()).unwrap();
        let expected = [
            ("10.9.0.5", "02:00:00:00:00:03"),
            ("10.252.1.10", "02:00:00:00:00:01"),
        ];
        let expected = expected.map(|(ip, mac)| (ip.parse().unwrap(), mac.parse().unwrap()));
        assert_eq!(leases, BTreeMap::from(expected));
        assert!(read(Path::new("/nonexistent/leases")).unwrap().is_empty());
        let line = "tag:tap1,02:00:00:00:00:01,10.252.1.10,id:*\n";
        assert_eq!(
            host(line),
            Some((
                "10.252.1.10".parse().unwrap(),
                "02:00:00:00:00:01".parse().unwrap()
            ))
        );
        assert_eq!(host("tag:tap1"), None);
    }
}

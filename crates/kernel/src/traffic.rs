//! What single interfaces carry, by the kernel's own counters. The cost is that
//! of the interfaces asked for, however many others there are.

use l2isolate_model::IfName;

use crate::{
    decode::IFINFOMSG,
    encode,
    error::Error,
    socket::Requests,
    uapi::{kind, link},
    wire::{Message, Messages, read_u64},
};

/// Packets and bytes of an interface since it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
}

/// Asks about the network namespace of the thread that opened it.
pub struct Traffic(Requests);

impl Traffic {
    /// Opens a socket.
    ///
    /// # Errors
    /// It can't be made.
    pub fn open() -> Result<Self, Error> {
        Requests::open().map(Self)
    }

    /// What an interface has carried; `None`: it isn't there.
    pub fn of(&mut self, name: IfName) -> Option<Carried> {
        let request = encode::get_link_with_statistics(name);
        let answer = self.0.get("reading what a link carries", &request).ok()?;
        Messages(answer).find_map(|message| read(&message))
    }
}

/// `struct rtnl_link_stats64`: packets in, out, bytes in, out, and so on.
fn read(message: &Message<'_>) -> Option<Carried> {
    if message.kind != kind::RTM_NEWLINK {
        return None;
    }
    let counters = message.attributes(IFINFOMSG).value(link::IFLA_STATS64)?;
    Some(Carried {
        received_packets: read_u64(counters, 0)?,
        sent_packets: read_u64(counters, 8)?,
        received_bytes: read_u64(counters, 16)?,
        sent_bytes: read_u64(counters, 24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // The kernel's own text says the same of lo, the one device that each
    // namespace has; by columns, as proc(5) has them.
    #[test]
    fn counters_are_those_of_the_kernels_text() {
        let text = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let of_text = |text: &str| {
            let line = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("lo:"));
            let numbers: Vec<u64> = line
                .unwrap()
                .split_ascii_whitespace()
                .map(|word| word.parse().unwrap())
                .collect();
            Carried {
                received_bytes: numbers[0],
                received_packets: numbers[1],
                sent_bytes: numbers[8],
                sent_packets: numbers[9],
            }
        };
        let mut traffic = Traffic::open().unwrap();
        // Others may use it meanwhile: until nobody did.
        let same = (0..1000).any(|_| {
            let (before, carried, after) =
                (text(), traffic.of("lo".parse().unwrap()).unwrap(), text());
            before == after && of_text(&before) == carried
        });
        assert!(same);
        assert_eq!(traffic.of("nosuchlink".parse().unwrap()), None);
    }
}

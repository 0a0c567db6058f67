//! What each interface carries, by the kernel's counters (proc(5), net/dev).

use std::{collections::BTreeMap, time::Instant};

/// Packets and bytes of an interface since it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) received_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) sent_packets: u64,
}

/// Packets in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rate {
    pub(crate) received: f64,
    pub(crate) sent: f64,
}

/// Interfaces, and what they carried when this was looked at last.
pub(crate) struct Uplinks {
    /// Those that are named by the operator.
    names: Vec<String>,
    last: Option<(Instant, BTreeMap<String, Count>)>,
    rates: BTreeMap<String, Rate>,
}

impl Uplinks {
    pub(crate) fn new(names: &[String]) -> Self {
        Self {
            names: names.to_vec(),
            last: None,
            rates: BTreeMap::new(),
        }
    }

    /// Those that are named by the operator.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Looks now.
    pub(crate) fn sample(&mut self, now: Instant) {
        // Of this thread's namespace, which is the agent's.
        let Ok(text) = std::fs::read_to_string("/proc/thread-self/net/dev") else {
            return;
        };
        let counts = read(&text);
        if let Some((at, before)) = &self.last {
            let seconds = now.duration_since(*at).as_secs_f64().max(0.001);
            #[expect(clippy::cast_precision_loss, reason = "counts of seconds are small")]
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let rates = counts.iter().filter_map(|(name, count)| {
                let before = before.get(name)?;
                let rate = Rate {
                    received: rate(count.received_packets, before.received_packets),
                    sent: rate(count.sent_packets, before.sent_packets),
                };
                Some((name.clone(), rate))
            });
            self.rates = rates.collect();
        }
        self.last = Some((now, counts));
    }

    /// What an interface has carried and carries.
    pub(crate) fn of(&self, name: &str) -> Option<(Count, Rate)> {
        let (_, counts) = self.last.as_ref()?;
        let rate = self.rates.get(name).copied().unwrap_or_default();
        Some((*counts.get(name)?, rate))
    }
}

/// `  eth0: bytes packets errs drop fifo frame compressed multicast bytes packets …`
fn read(text: &str) -> BTreeMap<String, Count> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        let count = Count {
            received_bytes: *numbers.first()?,
            received_packets: *numbers.get(1)?,
            sent_bytes: *numbers.get(8)?,
            sent_packets: *numbers.get(9)?,
        };
        Some((name.trim().to_owned(), count))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_columns() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n   \
             up0: 1000 10 0 0 0 0 0 1 2000 20 0 0 0 0 0 0\n";
        let counts = read(text);
        let expected = Count {
            received_bytes: 1000,
            received_packets: 10,
            sent_bytes: 2000,
            sent_packets: 20,
        };
        assert_eq!(counts.get("up0"), Some(&expected));
        assert_eq!(counts.len(), 1);
    }
}

//! Names that nobody else has, and what was seen before.

use std::collections::{HashSet, VecDeque};

/// How many messages are remembered. oslo.messaging remembers 16; a message
/// comes twice only if the acknowledgement of it was lost with a connection,
/// and then up to a prefetch of them at once.
const REMEMBERED: usize = 256;

/// 32 hexadecimal digits.
pub(crate) fn hex() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// The same in a UUID's form (RFC 9562, version 4).
pub(crate) fn uuid() -> String {
    let random = fastrand::u128(..);
    let bits = (random & !(0xf << 76 | 0b11 << 62)) | (4 << 76 | 0b10 << 62);
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

/// The last messages that came, by `_unique_id`.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    order: VecDeque<String>,
    known: HashSet<String>,
}

impl Seen {
    /// Whether it came before; from now on it has.
    pub(crate) fn again(&mut self, unique: &str) -> bool {
        if self.known.contains(unique) {
            return true;
        }
        self.known.insert(unique.to_owned());
        self.order.push_back(unique.to_owned());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_once() {
        let mut seen = Seen::default();
        assert!(!seen.again("a"));
        assert!(seen.again("a"));
        for number in 0..REMEMBERED {
            assert!(!seen.again(&number.to_string()));
        }
        // Forgotten by now: memory is bounded.
        assert!(!seen.again("a"));
        assert_eq!(seen.order.len(), seen.known.len());
    }

    #[test]
    fn names_have_their_form() {
        assert_eq!(hex().len(), 32);
        let uuid = uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
    }
}

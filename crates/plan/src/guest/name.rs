//! Which host names are legal (RFC 952, RFC 1123 section 2.1).

/// Longest name and longest label, in bytes (RFC 1035, section 2.3.4).
const NAME: usize = 253;
const LABEL: usize = 63;

/// Says what is wrong with a host name or a domain.
///
/// # Errors
/// What is wrong.
pub fn check(name: &str) -> Result<(), String> {
    let shown = || name.chars().take(80).collect::<String>();
    if name.is_empty() || name.len() > NAME {
        return Err(format!(
            "{:?} has {} bytes; a host name has 1 to {NAME}",
            shown(),
            name.len()
        ));
    }
    let legal = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        bytes.len() <= LABEL
            && bytes.iter().copied().all(plain)
            && edge(bytes.first())
            && edge(bytes.last())
    };
    if name.split('.').all(legal) {
        Ok(())
    } else {
        Err(format!(
            "{:?} is no host name: labels of 1 to {LABEL} letters, digits and hyphens, with dots between",
            shown()
        ))
    }
}

/// A domain name in labels, as DNS has it on the wire (RFC 1035, section 3.1).
pub(super) fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What dnsmasq or a guest would refuse is refused here, with a reason.
    #[test]
    fn takes_host_names_alone() {
        for good in ["web-1", "a", "1", "web-1.example.org", &"a".repeat(63)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = format!("{}.", "a".repeat(63)).repeat(4) + "a";
        for bad in [
            "",
            "-a",
            "a-",
            "a_b",
            "a b",
            "a..b",
            ".a",
            "a.",
            "ä",
            "a\nb",
            "a,b",
            "a#b",
            "a\0",
            &"a".repeat(64),
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert_eq!(wire("ab.c"), b"\x02ab\x01c\0");
    }
}

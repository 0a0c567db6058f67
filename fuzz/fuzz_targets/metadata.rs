//! A guest's connection to the metadata proxy, whatever it sends on it: each
//! answer is HTTP, and none says that the proxy is at a loss.
#![no_main]

use l2isolate_guest::metadata::testing::answers_to;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let answer = answers_to(bytes);
    if answer.is_empty() {
        return;
    }
    let head = answer.get(..12).expect("a status line");
    assert!(head.starts_with(b"HTTP/1."), "{}", answer.escape_ascii());
    let status: u16 = String::from_utf8_lossy(&head[9..]).parse().expect("a status");
    assert!((200..500).contains(&status), "{status}");
});

//! Configuration files, one or two of them: read as oslo.config does, references
//! put in, and each value tried as every type that options have.
#![no_main]
#![allow(dead_code, unreachable_pub, unused_imports)]

mod config;

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let mut ini = config::ini::Ini::default();
    for part in text.splitn(2, '\0') {
        for problem in ini.read(part, Path::new("fuzz.conf")) {
            assert!(!problem.reason.is_empty());
        }
    }
    for group in ["DEFAULT", "l2isolate"] {
        config::values(&ini, group);
    }
});

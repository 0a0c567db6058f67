//! Configuration files, which may be Neutron's or somebody's mistake: each line
//! is read or named, and references end.
#![no_main]

use std::path::Path;

use l2isolate_ini::{Ini, substitute};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut ini = Ini::default();
    let wrong = ini.read(text, Path::new("fuzz.conf"));
    let lines = text.lines().count();
    assert!(wrong.iter().all(|wrong| (1..=lines).contains(&wrong.place.line)));
    // What was read once and is read again changes nothing.
    let mut again = Ini::default();
    assert_eq!(again.read(text, Path::new("fuzz.conf")), wrong);
    again.read(text, Path::new("fuzz.conf"));
    assert_eq!(again, ini);
    let lookup = |group: &str, key: &str| ini.get(group, key).map(|value| value.text.clone());
    for group in ["DEFAULT", "l2isolate", "a"] {
        for (key, value) in ini.keys(group) {
            assert!((1..=lines).contains(&value.place.line));
            assert_eq!(ini.get(group, key), Some(value));
            let _ = substitute(group, &value.text, &lookup);
        }
    }
});

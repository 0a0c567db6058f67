//! Configuration files, one or two of them, to typed options.
#![no_main]
#![allow(dead_code, unreachable_pub, unused_imports)]

#[path = "../../crates/agent/src/config/mod.rs"]
mod config;

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let directory = std::env::temp_dir();
    let parts = text.splitn(2, |byte| *byte == 0);
    let files: Vec<PathBuf> = parts
        .enumerate()
        .map(|(number, part)| {
            let name = format!("l2isolate-fuzz-{}-{number}", std::process::id());
            let path = directory.join(name);
            std::fs::write(&path, part).expect("a file can be written");
            path
        })
        .collect();
    if let Ok(loaded) = config::load(&files) {
        for problem in &loaded.problems {
            let _ = problem.to_string();
        }
        let _ = (loaded.config.plan(), loaded.config.filter());
    }
    for file in files {
        let _ = std::fs::remove_file(file);
    }
});

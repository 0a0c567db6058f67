//! The firewall's encoder against the real kernel and the program `nft`, each
//! test in a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]

mod changes;
mod common;
mod words;

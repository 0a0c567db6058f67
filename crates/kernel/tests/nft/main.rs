//! The firewall's encoder against the real kernel and the program `nft`, each
//! test in a network namespace of its own; and the decoders against what the
//! kernel really sends, and what is left of it.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panics"
)]

mod changes;
mod common;
mod recorded;
mod words;

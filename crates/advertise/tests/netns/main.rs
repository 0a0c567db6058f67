//! Drivers and rendered configurations against the real daemons: a hypervisor
//! between two switches, one of FRR and one of BIRD, each in a network
//! namespace of its own.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

mod bad;
mod drive;
mod harness;
mod parsers;

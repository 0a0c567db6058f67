//! The plan, tested with data in and data out.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

mod common;
mod filter;
mod guest;
mod metadata;
mod properties;
mod wiring;

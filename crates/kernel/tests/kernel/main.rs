//! The kernel crate against the real kernel, each test in a network namespace
//! of its own.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail by panics"
)]

mod arrivals;
mod chaos;
mod common;
mod events;
mod objects;
mod overrun;
mod ownership;
mod settings;
mod silent;
mod solicitations;

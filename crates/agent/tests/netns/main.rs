//! The agent in namespaces of its own: what it does, seen from guests and from
//! the kernel, never taken from the agent's word.
//!
//! Every test has a hypervisor, guests and a world outside, as namespaces with
//! random names, so all can run side by side. They need root.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

mod announce;
mod bad_input;
mod churn;
mod commands;
mod fabric;
mod firewall;
mod follow;
mod guests;
mod harness;
mod hostile;
mod many;
mod mend;
mod metadata;
mod migration;
mod neutron;
mod proxy_arp;
mod reach;
mod restart;
mod settings;
mod shrink;
mod states;
mod taps;
mod units;

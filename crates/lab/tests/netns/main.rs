//! The lab itself, on real namespaces and daemons. Needs root, frr and bird2.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

mod bench;
mod broker;
mod carrier;
mod cloud;
mod faults;
mod fixture;
mod follow;
mod hand_over;
mod lifecycle;
mod migrate;
mod neutron;
mod operate;
mod whole;

//! The firewall's promise against an independent judge: packets through the
//! real kernel, verdicts by an evaluator of Neutron's semantics that shares no
//! code with the planner.
//!
//! `L2ISOLATE_FILTER_CASES=2000 cargo test -p l2isolate-kernel --test filter`
//! runs for longer; a failure is shrunk to the smallest that still fails.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panics"
)]

mod cloud;
mod differential;
mod guest;
mod judge;
mod log;
mod rig;

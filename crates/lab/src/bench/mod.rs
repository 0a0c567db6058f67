//! Benchmarks that can be believed: each figure is taken from outside the
//! agent, by listeners and probes of this program's own and by /proc.
//!
//! * [`attach`]: from a tap that is up to a wired port, and to the first
//!   answer through the fabric.
//! * [`resync`]: the agent started with nothing in place, and with all.
//!
//! `docs/benchmarks.md` says what each figure means. What can break it: a
//! machine that does something else meanwhile. Nothing here is asserted.

pub mod attach;
mod message;
mod monitor;
mod reach;
pub mod resync;
mod site;
mod stats;
mod wiring;
mod writes;

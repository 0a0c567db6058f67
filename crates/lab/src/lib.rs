//! The lab: a whole fabric from network namespaces on one machine, with the
//! real routing daemons and the real agent.
//!
//! * [`topology`] reads what shall be built, [`fabric`] gives every node its
//!   number, address, interfaces and daemon. Both are pure.
//! * [`netns`] and [`wiring`] build it in namespaces of the lab's own; nothing
//!   else of the machine is touched.
//! * [`daemon`] and [`agent`] configure, start and question the programs.
//! * [`render`] writes the daemons' configurations for real machines, [`budget`]
//!   counts what their tables must hold.
//! * [`broker`] is a RabbitMQ of a lab's or a test's own.
//! * [`nova`] is a stub of Nova's metadata API.
//! * [`fake`] plays a neutron-server, for what a real one can't be made to do.
//! * [`lab`] puts these together; [`state`] remembers what was made, so that
//!   all of it can be taken down, also after a crash.
//! * [`maintenance`] takes a ToR out of service and puts it back.
//! * [`migrate`] has a guest move to another hypervisor while it runs.
//! * [`qemu`] runs a real guest.
//! * [`matrix`], [`path`], [`probe`] and [`connections`] look at the result from
//!   the outside;
//!   [`throughput`] and [`bench`] measure it.
//!
//! Needs root, iproute2, and FRR or BIRD installed (not running).

pub mod agent;
pub mod bench;
pub mod broker;
pub mod budget;
pub mod connections;
pub mod daemon;
pub mod demo;
pub mod dhcp;
mod error;
pub mod fabric;
pub mod fake;
mod frames;
pub mod lab;
pub mod maintenance;
pub mod matrix;
pub mod migrate;
pub mod netns;
pub mod neutron;
pub mod nic;
pub mod nova;
pub mod path;
pub mod probe;
pub mod process;
pub mod qemu;
pub mod render;
pub mod room;
pub mod show;
pub mod state;
pub mod throughput;
mod timed;
pub mod topology;
pub mod wiring;

pub use error::{Error, Result};

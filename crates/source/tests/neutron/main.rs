//! The Neutron source against a server that is none, over a real RabbitMQ: what
//! it asks, what it reports, and what becomes of it when things go wrong. Needs
//! root (a namespace for the broker) and rabbitmq-server.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

mod casts;
mod faults;
mod follow;
mod harness;

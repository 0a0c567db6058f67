//! The library against a real RabbitMQ and Python's oslo.messaging, both ways.
//! Needs root (a network namespace for the broker), rabbitmq-server and
//! python3-oslo.messaging.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

mod broken;
mod calls;
mod harness;
mod inbox;
mod login;
mod python_client;
mod restart;

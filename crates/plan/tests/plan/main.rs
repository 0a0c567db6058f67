//! The plan, tested with data in and data out.

mod common;
mod properties;
mod wiring;

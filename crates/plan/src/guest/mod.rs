//! What guests are told by the services of their own hypervisor.

pub mod metadata;

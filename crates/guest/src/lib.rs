//! What a VM sees of its hypervisor, apart from the wire.
//!
//! * [`metadata`]: the proxy that answers at 169.254.169.254 and
//!   fe80::a9fe:a9fe, a process of its own without privileges.

pub mod metadata;

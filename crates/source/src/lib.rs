//! Where intent comes from, and where the last of it rests.
//!
//! * [`directory`]: documents below a directory, watched; the embedded default.
//!   A thread of its own reads them and sends [`Update`]s.
//! * [`neutron`]: a neutron-server with the driver `l2isolate`, over RabbitMQ.
//!   A thread of its own talks to it and sends [`Update`]s just so.
//! * [`guard`]: holds deletions when most ports vanish at once.
//! * [`cache`]: the last intent on disk, one file per object.
//!
//! Clocks live here, so that planning needs none. What each part can be broken
//! by stands at its head.

pub mod cache;
pub mod directory;
pub mod guard;
pub mod neutron;
mod update;

pub use update::{Availability, Contact, Held, Stamp, State, Update};

//! What is known of a tap device.

use serde::Serialize;

use crate::Mac;

/// A network device that may be a port's tap, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tap {
    /// Its index; another one means another device, even under the same name.
    pub index: u32,
    /// The host end's hardware address, where it has one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// `IFF_UP`: somebody switched it on.
    pub up: bool,
    /// `IFF_LOWER_UP`: the guest's end is open.
    pub carrier: bool,
}

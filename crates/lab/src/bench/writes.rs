//! Who writes settings: seen by inotify on the directories below /proc/sys,
//! since the kernel announces only few of them by netlink, and none that is
//! written as it was.

use std::path::Path;

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

use crate::{Error, Result, fabric::Vm, netns};

/// Directories of each device, and those of the host; of the latter a namespace
/// that isn't the first may lack some.
const DEVICE: [&str; 4] = ["ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh"];
const HOST: [&str; 10] = [
    "ipv4",
    "ipv6",
    "ipv6/route",
    "ipv4/conf/all",
    "ipv4/conf/default",
    "ipv4/neigh/default",
    "ipv6/conf/all",
    "ipv6/conf/default",
    "ipv6/neigh/default",
    "core",
];

/// Watches a namespace's settings.
pub(super) struct Watch {
    inotify: Inotify,
}

impl Watch {
    /// Watches those of the host and of all taps.
    ///
    /// # Errors
    /// A tap isn't there, or the machine's limit of watches is too low.
    pub(super) fn open(namespace: &str, vms: &[Vm]) -> Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(Error::errno("inotify"))?;
        let root = Path::new("/proc/sys/net");
        let of_taps = vms
            .iter()
            .flat_map(|vm| DEVICE.map(|directory| root.join(directory).join(&vm.tap)));
        let of_host = HOST.map(|directory| root.join(directory));
        let of_host = of_host.into_iter().filter(|directory| directory.exists());
        netns::inside(namespace, || {
            of_taps.chain(of_host).try_for_each(|directory| {
                inotify
                    .add_watch(&directory, AddWatchFlags::IN_MODIFY)
                    .map(drop)
                    .map_err(Error::errno(format!("watching {}", directory.display())))
            })
        })??;
        Ok(Self { inotify })
    }

    /// How often something was written since it was last asked.
    ///
    /// # Errors
    /// More was written than inotify remembers.
    pub(super) fn count(&self) -> Result<usize> {
        let mut count = 0;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    if events
                        .iter()
                        .any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW))
                    {
                        return Err(Error::Program(
                            "more settings were written than inotify remembers".to_owned(),
                        ));
                    }
                    count += events.len();
                }
                Err(Errno::EAGAIN) => return Ok(count),
                Err(error) => return Err(Error::errno("reading inotify's events")(error)),
            }
        }
    }
}

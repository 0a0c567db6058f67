//! Away with what isn't needed, before the first byte of a guest is read.

use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    sys::prctl,
    unistd::{Gid, Uid, User, geteuid, initgroups, setresgid, setresuid},
};
use std::ffi::CString;
use tracing::warn;

/// Where the kernel says from which port on no privilege is needed.
const FREE_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Why privileges can't be dropped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such user.
    #[error(
        "there is no user {0:?}: make one (the package's sysusers.d does), or name another by metadata_user"
    )]
    NoUser(String),
    /// Root is what is to be got rid of.
    #[error("metadata_user is {0:?}, which is root: name a user without privileges")]
    Root(String),
    /// The kernel refuses.
    #[error("privileges can't be dropped: {0}")]
    Refused(String),
}

impl From<caps::errors::CapsError> for Error {
    fn from(error: caps::errors::CapsError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<nix::Error> for Error {
    fn from(errno: nix::Error) -> Self {
        Self::Refused(errno.desc().to_owned())
    }
}

/// Becomes `user` if this is root, and keeps one capability at most: to listen
/// on a port below 1024, since taps come at any time. Call it while the process
/// has one thread: capabilities are each thread's own.
///
/// # Errors
/// See [`Error`]; the process must not go on then.
pub(super) fn drop(user: &str, port: u16) -> Result<(), Error> {
    let keep = CapsHashSet::from([Capability::CAP_NET_BIND_SERVICE]);
    if geteuid().is_root() {
        let found = User::from_name(user)?.ok_or_else(|| Error::NoUser(user.to_owned()))?;
        if found.uid.is_root() {
            return Err(Error::Root(user.to_owned()));
        }
        become_user(&found)?;
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    let had = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = had.intersection(&keep).copied().collect();
    // What is effective must be permitted at every moment.
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    prctl::set_no_new_privs()?;
    // Secrets are in memory: no core files, and no debugger of the same user.
    prctl::set_dumpable(false)?;
    let free = std::fs::read_to_string(FREE_PORTS).ok();
    let free = free.and_then(|text| text.trim().parse().ok());
    if kept.is_empty() && port < free.unwrap_or(1024) {
        warn!("without CAP_NET_BIND_SERVICE port {port} can't be listened on; see the unit file");
    }
    Ok(())
}

fn become_user(user: &User) -> Result<(), Error> {
    let name = CString::new(user.name.as_str()).map_err(|_| Error::NoUser(user.name.clone()))?;
    // While it is still allowed: nothing that is executed gets anything back.
    caps::clear(None, CapSet::Bounding)?;
    prctl::set_keepcaps(true)?;
    let (uid, gid): (Uid, Gid) = (user.uid, user.gid);
    initgroups(&name, gid)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_keepcaps(false)?;
    Ok(())
}

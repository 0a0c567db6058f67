//! `vtysh` and `birdc` as on a real router: without saying where the sockets
//! are.
//!
//! Each node has a directory with programs of these names, which comes first on
//! the PATH of whatever `exec` runs there. So the commands of the operators'
//! pages are the commands of tests.

use std::{ffi::OsString, os::unix::fs::PermissionsExt as _, path::Path};

use super::bird::DRAIN;
use crate::{Error, Result, state::replace};

const BIN: &str = "bin";

pub(super) fn write(directory: &Path) -> Result<()> {
    let bin = directory.join(BIN);
    std::fs::create_dir_all(&bin).map_err(Error::file(&bin))?;
    let place = directory.display();
    for (name, command) in [
        (
            "vtysh",
            format!("/usr/bin/vtysh --vty_socket {place} --config_dir {place}"),
        ),
        ("birdc", format!("/usr/sbin/birdc -s {place}/bird.ctl")),
    ] {
        let path = bin.join(name);
        replace(&path, &format!("#!/bin/sh\nexec {command} \"$@\"\n"))?;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).map_err(Error::file(&path))?;
    }
    Ok(())
}

pub(super) fn environment(directory: &Path) -> Vec<(&'static str, OsString)> {
    let mut path = OsString::from(directory.join(BIN));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    vec![
        ("PATH", path),
        ("FRR_CONF", directory.join("bgpd.conf").into()),
        ("BIRD_DRAIN", directory.join(DRAIN).into()),
        ("NSTAT_HISTORY", directory.join("nstat").into()),
    ]
}

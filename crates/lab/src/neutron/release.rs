//! The releases of Neutron that a lab can run, and where their programs are.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where `scripts/neutron-env` puts the newest release and our drivers.
const VENV: &str = "neutron-29";
const DRIVER: &str = "neutron-driver";

/// A release of Neutron: the oldest and the newest that the drivers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Release {
    /// Zed, Debian 12's own.
    #[serde(rename = "21")]
    #[value(name = "21")]
    Oldest,
    /// 2026.2, from a virtual environment.
    #[serde(rename = "29")]
    #[value(name = "29")]
    Newest,
}

impl Release {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Oldest, Self::Newest];
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Oldest => "21",
            Self::Newest => "29",
        })
    }
}

/// Where a release's programs and our drivers are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// The root below which `bin` and `etc` are: `/usr` or a virtual
    /// environment.
    pub root: PathBuf,
    /// The directory with our drivers, installed.
    pub driver: PathBuf,
}

impl Programs {
    /// Those that belong to this program: made by `scripts/neutron-env` into
    /// the same target directory.
    ///
    /// # Errors
    /// There are none.
    pub fn find(release: Release) -> Result<Self> {
        let own = std::env::current_exe().map_err(Error::io("finding this program's own file"))?;
        // target/debug, or a level further down for a test's executable.
        let missing = |what: &str| {
            Error::Program(format!(
                "{what} is not beside the directory of {}; `scripts/neutron-env` makes it",
                own.display()
            ))
        };
        let beside = |name: &str| {
            own.ancestors()
                .skip(2)
                .take(2)
                .map(|directory| directory.join(name))
                .find(|path| path.is_dir())
                .ok_or_else(|| missing(name))
        };
        Ok(Self {
            root: match release {
                Release::Oldest => PathBuf::from("/usr"),
                Release::Newest => beside(VENV)?,
            },
            driver: beside(DRIVER)?,
        })
    }

    /// The interpreter. Debian's programs must run with Debian's, whatever
    /// comes first in PATH.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        let name = if self.is_debian() {
            "python3"
        } else {
            "python"
        };
        self.program(name)
    }

    /// One of the programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// The description of the API's layers.
    #[must_use]
    pub fn paste(&self) -> PathBuf {
        let directory = if self.is_debian() {
            "share/neutron-common"
        } else {
            "etc/neutron"
        };
        self.root.join(directory).join("api-paste.ini")
    }

    fn is_debian(&self) -> bool {
        self.root == Path::new("/usr")
    }

    /// Whether everything is there.
    ///
    /// # Errors
    /// It isn't; says what is missing and how to get it.
    pub fn check(&self) -> Result<()> {
        let (server, how) = if self.is_debian() {
            (
                "neutron-server",
                "install the Debian package neutron-common",
            )
        } else {
            ("neutron-rpc-server", "run scripts/neutron-env")
        };
        let drivers = self.driver.join("networking_l2isolate");
        for (path, how) in [
            (self.program(server), how),
            (self.program("neutron-db-manage"), how),
            (self.paste(), how),
            (drivers, "run scripts/neutron-env"),
            (
                PathBuf::from("/usr/sbin/mariadbd"),
                "install the Debian package mariadb-server",
            ),
        ] {
            if !path.exists() {
                return Err(Error::Program(format!(
                    "{} is missing: {how}",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

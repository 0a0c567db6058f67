//! Certificates for a broker's TLS port: an authority of its own, one for the
//! server and one for clients, made by openssl, good for some days.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, Result, state::replace};

/// The files, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    pub(super) fn below(directory: &Path) -> Self {
        Self {
            directory: directory.join("tls"),
        }
    }

    /// The authority's certificate (`ssl_ca_file`).
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// The server's certificate.
    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    /// Its key.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.directory.join("server.key")
    }

    /// A client's certificate (`ssl_cert_file`).
    #[must_use]
    pub fn client(&self) -> PathBuf {
        self.directory.join("client.pem")
    }

    /// Its key (`ssl_key_file`).
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.directory.join("client.key")
    }

    /// Makes all of them, unless they are there.
    pub(super) fn make(&self, names: &[String]) -> Result<()> {
        if self.client_key().exists() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.directory).map_err(Error::file(&self.directory))?;
        let names = names.join(",");
        let config = format!(
            "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = l2isolate lab\n\
             [authority]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = keyCertSign,cRLSign\n\
             subjectKeyIdentifier = hash\n\
             [server]\nbasicConstraints = CA:FALSE\nextendedKeyUsage = serverAuth\n\
             subjectAltName = {names}\n\
             [client]\nbasicConstraints = CA:FALSE\nextendedKeyUsage = clientAuth\n"
        );
        replace(&self.directory.join("openssl.cnf"), &config)?;
        for role in ["authority", "server", "client"] {
            self.openssl(role)?;
        }
        Ok(())
    }

    fn openssl(&self, role: &str) -> Result<()> {
        let file = |name: String| self.directory.join(name);
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-new", "-nodes", "-days", "7"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .arg("-config")
            .arg(file("openssl.cnf".to_owned()))
            .args(["-extensions", role, "-subj"])
            .arg(format!("/O=l2isolate lab/CN={role}"))
            .arg("-keyout")
            .arg(file(format!("{role}.key")))
            .arg("-out")
            .arg(file(format!("{role}.pem")));
        if role != "authority" {
            command.arg("-CA").arg(self.authority());
            command.arg("-CAkey").arg(file("authority.key".to_owned()));
        }
        let what = format!("openssl req -x509 for {role}.pem");
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(Error::io(format!("{what} (Debian package openssl needed)")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Command {
            command: what,
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

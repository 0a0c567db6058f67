//! Files and the DHCP server, behind the model's keys and values.

use std::{io, net::Ipv4Addr, time::Instant};

use l2isolate_model::{
    IfName,
    guest::{Key, Objects, Service, Value},
};
use l2isolate_reconcile::Change;

use crate::{
    dnsmasq::{self, Noticed, Server, Settings},
    files::{Directory, Files},
};

/// Why an object can't be as wanted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read or written.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// The lease can't be released: dnsmasq is told by way of a tap.
    #[error("{0} can't be released: no tap has the address that DHCP is served from")]
    NoTap(String),
    /// A value that the key can't have.
    #[error("{0} can't be that")]
    Mismatch(String),
}

/// A tap by which the DHCP server can be spoken to, with the server's
/// addresses on it.
pub type Way = (IfName, Vec<Ipv4Addr>);

/// What a guest is told, as files and as a process.
#[derive(Debug)]
pub struct Backend {
    files: Files,
    server: Option<Server>,
}

impl Backend {
    /// Makes what directories are missing. Without `server` no DHCP is served,
    /// and none is looked after.
    ///
    /// # Errors
    /// The directories can't be made.
    pub fn open(directories: Vec<Directory>, server: Option<Settings>) -> Result<Self, Error> {
        let failed = |error| Error::Io("making the directories of guests' files".to_owned(), error);
        if let Some(settings) = &server {
            dnsmasq::make_directory(&settings.directory).map_err(failed)?;
        }
        let files = Files::new(directories).map_err(failed)?;
        Ok(Self {
            files,
            server: server.map(Server::new),
        })
    }

    /// All there is, but for old leases ([`Self::stale_leases`]).
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn observe(&mut self) -> Result<Objects, Error> {
        let failed = |error| Error::Io("reading guests' files".to_owned(), error);
        let mut objects = self.files.observe().map_err(failed)?;
        if let Some(value) = self.server.as_mut().and_then(Server::observe) {
            objects.insert(Key::Server, value);
        }
        Ok(objects)
    }

    /// Old leases that are in the way of what `files` say.
    ///
    /// # Errors
    /// The server's file of leases can't be read.
    pub fn stale_leases(&self, files: &Objects) -> Result<Vec<Key>, Error> {
        let Some(server) = &self.server else {
            return Ok(Vec::new());
        };
        let failed = |error| Error::Io("reading dnsmasq's leases".to_owned(), error);
        server.stale_leases(files).map_err(failed)
    }

    /// Carries out changes in order: one answer for each. `observed` is what
    /// is there now.
    pub fn apply(
        &mut self,
        changes: &[Change<Key, Value>],
        observed: &Objects,
        way: Option<&Way>,
    ) -> Vec<Result<(), Error>> {
        let one = |change: &Change<Key, Value>| self.change(change, observed, way);
        changes.iter().map(one).collect()
    }

    fn change(
        &mut self,
        change: &Change<Key, Value>,
        observed: &Objects,
        way: Option<&Way>,
    ) -> Result<(), Error> {
        let key = change.key();
        let failed = |error| Error::Io(key.to_string(), error);
        match (change, key) {
            (Change::Set(_, Value::Content(content)), Key::File(service, name)) => {
                self.files.write(*service, name, content).map_err(failed)?;
                if observed.contains_key(key) {
                    self.changed(*service);
                }
                Ok(())
            }
            (Change::Delete(_), Key::File(service, name)) => {
                self.files.remove(*service, name).map_err(failed)?;
                self.changed(*service);
                Ok(())
            }
            (Change::Set(_, Value::Arguments(arguments)), Key::Server) => match &mut self.server {
                Some(server) => server.start(arguments).map_err(failed),
                None => Err(Error::Mismatch(key.to_string())),
            },
            (Change::Delete(_), Key::Server) => {
                self.server.iter_mut().for_each(Server::stop);
                Ok(())
            }
            (Change::Delete(_), Key::StaleLease(address, mac)) => {
                let (tap, servers) = way.ok_or_else(|| Error::NoTap(key.to_string()))?;
                match &self.server {
                    Some(server) => server
                        .release(*address, *mac, *tap, servers)
                        .map_err(failed),
                    None => Ok(()),
                }
            }
            _ => Err(Error::Mismatch(key.to_string())),
        }
    }

    /// A file of a service isn't what it was.
    fn changed(&mut self, service: Service) {
        if matches!(service, Service::Hosts | Service::Options) {
            self.server.iter_mut().for_each(Server::forget);
        }
    }

    /// Has the server read its files anew where it has to; `hosts` is how many
    /// it serves.
    pub fn settle(&mut self, now: Instant, hosts: usize) {
        if let Some(server) = &mut self.server {
            server.reread(now, hosts);
        }
    }

    /// Looks after the server: what has become of it?
    pub fn look(&mut self, now: Instant) -> Option<Noticed> {
        self.server.as_mut()?.look(now)
    }

    /// When it is to be looked after, or to read its files, next.
    #[must_use]
    pub fn due(&self, hosts: usize) -> Option<Instant> {
        self.server.as_ref()?.reread_due(hosts)
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.server.as_ref()?.pid()
    }

    /// How many leases the server holds, and how often it has read its files
    /// anew.
    #[must_use]
    pub fn figures(&self) -> (usize, u64) {
        let server = self.server.as_ref();
        server.map_or((0, 0), |server| (server.leases(), server.rereads()))
    }
}

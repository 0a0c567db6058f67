//! The metadata proxy's part of the configuration. Where Neutron's metadata
//! agent has an option, it has the same name here, in `[DEFAULT]`, so that the
//! operator's metadata_agent.ini can be given as it is.

use std::path::PathBuf;

use l2isolate_guest::metadata::{Address, Limits, Options, Secret, SecretSource, Source, Tls};

use super::{
    Config,
    types::{Bounds, Typed},
};

/// Where guests' metadata comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetadataSource {
    /// The ports' intent.
    Intent,
    /// Nova's metadata API.
    Nova,
    /// neutron-metadata-agent on this host.
    Neutron,
}

impl Typed for MetadataSource {
    const EXPECTED: &'static str = "intent, nova or neutron";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        match text {
            "intent" => Ok(Self::Intent),
            "nova" => Ok(Self::Nova),
            "neutron" => Ok(Self::Neutron),
            _ => Err("is none of them".to_owned()),
        }
    }
}

/// How Nova's metadata API is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP.
    Plain,
    /// HTTP in TLS.
    Tls,
}

impl Typed for Protocol {
    const EXPECTED: &'static str = "http or https";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "http" => Ok(Self::Plain),
            "https" => Ok(Self::Tls),
            _ => Err("is neither".to_owned()),
        }
    }
}

/// Servers, each with its own port or without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Servers(Vec<(String, Option<u16>)>);

impl Typed for Servers {
    const EXPECTED: &'static str =
        "names or addresses with commas between, each with :port if it has its own";

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        let servers: Vec<_> = items.map(server).collect::<Result<_, _>>()?;
        if servers.is_empty() {
            return Err("names no server".to_owned());
        }
        Ok(Self(servers))
    }
}

fn server(text: &str) -> Result<(String, Option<u16>), String> {
    let bad = || format!("has {text:?}, which is no server");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or_else(bad)?),
            };
            (host, port)
        }
        // An IPv6 address has colons of its own.
        None if text.matches(':').count() > 1 => (text, None),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(is_host) {
        return Err(bad());
    }
    let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0));
    match port {
        Some(None) => Err(bad()),
        port => Ok((host.to_owned(), port.flatten())),
    }
}

impl Typed for Secret {
    const EXPECTED: &'static str = "a secret";
    const SECRET: bool = true;

    fn parse(text: &str, _: &Bounds) -> Result<Self, String> {
        Ok(Self::new(text))
    }
}

impl Config {
    /// What of it the metadata proxy works with.
    ///
    /// # Errors
    /// Options that don't go together.
    pub(crate) fn metadata(&self) -> anyhow::Result<Options> {
        let source = match self.metadata_source {
            MetadataSource::Intent => Source::Intent,
            MetadataSource::Neutron => Source::Neutron(self.metadata_proxy_socket.clone()),
            MetadataSource::Nova => Source::Nova {
                servers: self.nova_servers(),
                tls: match self.nova_metadata_protocol {
                    Protocol::Plain => None,
                    Protocol::Tls => Some(self.nova_tls()?),
                },
                secret: match &self.metadata_secret_file {
                    Some(path) => SecretSource::File(path.clone()),
                    None => SecretSource::Given(self.metadata_proxy_shared_secret.clone()),
                },
            },
        };
        Ok(Options {
            directory: self.metadata_directory.clone(),
            source,
            limits: Limits {
                connections: usize::try_from(self.metadata_connections).unwrap_or(usize::MAX),
                body: self.metadata_body.into(),
                answer_time: self.metadata_timeout,
                ..Limits::default()
            },
            user: self.metadata_user.clone(),
        })
    }

    fn nova_servers(&self) -> Vec<Address> {
        let servers = self.nova_metadata_host.0.iter();
        let address = |(host, port): &(String, Option<u16>)| Address::Tcp {
            host: host.clone(),
            port: port.unwrap_or(self.nova_metadata_port),
        };
        servers.map(address).collect()
    }

    fn nova_tls(&self) -> anyhow::Result<Tls> {
        let own = match (&self.nova_client_cert, &self.nova_client_priv_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => anyhow::bail!(
                "nova_client_cert and nova_client_priv_key go together: give both, or neither"
            ),
        };
        Ok(Tls {
            authorities: self.auth_ca_cert.clone(),
            insecure: self.nova_metadata_insecure,
            own,
        })
    }
}

impl Typed for Option<PathBuf> {
    const EXPECTED: &'static str = "an absolute path, or nothing";

    fn parse(text: &str, bounds: &Bounds) -> Result<Self, String> {
        match text {
            "" => Ok(None),
            text => PathBuf::parse(text, bounds).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_operators_write_them() {
        let parse = |text: &str| Servers::parse(text, &None).map(|servers| servers.0);
        let host = |host: &str, port| (host.to_owned(), port);
        assert_eq!(parse("127.0.0.1"), Ok(vec![host("127.0.0.1", None)]));
        assert_eq!(
            parse("nova.example, 10.0.0.2:80, [2001:db8::1]:8775, [::1], 2001:db8::2,"),
            Ok(vec![
                host("nova.example", None),
                host("10.0.0.2", Some(80)),
                host("2001:db8::1", Some(8775)),
                host("::1", None),
                host("2001:db8::2", None),
            ])
        );
        for bad in [
            "",
            "http://nova",
            "nova:0",
            "nova:port",
            "[::1",
            "[::1]8775",
            "nova:70000",
            ":80",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

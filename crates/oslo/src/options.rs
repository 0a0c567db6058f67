//! How to reach the broker and what to make there: `transport_url` and
//! `[oslo_messaging_rabbit]`, read as oslo.messaging reads them.

use std::{path::PathBuf, time::Duration};

use crate::url::{TransportUrl, UrlError};

/// The group of the options that [`Options::read`] asks for.
pub const GROUP: &str = "oslo_messaging_rabbit";

/// A program's view of RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where it is.
    pub url: TransportUrl,
    /// The name under which operators find the connection
    /// (`rabbitmqctl list_connections client_properties`).
    pub connection_name: String,
    /// The exchange of topics (`control_exchange`): `neutron` for Neutron's.
    pub exchange: String,
    /// TLS, if it is on.
    pub tls: Option<Tls>,
    /// The SASL mechanism, one of RabbitMQ's: `PLAIN`, `AMQPLAIN`, `EXTERNAL`.
    pub login: Login,
    /// After how much silence the broker counts as gone; zero: never.
    pub heartbeat: Duration,
    /// The pause between rounds of tries: first, growth and most.
    pub retry: Retry,
    /// Shuffle the brokers before each round; else they take turns from a
    /// random one on.
    pub shuffle: bool,
    /// Whether exchanges and queues of topics are durable where this program is
    /// the first to declare them.
    pub durable: bool,
    /// Whether queues of topics that this program declares are quorum queues.
    pub quorum: bool,
    /// Whether exchanges of fanouts are durable where this program is the first
    /// to declare them.
    pub durable_fanout: bool,
    /// Whether the exchange and the queues of topics vanish with their last user.
    pub auto_delete: bool,
    /// How many requests a server works on at once.
    pub workers: usize,
    /// How long to go on trying to send a reply whose queue is away.
    pub reply_retry: Duration,
}

/// Pauses between rounds of tries to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The first.
    pub first: Duration,
    /// By how much each is longer than the one before.
    pub step: Duration,
    /// The longest.
    pub most: Duration,
}

/// SASL mechanisms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// User and password, as a table.
    AmqPlain,
    /// User and password, as text.
    Plain,
    /// By the client's certificate (RabbitMQ's plugin
    /// `rabbitmq_auth_mechanism_ssl`).
    External,
}

/// Files and rules of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that sign brokers' certificates. None:
    /// whoever answers is trusted, as by oslo.messaging.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate, with those of authorities in between.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Whether the broker's certificate must be for the name in the URL.
    pub verify_name: bool,
}

/// An option that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The URL itself.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// One of `[oslo_messaging_rabbit]`, or of the URL's query.
    #[error("{name} = {value}: {reason}")]
    Option {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What was expected.
        reason: &'static str,
    },
}

impl Options {
    /// Everything but the URL by default.
    #[must_use]
    pub fn new(url: TransportUrl) -> Self {
        let name = format!("oslo:{}:{}", std::process::id(), crate::unique::uuid());
        Self {
            url,
            connection_name: name,
            exchange: "openstack".to_owned(),
            tls: None,
            login: Login::AmqPlain,
            heartbeat: Duration::from_secs(60),
            retry: Retry {
                first: Duration::from_secs(1),
                step: Duration::from_secs(2),
                most: Duration::from_secs(30),
            },
            shuffle: false,
            durable: false,
            quorum: false,
            durable_fanout: false,
            auto_delete: false,
            workers: 64,
            reply_retry: Duration::from_secs(60),
        }
    }

    /// Reads the options as oslo.messaging does: `option` gives the text of one
    /// of `[oslo_messaging_rabbit]` by name, if the operator has set it; what
    /// the URL's query has stands for it. Names that were in use before
    /// (`kombu_ssl_ca_certs` and so on) count.
    ///
    /// # Errors
    /// A value that is none of its type, or the URL.
    pub fn read(url: &str, option: impl Fn(&str) -> Option<String>) -> Result<Self, OptionError> {
        let mut options = Self::new(url.parse()?);
        let query = options.url.query.clone();
        let get = |name: &str| {
            let of_url = query.iter().rev().find(|(key, _)| key == name);
            of_url
                .map(|(_, value)| value.clone())
                .or_else(|| option(name))
        };
        // The first of the names that is set; its own goes first.
        let text = |names: &[&'static str]| {
            names
                .iter()
                .find_map(|name| Some((*name, get(name)?)))
                .filter(|(_, value)| !value.is_empty())
        };
        let flag = |names: &[&'static str], default: bool| match text(names) {
            None => Ok(default),
            Some((name, value)) => match &*value.to_ascii_lowercase() {
                "true" | "1" | "on" | "yes" => Ok(true),
                "false" | "0" | "off" | "no" => Ok(false),
                _ => Err(OptionError::Option {
                    name,
                    value,
                    reason: "expected true or false",
                }),
            },
        };
        let seconds = |name: &'static str, default: Duration| match text(&[name]) {
            None => Ok(default),
            Some((name, value)) => value
                .parse::<f64>()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or(OptionError::Option {
                    name,
                    value,
                    reason: "expected a number of seconds",
                }),
        };
        let path = |names: &[&'static str]| text(names).map(|(_, value)| PathBuf::from(value));

        if flag(&["ssl", "rabbit_use_ssl"], false)? {
            options.tls = Some(Tls {
                ca_file: path(&["ssl_ca_file", "kombu_ssl_ca_certs"]),
                cert_file: path(&["ssl_cert_file", "kombu_ssl_certfile"]),
                key_file: path(&["ssl_key_file", "kombu_ssl_keyfile"]),
                verify_name: flag(&["ssl_enforce_hostname_verification"], true)?,
            });
        }
        if let Some((name, value)) = text(&["rabbit_login_method"]) {
            options.login = match &*value.to_ascii_uppercase() {
                "PLAIN" => Login::Plain,
                "AMQPLAIN" => Login::AmqPlain,
                "EXTERNAL" => Login::External,
                _ => {
                    return Err(OptionError::Option {
                        name,
                        value,
                        reason: "expected PLAIN, AMQPLAIN or EXTERNAL",
                    });
                }
            };
        }
        if let Some((name, value)) = text(&["kombu_failover_strategy"]) {
            options.shuffle = match &*value {
                "shuffle" => true,
                "round-robin" => false,
                _ => {
                    return Err(OptionError::Option {
                        name,
                        value,
                        reason: "expected round-robin or shuffle",
                    });
                }
            };
        }
        options.heartbeat = seconds("heartbeat_timeout_threshold", options.heartbeat)?;
        options.retry = Retry {
            first: seconds("rabbit_retry_interval", options.retry.first)?,
            step: seconds("rabbit_retry_backoff", options.retry.step)?,
            most: seconds("rabbit_interval_max", options.retry.most)?,
        };
        options.quorum = flag(&["rabbit_quorum_queue"], false)?;
        options.durable = options.quorum || flag(&["amqp_durable_queues"], false)?;
        options.durable_fanout = flag(&["rabbit_transient_quorum_queue"], false)?;
        options.auto_delete = flag(&["amqp_auto_delete"], false)?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operator's neutron.conf with the options' older names, and a URL
    /// whose query has the last word.
    #[test]
    fn options_are_read_as_oslo_reads_them() {
        let file = |name: &str| {
            let value = match name {
                "rabbit_use_ssl" => "True",
                "kombu_ssl_ca_certs" => "/etc/ca.pem",
                "ssl_cert_file" => "",
                "rabbit_quorum_queue" => "yes",
                "rabbit_interval_max" => "5",
                "kombu_failover_strategy" => "shuffle",
                "rabbit_login_method" => "AMQPLAIN",
                "heartbeat_timeout_threshold" => "60",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let url = "rabbit://h/?heartbeat_timeout_threshold=7&ssl_enforce_hostname_verification=no";
        let options = Options::read(url, file).unwrap();
        let tls = options.tls.unwrap();
        assert_eq!(tls.ca_file, Some(PathBuf::from("/etc/ca.pem")));
        assert_eq!(tls.cert_file, None);
        assert!(!tls.verify_name);
        assert!(options.quorum && options.durable && !options.durable_fanout);
        assert!(options.shuffle);
        assert_eq!(options.login, Login::AmqPlain);
        assert_eq!(options.heartbeat, Duration::from_secs(7));
        assert_eq!(options.retry.most, Duration::from_secs(5));
        assert_eq!(Options::read("rabbit://h", |_| None).unwrap().tls, None);
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (name, value) in [
            ("ssl", "maybe"),
            ("rabbit_retry_interval", "soon"),
            ("rabbit_retry_interval", "-1"),
            ("rabbit_login_method", "MAGIC"),
            ("kombu_failover_strategy", "best"),
        ] {
            let file = |asked: &str| (asked == name).then(|| value.to_owned());
            let message = Options::read("rabbit://h", file).unwrap_err().to_string();
            assert!(
                message.contains(name) && message.contains(value),
                "{message}"
            );
        }
    }
}

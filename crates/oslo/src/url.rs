//! `transport_url`, as oslo.messaging reads it (`oslo_messaging/transport.py`).

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;

/// RabbitMQ's port, also where TLS is on.
pub(crate) const PORT: u16 = 5672;

/// One broker of a URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Host {
    /// A name or an address, without brackets.
    pub name: String,
    /// The port.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: String,
}

impl fmt::Display for Host {
    /// Name and port; never the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{self}", self.user)
    }
}

/// `rabbit://[user:password@]host[:port][,…]/[virtual host][?option=value]`
///
/// User, password and virtual host are percent-decoded. Without a virtual host
/// it is `/`, without a host `localhost`, without a user `guest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportUrl {
    /// The brokers, in their order; at least one.
    pub hosts: Vec<Host>,
    /// The virtual host.
    pub vhost: String,
    /// Options that stand for those of `[oslo_messaging_rabbit]`.
    pub query: Vec<(String, String)>,
}

/// What is wrong with a URL. Doesn't repeat it, since it holds passwords.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("transport_url {0}; expected rabbit://user:password@host:port/vhost")]
pub struct UrlError(String);

fn wrong<T>(reason: impl Into<String>) -> Result<T, UrlError> {
    Err(UrlError(reason.into()))
}

fn decode(text: &str, what: &str) -> Result<String, UrlError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => wrong(format!("has a {what} that is no UTF-8 once decoded")),
    }
}

impl FromStr for TransportUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let Some((scheme, rest)) = text.trim().split_once("://") else {
            return wrong("has no scheme");
        };
        // `kombu+rabbit` and the like are older names of the same driver.
        if !matches!(scheme, "rabbit" | "kombu" | "kombu+rabbit") {
            return wrong(format!("has the scheme `{scheme}`, only rabbit is spoken"));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if rest.starts_with('#') {
            return wrong("has a # before the virtual host; in a password it is written %23");
        }
        let (rest, _) = rest.split_once('#').unwrap_or((rest, ""));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let vhost = decode(path.strip_prefix('/').unwrap_or(path), "virtual host")?;
        let hosts = authority.split(',').filter(|host| !host.is_empty());
        let mut hosts: Vec<Host> = hosts.map(host).collect::<Result<_, _>>()?;
        if hosts.is_empty() {
            hosts.push(host("localhost")?);
        }
        let mut options = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| decode(&text.replace('+', " "), "query");
            options.push((plain(key)?, plain(value)?));
        }
        Ok(Self {
            hosts,
            vhost: if vhost.is_empty() {
                "/".to_owned()
            } else {
                vhost
            },
            query: options,
        })
    }
}

fn host(text: &str) -> Result<Host, UrlError> {
    // At the last `@`: some authentication backends have users with one.
    let (credentials, address) = match text.rsplit_once('@') {
        Some((credentials, address)) => (Some(credentials), address),
        None => (None, text),
    };
    let (user, password) = match credentials {
        Some(text) => {
            let (user, password) = text.split_once(':').unwrap_or((text, ""));
            (decode(user, "user")?, decode(password, "password")?)
        }
        None => ("guest".to_owned(), "guest".to_owned()),
    };
    let (name, port) = if let Some(rest) = address.strip_prefix('[') {
        let Some((name, rest)) = rest.split_once(']') else {
            return wrong("has an IPv6 address without its ]");
        };
        match rest.strip_prefix(':') {
            Some(port) => (name, port),
            None if rest.is_empty() => (name, ""),
            None => return wrong("has something between ] and the port"),
        }
    } else {
        let (name, port) = address.split_once(':').unwrap_or((address, ""));
        if port.contains(':') {
            return wrong("has an IPv6 address without [ and ]");
        }
        (name, port)
    };
    let port = match port {
        "" => PORT,
        // Not repeated: it may be a part of a password.
        text => match text.parse() {
            Ok(port) if port > 0 => port,
            _ => {
                return wrong(
                    "has a port that is no number from 1 to 65535; of a user or password, \
                     the characters : @ / ? # , are written as %3A %40 %2F %3F %23 %2C",
                );
            }
        },
    };
    let name = if name.is_empty() { "localhost" } else { name };
    Ok(Host {
        name: name.to_owned(),
        port,
        user,
        password,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> TransportUrl {
        text.parse().unwrap()
    }

    /// What oslo.messaging makes of the same texts (its own test cases and
    /// those that operators run into).
    #[test]
    fn reads_what_oslo_messaging_reads() {
        let url = parse("rabbit://");
        assert_eq!(url.hosts[0].to_string(), "localhost:5672");
        assert_eq!((&*url.hosts[0].user, &*url.vhost), ("guest", "/"));
        let url = parse("rabbit://u%40s:p%2F%3A%2Cw@h1,u2:p2@[2001:db8::1]:5673,u@x:p3@h3:1/a%2Fb");
        let hosts: Vec<_> = url.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["h1:5672", "[2001:db8::1]:5673", "h3:1"]);
        let users: Vec<_> = url.hosts.iter().map(|h| (&*h.user, &*h.password)).collect();
        assert_eq!(users, [("u@s", "p/:,w"), ("u2", "p2"), ("u@x", "p3")]);
        assert_eq!(url.vhost, "a/b");
        for (text, vhost) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/%2F", "/"),
            ("/nova", "nova"),
        ] {
            assert_eq!(parse(&format!("rabbit://h{text}")).vhost, vhost, "{text}");
        }
        let url = parse("rabbit://u:p@h:5671/?ssl=1&ssl_ca_file=%2Fetc%2Fca+1.pem&x");
        let query: Vec<_> = url.query.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            query,
            [("ssl", "1"), ("ssl_ca_file", "/etc/ca 1.pem"), ("x", "")]
        );
        // A user without a password has an empty one.
        assert_eq!(parse("rabbit://u@h").hosts[0].password, "");
    }

    /// Each says what to write instead, and none shows a password.
    #[test]
    fn says_what_is_wrong() {
        for (text, part) in [
            ("host:5672", "no scheme"),
            ("amqp://h", "only rabbit"),
            ("rabbit://u:secret#x@h", "%23"),
            ("rabbit://u:secret/x@h", "%2F"),
            ("rabbit://u:secret@h:port", "no number"),
            ("rabbit://u:secret@h:0", "1 to 65535"),
            ("rabbit://u:secret@2001:db8::1:5672/", "without [ and ]"),
            ("rabbit://u:secret@[2001:db8::1", "without its ]"),
            ("rabbit://u:secret@[::1]5672", "between ] and"),
            ("rabbit://u:%ff@h", "UTF-8"),
        ] {
            let message = TransportUrl::from_str(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
        let url = parse("rabbit://u:secret@h");
        assert!(!format!("{url:?}").contains("secret"));
    }
}

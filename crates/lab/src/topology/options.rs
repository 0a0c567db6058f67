//! What a topology says of its fabric beyond the shape.

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::Places;
use crate::Result;

/// Longest password of TCP's MD5 signature (linux/tcp.h, `TCP_MD5SIG_MAXKEYLEN`).
const PASSWORD_MAX: usize = 80;

/// What a fabric does beyond its shape; each has a default that is off.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// BFD on every session (RFC 5880): finds a switch that is dead while its
    /// links are up.
    #[serde(default)]
    pub bfd: bool,
    /// Password of every session's TCP (RFC 2385); None: no authentication.
    #[serde(default)]
    pub tcp_auth: Option<String>,
    /// How many routes a switch's hardware holds.
    #[serde(default)]
    pub tables: Tables,
}

/// Sizes of a switch's tables; None where nothing is said of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// IPv4 routes, `/32`s included.
    pub ipv4: Option<u32>,
    /// IPv6 routes, `/128`s included.
    pub ipv6: Option<u32>,
}

/// Checks what a file says.
pub(super) fn read(
    bfd: bool,
    tcp_auth: Option<Spanned<String>>,
    tables: Tables,
    places: &Places<'_>,
) -> Result<Options> {
    if let Some(password) = &tcp_auth {
        let text = password.get_ref();
        // What every daemon takes as it is.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@".contains(c);
        if text.is_empty() || text.len() > PASSWORD_MAX || !text.chars().all(plain) {
            let reason =
                format!("tcp_auth is 1 to {PASSWORD_MAX} of ASCII letters, digits and -_.:/+=@");
            return Err(places.at(Some(password.span()), reason));
        }
    }
    Ok(Options {
        bfd,
        tcp_auth: tcp_auth.map(Spanned::into_inner),
        tables,
    })
}

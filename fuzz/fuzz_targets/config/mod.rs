//! The parts of the agent's module that read text; what the agent makes of it
//! needs the rest of the agent.

#[path = "../../../crates/agent/src/config/ini.rs"]
pub(crate) mod ini;
#[path = "../../../crates/agent/src/config/substitute.rs"]
mod substitute;
#[path = "../../../crates/agent/src/config/types.rs"]
mod types;

use std::{collections::BTreeSet, net::Ipv6Addr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use l2isolate_model::Mac;

use self::{
    ini::{Ini, Place},
    types::{Prefixes, Typed, Words},
};

/// As the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

/// As the agent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) place: Option<Place>,
    pub(crate) option: Option<(&'static str, String)>,
    pub(crate) value: Option<String>,
    pub(crate) reason: String,
}

/// Tries all values of a group.
pub(crate) fn values(ini: &Ini, group: &str) {
    let lookup = |group: &str, key: &str| ini.get(group, key).map(|value| value.text.clone());
    for (_, value) in ini.keys(group) {
        let Ok(text) = substitute::substitute(group, &value.text, &lookup) else {
            continue;
        };
        for bounds in [None, Some(5..=255)] {
            let _ = bool::parse(&text, &bounds);
            let _ = u32::parse(&text, &bounds);
            let _ = Duration::parse(&text, &bounds);
            let _ = PathBuf::parse(&text, &bounds);
            let _ = Mac::parse(&text, &bounds);
            let _ = Ipv6Addr::parse(&text, &bounds);
            let _ = Vec::<IpNet>::parse(&text, &bounds);
            let _ = Prefixes::parse(&text, &bounds);
            let _ = Words::parse(&text, &bounds);
            let _ = LogFormat::parse(&text, &bounds);
        }
    }
}

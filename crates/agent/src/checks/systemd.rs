//! systemd-networkd and udev.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{Finding, Host, files};

/// Where systemd looks, the most important first (systemd.network(5), (5) of
/// `networkd.conf`): a file hides those of the same name further down.
const DIRECTORIES: [&str; 5] = [
    "/etc/systemd",
    "/run/systemd",
    "/usr/local/lib/systemd",
    "/usr/lib/systemd",
    "/lib/systemd",
];

/// networkd removes routes that it hasn't made, unless told otherwise
/// (networkd.conf(5), ManageForeignRoutes).
pub(super) fn foreign_routes(host: &dyn Host) -> Option<Finding> {
    let wanted = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
    let enabled = host.path(wanted).symlink_metadata().is_ok();
    if !enabled && !host.path("/run/systemd/netif/state").exists() {
        return None;
    }
    // The main file first, then drop-ins by name: later ones win.
    let main = DIRECTORIES
        .iter()
        .map(|dir| host.path(&format!("{dir}/networkd.conf")))
        .find(|path| path.exists());
    let drop_ins = named(host, "networkd.conf.d", ".conf");
    let mut last = main.into_iter().chain(drop_ins).filter_map(|path| {
        let value = setting(&path, "Network", "ManageForeignRoutes")?;
        Some((path, value))
    });
    let (seen_in, value) = last
        .next_back()
        .unwrap_or_else(|| (host.path("/etc/systemd/networkd.conf"), "yes".to_owned()));
    // systemd.syntax(7): how a boolean may be written.
    if ["0", "no", "n", "false", "f", "off"].contains(&value.to_ascii_lowercase().as_str()) {
        return None;
    }
    Some(Finding {
        service: "systemd-networkd".to_owned(),
        seen_in: seen_in.display().to_string(),
        effect: "removes the guests' routes whenever it restarts or a link changes (ManageForeignRoutes is on, its default)"
            .to_owned(),
        remedy: "write ManageForeignRoutes=no below [Network] in /etc/systemd/networkd.conf.d/l2isolate.conf and restart systemd-networkd"
            .to_owned(),
    })
}

/// udev gives new devices a hardware address of its own, after Nova or libvirt
/// gave them one (systemd.link(5), MACAddressPolicy).
pub(super) fn mac_address_policy(host: &dyn Host) -> Option<Finding> {
    // The first file that matches a device is the only one that counts.
    let deciding = named(host, "network", ".link")
        .into_iter()
        .find(|path| matches_taps(path))?;
    let policy = setting(&deciding, "Link", "MACAddressPolicy")?;
    if policy.eq_ignore_ascii_case("none") {
        return None;
    }
    Some(Finding {
        service: "udev".to_owned(),
        seen_in: deciding.display().to_string(),
        effect: format!("changes the hardware address of new taps (MACAddressPolicy={policy}); the agent sets it back, guests may see both"),
        remedy: "write /etc/systemd/network/10-l2isolate.link with [Match] OriginalName=tap* and [Link] MACAddressPolicy=none".to_owned(),
    })
}

/// Files of one kind over all directories, by name.
fn named(host: &dyn Host, below: &str, ending: &str) -> Vec<PathBuf> {
    let mut by_name = BTreeMap::new();
    for directory in DIRECTORIES.iter().rev() {
        for path in files(&host.path(&format!("{directory}/{below}")), ending) {
            if let Some(name) = path.file_name().map(ToOwned::to_owned) {
                by_name.insert(name, path);
            }
        }
    }
    by_name.into_values().collect()
}

/// Whether a .link file applies to taps, by their name, or by their driver or
/// kind, which is `tun`. One that asks for more (a path) is for real hardware.
fn matches_taps(path: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(path) else {
        return false;
    };
    let conditions: Vec<(String, String)> = settings(&text, "Match").collect();
    !conditions.is_empty()
        && conditions.iter().all(|(key, value)| {
            let fits = |pattern: &str| match key.as_str() {
                "OriginalName" => pattern == "*" || pattern.starts_with("tap"),
                "Driver" | "Kind" => pattern == "*" || pattern == "tun",
                _ => false,
            };
            value.split_whitespace().any(fits)
        })
}

fn setting(path: &Path, section: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    settings(&text, section)
        .filter(|(k, _)| k == key)
        .last()
        .map(|(_, value)| value)
}

/// Keys and values of one section of a systemd file.
fn settings<'a>(text: &'a str, section: &'a str) -> impl Iterator<Item = (String, String)> + 'a {
    let mut inside = false;
    text.lines().map(str::trim).filter_map(move |line| {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            inside = name == section;
            return None;
        }
        let (key, value) = line
            .split_once('=')
            .filter(|_| inside && !line.starts_with(['#', ';']))?;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    })
}

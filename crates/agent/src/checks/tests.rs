//! The checks on hosts made of files, and of what programs would print there.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::PathBuf};

use tempfile::TempDir;

use super::{Finding, Host, co_tenants, limits};

/// A host in a directory.
struct Fake {
    root: TempDir,
    outputs: BTreeMap<&'static str, String>,
}

impl Host for Fake {
    fn path(&self, absolute: &str) -> PathBuf {
        self.root.path().join(absolute.trim_start_matches('/'))
    }

    fn output(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let line = [&[program], arguments].concat().join(" ");
        self.outputs.get(line.as_str()).cloned()
    }
}

impl Fake {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        Self {
            root,
            outputs: BTreeMap::new(),
        }
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A unit that is started at boot: a link, to a file that a package may
    /// have taken along.
    fn enabled(&self, unit: &str) -> &Self {
        let wants = self.path("/etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        symlink(format!("/lib/systemd/system/{unit}"), wants.join(unit)).unwrap();
        self
    }

    fn prints(mut self, line: &'static str, text: &str) -> Self {
        self.outputs.insert(line, text.to_owned());
        self
    }

    /// Who was found, and where; without the place of the fake.
    fn found(&self) -> Vec<(String, String)> {
        let root = self.root.path().display().to_string();
        let place = |finding: Finding| (finding.service, finding.seen_in.replace(&root, ""));
        co_tenants(self).into_iter().map(place).collect()
    }
}

fn pair(service: &str, seen_in: &str) -> Vec<(String, String)> {
    vec![(service.to_owned(), seen_in.to_owned())]
}

const NETWORKD: &str = "systemd-networkd.service";
const MAIN: &str = "/etc/systemd/networkd.conf";

/// A host without any of them.
#[test]
fn nothing_is_found_where_nothing_is() {
    assert_eq!(Fake::new().found(), []);
}

/// networkd that isn't used doesn't fight, whatever its files say; one that
/// runs without being enabled does.
#[test]
fn networkd_counts_if_it_is_in_use() {
    let host = Fake::new();
    host.file(MAIN, "[Network]\nManageForeignRoutes=yes\n");
    assert_eq!(host.found(), []);
    host.file("/run/systemd/netif/state", "OPER_STATE=routable\n");
    assert_eq!(host.found(), pair("systemd-networkd", MAIN));
    let host = Fake::new();
    host.enabled(NETWORKD);
    assert_eq!(host.found(), pair("systemd-networkd", MAIN));
}

/// As packages ship the file, every line of it is commented out: the default
/// is on. What is written elsewhere in the file is of another section.
#[test]
fn the_default_of_networkd_is_on() {
    for text in [
        "[Network]\n#SpeedMeter=no\n#ManageForeignRoutes=yes\n\n[DHCPv4]\n#DUIDType=vendor\n",
        "[Network]\n; ManageForeignRoutes=no\n",
        "[DHCPv4]\nManageForeignRoutes=no\n",
        "ManageForeignRoutes=no\n",
    ] {
        let host = Fake::new();
        host.enabled(NETWORKD).file(MAIN, text);
        assert_eq!(
            host.found().first().map(|(service, _)| service.as_str()),
            Some("systemd-networkd"),
            "{text}"
        );
    }
    for value in ["no", "No", "false", "off", "0", "n", "f"] {
        let host = Fake::new();
        let text = format!("[Network]\nSpeedMeter=no\n ManageForeignRoutes = {value} \n");
        host.enabled(NETWORKD).file(MAIN, &text);
        assert_eq!(host.found(), [], "{value}");
    }
}

/// Drop-ins win over the file, later names over earlier ones, /etc over /usr
/// under the same name (systemd.syntax(7), "Unit File Load Path").
#[test]
fn drop_ins_of_networkd_win_by_name() {
    let host = Fake::new();
    host.enabled(NETWORKD)
        .file(MAIN, "[Network]\nManageForeignRoutes=yes\n")
        .file(
            "/usr/lib/systemd/networkd.conf.d/50-routes.conf",
            "[Network]\nManageForeignRoutes=no\n",
        );
    assert_eq!(host.found(), []);
    let last = "/etc/systemd/networkd.conf.d/90-vendor.conf";
    host.file(last, "[Network]\nManageForeignRoutes=true\n");
    assert_eq!(host.found(), pair("systemd-networkd", last));
    // One of the same name in /etc hides that in /usr, also by saying nothing.
    let host = Fake::new();
    host.enabled(NETWORKD)
        .file("/etc/systemd/networkd.conf.d/50-routes.conf", "")
        .file(
            "/usr/lib/systemd/networkd.conf.d/50-routes.conf",
            "[Network]\nManageForeignRoutes=no\n",
        );
    assert_eq!(host.found(), pair("systemd-networkd", MAIN));
}

const DEFAULT_LINK: &str = "/lib/systemd/network/99-default.link";
const DEFAULT_LINK_TEXT: &str = "[Match]\nOriginalName=*\n\n[Link]\n\
     NamePolicy=keep kernel database onboard slot path\n\
     AlternativeNamesPolicy=database onboard slot path\nMACAddressPolicy=persistent\n";

/// What Debian ships matches every device, taps among them.
#[test]
fn the_default_link_file_changes_taps() {
    let host = Fake::new();
    host.file(DEFAULT_LINK, DEFAULT_LINK_TEXT);
    assert_eq!(host.found(), pair("udev", DEFAULT_LINK));
}

/// The first file that matches decides, and none of the later ones.
#[test]
fn a_link_file_of_ours_settles_it() {
    for (name, text, settled) in [
        (
            "10-l2isolate.link",
            "[Match]\nOriginalName=tap*\n[Link]\nMACAddressPolicy=none\n",
            true,
        ),
        (
            "10-tun.link",
            "[Match]\nDriver=tun\n[Link]\nMACAddressPolicy=none\n",
            true,
        ),
        // Without a policy udev changes nothing.
        (
            "10-l2isolate.link",
            "[Match]\nOriginalName=eth* tap*\n[Link]\n",
            true,
        ),
        // Too late: 99-default comes first.
        (
            "99-taps.link",
            "[Match]\nOriginalName=tap*\n[Link]\nMACAddressPolicy=none\n",
            false,
        ),
        // For real hardware, or for no device at all.
        (
            "10-nic.link",
            "[Match]\nDriver=mlx5_core\n[Link]\nMACAddressPolicy=none\n",
            false,
        ),
        (
            "10-nic.link",
            "[Match]\nOriginalName=*\nPath=pci-*\n[Link]\nMACAddressPolicy=none\n",
            false,
        ),
        ("10-none.link", "[Link]\nMACAddressPolicy=none\n", false),
    ] {
        let host = Fake::new();
        host.file(DEFAULT_LINK, DEFAULT_LINK_TEXT)
            .file(&format!("/etc/systemd/network/{name}"), text);
        let expected = if settled {
            Vec::new()
        } else {
            pair("udev", DEFAULT_LINK)
        };
        assert_eq!(host.found(), expected, "{name}: {text}");
    }
}

/// An empty file in /etc masks the one that a package ships; so does a link to
/// /dev/null.
#[test]
fn the_default_link_file_can_be_masked() {
    let host = Fake::new();
    host.file(DEFAULT_LINK, DEFAULT_LINK_TEXT)
        .file("/etc/systemd/network/99-default.link", "");
    assert_eq!(host.found(), []);
    let host = Fake::new();
    host.file(DEFAULT_LINK, DEFAULT_LINK_TEXT)
        .file("/etc/systemd/network/other.link", "");
    let mask = host.path("/etc/systemd/network/99-default.link");
    symlink("/dev/null", mask).unwrap();
    assert_eq!(host.found(), []);
}

/// `nft -j list chains` as nftables 1.0 prints it, with one base chain at the
/// forward hook.
fn chains(family: &str, table: &str, chain: &str, policy: &str) -> String {
    format!(
        r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}}}},
        {{"chain": {{"family": "{family}", "table": "{table}", "name": "DOCKER", "handle": 1}}}},
        {{"chain": {{"family": "{family}", "table": "{table}", "name": "INPUT", "handle": 2, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}}},
        {{"chain": {{"family": "{family}", "table": "{table}", "name": "{chain}", "handle": 3, "type": "filter", "hook": "forward", "prio": 0, "policy": "{policy}"}}}}]}}"#
    )
}

const LIST: &str = "nft -j list chains";

/// Docker sets the policy of iptables' FORWARD chain; the remedy is Docker's
/// if it is Docker's doing.
#[test]
fn a_forward_chain_that_drops_is_found() {
    let plain = Fake::new().prints(LIST, &chains("ip", "filter", "FORWARD", "drop"));
    assert_eq!(
        plain.found(),
        pair("a firewall", "nftables chain ip filter FORWARD")
    );
    let docker = Fake::new().prints(LIST, &chains("ip", "filter", "FORWARD", "drop"));
    docker.file("/run/docker.sock", "");
    let findings = co_tenants(&docker);
    assert_eq!(findings[0].service, "Docker");
    assert!(findings[0].remedy.contains("daemon.json"));
    // Docker alone, with a policy of accept, fights nobody.
    let accepts = Fake::new().prints(LIST, &chains("ip", "filter", "FORWARD", "accept"));
    accepts.file("/run/docker.sock", "");
    assert_eq!(accepts.found(), []);
}

/// Our own chain drops what it doesn't know, on purpose.
#[test]
fn our_own_chain_is_no_finding() {
    let host = Fake::new().prints(LIST, &chains("inet", "l2isolate", "forward", "drop"));
    assert_eq!(host.found(), []);
}

/// The legacy tables aren't in nftables' listing.
#[test]
fn the_legacy_tables_are_looked_at_as_well() {
    let host = Fake::new()
        .prints(
            "iptables-legacy -S FORWARD",
            "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n",
        )
        .prints("ip6tables-legacy -S FORWARD", "-P FORWARD ACCEPT\n");
    assert_eq!(
        host.found(),
        pair("a firewall", "iptables-legacy chain FORWARD")
    );
}

/// firewalld's chain has the policy accept and rejects by its last rule: it is
/// known by its table.
#[test]
fn firewalld_is_found_by_its_table_or_its_unit() {
    let table = chains("inet", "firewalld", "filter_FORWARD", "accept");
    let host = Fake::new().prints(LIST, &table);
    assert_eq!(
        host.found(),
        pair("firewalld", "nftables table inet firewalld")
    );
    let host = Fake::new();
    host.enabled("firewalld.service");
    assert_eq!(host.found(), pair("firewalld", "its unit is enabled"));
}

/// What a program prints that isn't as expected is no finding, and no crash.
#[test]
fn nonsense_is_no_finding() {
    for text in [
        "",
        "not JSON",
        "{}",
        "[]",
        r#"{"nftables": [1, {"chain": 2}]}"#,
    ] {
        assert_eq!(Fake::new().prints(LIST, text).found(), [], "{text}");
    }
}

/// Everything at once, in an order that stays.
#[test]
fn all_of_them_are_found_together() {
    let host = Fake::new().prints(LIST, &chains("ip", "filter", "FORWARD", "drop"));
    host.enabled(NETWORKD)
        .enabled("firewalld.service")
        .file(DEFAULT_LINK, DEFAULT_LINK_TEXT);
    let services: Vec<String> = host
        .found()
        .into_iter()
        .map(|(service, _)| service)
        .collect();
    assert_eq!(
        services,
        ["systemd-networkd", "udev", "a firewall", "firewalld"]
    );
    assert!(
        co_tenants(&host)
            .iter()
            .all(|f| !f.effect.is_empty() && !f.remedy.is_empty())
    );
}

/// A table that one machine can fill is named where nobody enlarges it: not if
/// the agent will.
#[test]
fn a_table_of_connections_that_one_machine_fills() {
    let config = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("[l2isolate]\n{text}")).unwrap();
        let loaded = crate::config::load(&[file.path().to_owned()]).unwrap();
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        loaded.config
    };
    let max = "/proc/sys/net/netfilter/nf_conntrack_max";
    let host = Fake::new();
    let unmanaged = "manage_host = false\nlimit_connections = 10000";
    assert_eq!(limits(&host, &config(unmanaged)), None, "no such table");
    host.file(max, "19999\n");
    let finding = limits(&host, &config(unmanaged)).unwrap();
    assert!(finding.effect.contains("20000"), "{}", finding.effect);
    assert_eq!(limits(&host, &config("limit_connections = 10000")), None);
    let huge = "limit_connections = 10000000\n";
    host.file(max, "20000\n");
    assert_eq!(limits(&host, &config(unmanaged)), None);
    // Another namespace's to decide.
    let mut mode = fs::metadata(host.path(max)).unwrap().permissions();
    mode.set_readonly(true);
    fs::set_permissions(host.path(max), mode).unwrap();
    let finding = limits(&host, &config(huge)).unwrap();
    assert!(finding.remedy.contains("outside"), "{}", finding.remedy);
    assert_eq!(limits(&host, &config("firewall = false")), None);
}

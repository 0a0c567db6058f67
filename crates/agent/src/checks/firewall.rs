//! Other people's firewalls: one drop is final, whatever our tables accept.

use serde_json::Value;

use super::{Finding, Host};

/// Base chains at the forward hook that drop what they don't know; Docker's
/// is the best known.
pub(super) fn dropped_forwarding(host: &dyn Host) -> Vec<Finding> {
    let nft = chains(host).into_iter().filter_map(|chain| {
        let text = |key: &str| chain.get(key).and_then(Value::as_str).unwrap_or_default();
        let forward =
            text("hook") == "forward" && text("policy") == "drop" && text("table") != "l2isolate";
        forward.then(|| {
            format!(
                "nftables chain {} {} {}",
                text("family"),
                text("table"),
                text("name")
            )
        })
    });
    let legacy = ["iptables-legacy", "ip6tables-legacy"]
        .into_iter()
        .filter_map(|program| {
            let drops = host
                .output(program, &["-S", "FORWARD"])?
                .lines()
                .any(|line| line == "-P FORWARD DROP");
            drops.then(|| format!("{program} chain FORWARD"))
        });
    let docker =
        host.path("/run/docker.sock").exists() || host.path("/var/run/docker.sock").exists();
    nft.chain(legacy)
        .map(|seen_in| Finding {
            service: if docker { "Docker" } else { "a firewall" }.to_owned(),
            seen_in,
            effect: "drops forwarded packets that it has no rule for: nothing reaches or leaves the guests".to_owned(),
            remedy: if docker {
                r#"write "ip-forward-no-drop": true (or "iptables": false) into /etc/docker/daemon.json and set the chain's policy to accept"#
            } else {
                "set the chain's policy to accept, or have it accept what enters or leaves by tap*"
            }
            .to_owned(),
        })
        .collect()
}

/// firewalld rejects what no zone allows, and flushes on reload.
pub(super) fn firewalld(host: &dyn Host) -> Option<Finding> {
    let enabled = host
        .path("/etc/systemd/system/multi-user.target.wants/firewalld.service")
        .symlink_metadata()
        .is_ok();
    let table = chains(host)
        .iter()
        .any(|chain| chain.get("table").and_then(Value::as_str) == Some("firewalld"));
    (enabled || table).then(|| Finding {
        service: "firewalld".to_owned(),
        seen_in: if table {
            "nftables table inet firewalld"
        } else {
            "its unit is enabled"
        }
        .to_owned(),
        effect: "rejects forwarded packets of interfaces that are in no zone which allows them"
            .to_owned(),
        remedy: "disable firewalld on hypervisors (systemctl disable --now firewalld)".to_owned(),
    })
}

fn chains(host: &dyn Host) -> Vec<Value> {
    let listing = host.output("nft", &["-j", "list", "chains"]);
    let parsed: Option<Value> = listing.and_then(|text| serde_json::from_str(&text).ok());
    let entries = parsed
        .as_ref()
        .and_then(|all| all.get("nftables"))
        .and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.get("chain").cloned())
        .collect()
}

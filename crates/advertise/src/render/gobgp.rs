//! `gobgpd.conf`, in TOML.

use super::{Error, Host, LLGR, Page, RESTART, TIMERS, Way};

pub(super) fn render(host: &Host) -> Result<String, Error> {
    if host.way == Way::Kernel {
        return Err(Error::GobgpKernel);
    }
    let mut page = Page::new('#');
    page.why(&format!(
        "GoBGP {} of hypervisor {}, written by `l2isolate render-bgp`.\n\
         GoBGP has no routes in the kernel: this host's own way out must come from elsewhere, such as\n\
         the switches' router advertisements. It looks for neighbours of interfaces once, when it\n\
         starts, and ends if there are none: start it when the links are up. It sends no router\n\
         advertisements: a switch of FRR must be given its address (`neighbor fe80::… interface …`).",
        host.version, host.name
    ));
    page.line("[global.config]");
    page.why(
        "ASN plan: each host its own from the private four-byte ones (RFC 6996), so that no path that\n\
         was through another host is taken for a loop.",
    );
    page.line(format_args!("as = {}", host.asn));
    page.line(format_args!("router-id = \"{}\"", host.router_id));
    page.line("[global.use-multiple-paths.config]");
    page.why("The switches' AS differ, and all of them carry packets.");
    page.line("enabled = true");
    page.why(
        "Out goes what was brought in here by the agent: nothing that has another AS in its path. A\n\
         host with two switches is no way between them.",
    );
    page.line("[global.apply-policy.config]");
    page.line("default-export-policy = \"accept-route\"");
    page.line("export-policy-list = [\"own-only\"]");
    page.line("default-import-policy = \"reject-route\"");
    page.line("import-policy-list = [\"from-switches\"]");
    policies(&mut page);
    for uplink in &host.uplinks {
        let interface = &uplink.interface;
        let asn = uplink
            .peer_asn
            .ok_or_else(|| Error::PeerAsn(interface.clone()))?;
        neighbor(&mut page, host, uplink, asn);
    }
    page.why(
        "Not known to GoBGP: RFC 9234's roles and BFD. A switch that is dead with its links up is\n\
         found by the hold time.",
    );
    Ok(page.text)
}

fn policies(page: &mut Page) {
    page.line("[[defined-sets.prefix-sets]]");
    page.line("prefix-set-name = \"defaults4\"");
    page.line("[[defined-sets.prefix-sets.prefix-list]]");
    page.line("ip-prefix = \"0.0.0.0/0\"");
    page.line("[[defined-sets.prefix-sets]]");
    page.line("prefix-set-name = \"defaults6\"");
    page.line("[[defined-sets.prefix-sets.prefix-list]]");
    page.line("ip-prefix = \"::/0\"");
    page.line("[[defined-sets.bgp-defined-sets.community-sets]]");
    page.line("community-set-name = \"gshut\"");
    page.line("community-list = [\"65535:0\"]");
    page.line("[[defined-sets.neighbor-sets]]");
    page.line("neighbor-set-name = \"switches\"");
    page.line("neighbor-info-list = [\"fe80::/10\"]");
    page.why(
        "From switches: default routes, nothing else. RFC 8326, honoured: what a switch marks before it\n\
         goes out of service is used last.",
    );
    page.line("[[policy-definitions]]");
    page.line("name = \"from-switches\"");
    for family in [4, 6] {
        page.line("[[policy-definitions.statements]]");
        page.line(format_args!("name = \"drained{family}\""));
        page.line("[policy-definitions.statements.conditions.match-prefix-set]");
        page.line(format_args!("prefix-set = \"defaults{family}\""));
        page.line("[policy-definitions.statements.conditions.bgp-conditions.match-community-set]");
        page.line("community-set = \"gshut\"");
        page.line("[policy-definitions.statements.actions]");
        page.line("route-disposition = \"accept-route\"");
        page.line("[policy-definitions.statements.actions.bgp-actions]");
        page.line("set-local-pref = 0");
    }
    for family in [4, 6] {
        page.line("[[policy-definitions.statements]]");
        page.line(format_args!("name = \"default{family}\""));
        page.line("[policy-definitions.statements.conditions.match-prefix-set]");
        page.line(format_args!("prefix-set = \"defaults{family}\""));
        page.line("[policy-definitions.statements.actions]");
        page.line("route-disposition = \"accept-route\"");
    }
    page.why("What the agent adds passes here, too.");
    page.line("[[policy-definitions.statements]]");
    page.line("name = \"own\"");
    page.line("[policy-definitions.statements.conditions.bgp-conditions]");
    page.line("route-type = \"local\"");
    page.line("[policy-definitions.statements.actions]");
    page.line("route-disposition = \"accept-route\"");
    page.line("[[policy-definitions]]");
    page.line("name = \"own-only\"");
    page.line("[[policy-definitions.statements]]");
    page.line("name = \"learned\"");
    page.line("[policy-definitions.statements.conditions.bgp-conditions]");
    page.line("route-type = \"external\"");
    page.line("[policy-definitions.statements.actions]");
    page.line("route-disposition = \"reject-route\"");
}

/// More prefixes than a hypervisor has of its own.
const ECHOED: u32 = 10_000;

fn neighbor(page: &mut Page, host: &Host, uplink: &super::Uplink, asn: u32) {
    let interface = &uplink.interface;
    let (hold, keepalive) = TIMERS;
    page.line("[[neighbors]]");
    page.line("[neighbors.config]");
    match uplink.peer {
        Some(peer) => page.line(format_args!("neighbor-address = \"{peer}%{interface}\"")),
        None => page.line(format_args!("neighbor-interface = \"{interface}\"")),
    }
    page.line(format_args!("peer-as = {asn}"));
    if let Some(password) = &host.password {
        page.why("RFC 2385: nobody else on the link can end or open the session.");
        page.line(format_args!("auth-password = \"{password}\""));
    }
    page.line("[neighbors.timers.config]");
    page.line(format_args!("hold-time = {hold}"));
    page.line(format_args!("keepalive-interval = {keepalive}"));
    page.line("connect-retry = 1");
    page.line("[neighbors.graceful-restart.config]");
    page.why(&format!(
        "RFC 4724: switches keep our routes as they are while GoBGP restarts, for {RESTART} s, then for\n\
         {LLGR} s as the last choice (RFC 9494). As after a crash, start it with -r: without it GoBGP\n\
         tells switches that nothing is forwarded here any more, and they drop the routes."
    ));
    page.line("enabled = true");
    page.line(format_args!("restart-time = {RESTART}"));
    page.line("long-lived-enabled = true");
    for family in ["ipv4-unicast", "ipv6-unicast"] {
        page.line("[[neighbors.afi-safis]]");
        page.line("[neighbors.afi-safis.config]");
        page.line(format_args!("afi-safi-name = \"{family}\""));
        page.line("[neighbors.afi-safis.mp-graceful-restart.config]");
        page.line("enabled = true");
        page.line("[neighbors.afi-safis.long-lived-graceful-restart.config]");
        page.line("enabled = true");
        page.line(format_args!("restart-time = {LLGR}"));
        page.why(
            "A switch that sends more than it ever should has lost its filters. GoBGP also counts\n\
             our own prefixes, which switches with FRR send back and which it drops.",
        );
        page.line("[neighbors.afi-safis.prefix-limit.config]");
        page.line(format_args!(
            "max-prefixes = {}",
            host.maximum_prefixes.saturating_add(ECHOED)
        ));
    }
}

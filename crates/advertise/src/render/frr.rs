//! `frr.conf`.

use super::{BFD, Host, LLGR, Page, RESTART, TIMERS, UPDATE_DELAY, Way};
use crate::{
    Family,
    frr::{OWN, announce, policies, told, word},
};

pub(super) fn render(host: &Host) -> String {
    let mut page = Page::new('!');
    page.why(&format!(
        "FRR {} of hypervisor {}, written by `l2isolate render-bgp`.\n\
         /etc/frr/daemons: bgpd=yes{}, zebra_options with -K 60 (routes of a zebra before this one\n\
         live on until bgpd has had time to learn them again), --nl-bufsize 67108864 (what its usual\n\
         4 MiB can't hold when a thousand guests come at once is lost without a word) and\n\
         --v6-rr-semantics (otherwise an IPv6 route is deleted before it is set anew).",
        host.version,
        host.name,
        if host.bfd { ", bfdd=yes" } else { "" },
    ));
    page.line(format_args!("hostname {}", host.name));
    page.why(
        "With nexthop groups in the kernel, a link that flapped stays out of the kernel's\n\
         route for good while zebra shows it (FRR 8.4).",
    );
    page.line("no zebra nexthop kernel enable");
    page.why(
        "Policies stand before `router bgp`: a session that comes up before its route-map is\n\
         there sends End-of-RIB too early, and graceful restart is void.",
    );
    page.line("bgp route-map delay-timer 0");
    inward(&mut page);
    outward(&mut page, host);
    if host.bfd {
        bfd(&mut page);
    }
    router(&mut page, host);
    page.text
}

fn inward(page: &mut Page) {
    page.why(
        "From switches: default routes, nothing else. The table stays small, and no switch\n\
         can draw a guest's or another host's packets here.",
    );
    page.line("ip prefix-list DEFAULT permit 0.0.0.0/0");
    page.line("ipv6 prefix-list DEFAULT permit ::/0");
    page.why(
        "RFC 8326, honoured: what a switch marks before it goes out of service is used last,\n\
         so this host's own packets leave it too.",
    );
    page.line("bgp community-list standard GSHUT permit graceful-shutdown");
    page.line("route-map FROM-SWITCHES permit 5");
    page.line(" match community GSHUT");
    page.line(" set local-preference 0");
    page.line(" on-match next");
    page.line("exit");
    for (number, word) in [(10, "ip"), (20, "ipv6")] {
        page.line(format_args!("route-map FROM-SWITCHES permit {number}"));
        page.line(format_args!(" match {word} address prefix-list DEFAULT"));
        page.line("exit");
    }
}

fn outward(page: &mut Page, host: &Host) {
    match host.way {
        Way::Kernel => page.why(
            "What the agent has put into the kernel's table, by its metric and prefix; a guest\n\
             that leaves has others, and a longer path. Out goes only what has no AS but this one\n\
             in its path, which is what was brought in here: a host with two switches is no way\n\
             between them.",
        ),
        Way::Told => page.why(
            "The agent brings in what is announced, by vtysh, with its attributes. A bgpd that\n\
             restarts has none of that yet, and would take everything back by its End-of-RIB; so\n\
             until it is told it announces what the agent has put into the kernel's table, by its\n\
             metric and prefix. When the agent has told it, it opens the TOLD lists, and nothing is\n\
             picked up any more. Out goes only what has no AS but this one in its path: a host with\n\
             two switches is no way between them.",
        ),
    }
    page.text.push_str(&policies(&host.handover));
    if host.way == Way::Told {
        for family in Family::ALL {
            let (word, list) = (word(family), told(family));
            page.line(format_args!("{word} prefix-list {list} seq 5 deny any"));
            for map in [announce(family), loopback(family)] {
                page.line(format_args!("route-map {map} deny 5"));
                page.line(format_args!(" match {word} address prefix-list {list}"));
                page.line("exit");
            }
        }
    }
    page.why("zebra prefers the connected route of a loopback to the agent's.");
    for family in Family::ALL {
        let word = word(family);
        for prefix in &host.handover.loopbacks {
            if family.has(prefix) {
                let longer = match prefix.prefix_len() == family.host_length() {
                    true => String::new(),
                    false => format!(" ge {}", family.host_length()),
                };
                page.line(format_args!(
                    "{word} prefix-list LOOPBACKS permit {prefix}{longer}"
                ));
            }
        }
        page.line(format_args!("{word} prefix-list LOOPBACKS deny any"));
        page.line(format_args!("route-map {} permit 10", loopback(family)));
        page.line(format_args!(" match {word} address prefix-list LOOPBACKS"));
        page.line(" match interface lo");
        page.line(" set metric 0");
        page.line(" set origin igp");
        page.line("exit");
    }
}

fn bfd(page: &mut Page) {
    let (interval, lost) = BFD;
    page.why(
        "BFD sees a switch that is dead with its links up. It runs in bfdd, which goes on\n\
         while bgpd restarts, so it doesn't defeat graceful restart.",
    );
    page.line("bfd");
    page.line(" profile SWITCHES");
    page.line(format_args!("  detect-multiplier {lost}"));
    page.line(format_args!("  receive-interval {interval}"));
    page.line(format_args!("  transmit-interval {interval}"));
    page.line(" exit");
    page.line("exit");
}

fn router(page: &mut Page, host: &Host) {
    page.why(
        "ASN plan: each host its own from the private four-byte ones (RFC 6996), so that no\n\
         path that was through another host is taken for a loop, or for ours.",
    );
    page.line(format_args!("router bgp {}", host.asn));
    page.indent = 1;
    page.line(format_args!("bgp router-id {}", host.router_id));
    page.why("Both families are activated below, by name.");
    page.line("no bgp default ipv4-unicast");
    page.why("Every session below has its policies; loopbacks may be announced without one.");
    page.line("no bgp ebgp-requires-policy");
    page.line("no bgp network import-check");
    page.why("The switches' AS differ, and all of them carry packets: equal length is enough.");
    page.line("bgp bestpath as-path multipath-relax");
    page.why(&format!(
        "RFC 4724: forwarding goes on while bgpd restarts, for {RESTART} s, in which switches keep\n\
         our routes as they are."
    ));
    page.line("bgp graceful-restart");
    page.line("bgp graceful-restart preserve-fw-state");
    page.line(format_args!("bgp graceful-restart restart-time {RESTART}"));
    page.why(
        "When two connections collide, bgpd may otherwise put off its first choice of routes\n\
         for six minutes.",
    );
    page.line("bgp graceful-restart select-defer-time 5");
    page.why(
        "After a start bgpd first hears all switches out; otherwise its End-of-RIB may precede\n\
         the guests' routes, and switches drop those that they kept, for 50 ms.",
    );
    let (delay, establish) = UPDATE_DELAY;
    page.line(format_args!("update-delay {delay} {establish}"));
    if host.knows(&[8, 2]) {
        page.why(
            "LLGR (RFC 9494): a daemon that takes longer keeps its routes as the last choice, so\n\
             that whoever announces the guests from elsewhere is preferred.",
        );
        page.line(format_args!(
            "bgp long-lived-graceful-restart stale-time {LLGR}"
        ));
    } else {
        page.why("LLGR (RFC 9494) isn't known to this version.");
    }
    page.why("bgpd waits a second for more updates before it sends the first; not here.");
    page.line("coalesce-time 0");
    let (hold, keepalive) = TIMERS;
    page.line(format_args!("timers bgp {keepalive} {hold}"));
    page.line("neighbor SWITCHES peer-group");
    page.why("Whatever AS is there; unnumbered, found by router advertisements (RFC 8950).");
    page.line("neighbor SWITCHES remote-as external");
    page.line("neighbor SWITCHES timers connect 1");
    page.line("neighbor SWITCHES capability extended-nexthop");
    if let Some(password) = &host.password {
        page.why("RFC 2385: nobody else on the link can end or open the session.");
        page.line(format_args!("neighbor SWITCHES password {password}"));
    }
    if host.bfd {
        page.why(
            "A switch that is dead is left at once: there is another one. No\n\
             check-control-plane-failure here: with it bgpd goes by graceful restart, and keeps a\n\
             dead switch's routes for the hold time and longer.",
        );
        page.line("neighbor SWITCHES bfd profile SWITCHES");
    }
    for uplink in &host.uplinks {
        let name = &uplink.interface;
        page.line(format_args!(
            "neighbor {name} interface peer-group SWITCHES"
        ));
    }
    match (host.roles, host.knows(&[8, 4])) {
        (true, true) => {
            page.why(
                "RFC 9234: we are the switches' customer; what one of them sends is never passed to\n\
                 another, and a switch that has the roles the wrong way round is noticed.",
            );
            for uplink in &host.uplinks {
                page.line(format_args!(
                    "neighbor {} local-role customer",
                    uplink.interface
                ));
            }
        }
        (true, false) => page.why("RFC 9234's roles aren't known to this version."),
        (false, _) => {}
    }
    for family in Family::ALL {
        self::family(page, host, family);
    }
    page.indent = 0;
    page.line("exit");
}

fn family(page: &mut Page, host: &Host, family: Family) {
    let digit = family.digit();
    page.line(format_args!("address-family ipv{digit} unicast"));
    page.indent = 2;
    page.line(format_args!(
        "redistribute kernel route-map {}",
        announce(family)
    ));
    page.line(format_args!(
        "redistribute connected route-map {}",
        loopback(family)
    ));
    page.line("neighbor SWITCHES activate");
    page.line("neighbor SWITCHES route-map FROM-SWITCHES in");
    page.line(format_args!("neighbor SWITCHES route-map {OWN} out"));
    page.why(
        "A switch that sends more than it ever should has lost its filters: better without it.\n\
         It is tried again a minute later.",
    );
    page.line(format_args!(
        "neighbor SWITCHES maximum-prefix {} restart 1",
        host.maximum_prefixes
    ));
    page.indent = 1;
    page.line("exit-address-family");
}

/// Name of the route-map for `redistribute connected` of one family.
fn loopback(family: Family) -> &'static str {
    match family {
        Family::V4 => "LOOPBACK4",
        Family::V6 => "LOOPBACK6",
    }
}

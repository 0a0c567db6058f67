//! `bird.conf`.

use super::{BFD, Host, LLGR, Page, RESTART, TIMERS, Way};
use crate::{
    Family,
    bird::{EXPORT, filter},
    driver::BIRD_PROTOCOLS,
};

pub(super) fn render(host: &Host) -> String {
    let mut page = Page::new('#');
    page.why(&format!(
        "BIRD {} of hypervisor {}, written by `l2isolate render-bgp`.\n\
         After a daemon's death start it with -R, so that it restarts gracefully.",
        host.version, host.name
    ));
    page.line(format_args!("router id {};", host.router_id));
    page.line("log syslog all;");
    page.line("protocol device { scan time 10; }");
    page.why("A switch that is FRR finds us by router advertisements. Lifetime 0: nobody takes us for a default router.");
    page.line("protocol radv {");
    for uplink in &host.uplinks {
        page.line(format_args!(
            "  interface \"{}\" {{ min ra interval 3; max ra interval 4; default lifetime 0; }};",
            uplink.interface
        ));
    }
    page.line("}");
    kernel(&mut page, host);
    policies(&mut page, host);
    if host.bfd {
        let (interval, lost) = BFD;
        page.why("BFD sees a switch that is dead with its links up.");
        page.line("protocol bfd {");
        for uplink in &host.uplinks {
            page.line(format_args!(
                "  interface \"{}\" {{ interval {interval} ms; multiplier {lost}; }};",
                uplink.interface
            ));
        }
        page.line("}");
    }
    for (number, _) in host.uplinks.iter().enumerate() {
        session(&mut page, host, number);
    }
    page.text
}

fn kernel(page: &mut Page, host: &Host) {
    if host.way == Way::Kernel {
        page.why(
            "What the agent has put into the kernel's table, by its protocol number and metric.",
        );
        for family in Family::ALL {
            page.text.push_str(&filter(&host.handover, family));
        }
    }
    page.why(
        "persist: routes outlive BIRD, so forwarding goes on while it restarts. merge paths: all\n\
         switches are used. With the kernel's own buffer for its messages, many guests that come at\n\
         once are missed until the next scan.",
    );
    for family in Family::ALL {
        let digit = family.digit();
        let import = match host.way {
            Way::Kernel => format!("learn; ipv{digit} {{ import filter l2isolate{digit};"),
            Way::Told => format!("ipv{digit} {{ import none;"),
        };
        page.line(format_args!(
            "protocol kernel kernel{digit} {{ persist; merge paths on; netlink rx buffer 16777216; \
             {import} export where source = RTS_BGP; }}; }}"
        ));
    }
}

fn policies(page: &mut Page, host: &Host) {
    if host.way == Way::Told {
        page.why("The agent writes what is announced to this file, and has BIRD read it.");
        // A file that isn't there yet is no error for a pattern.
        page.line(format_args!("include \"{}*\";", host.bird_file.display()));
    }
    page.why(
        "From switches: default routes, nothing else. RFC 8326, honoured: what a switch marks before\n\
         it goes out of service is used last, so this host's own packets leave it too.",
    );
    page.line("filter from_switches {");
    page.line("  if (65535,0) ~ bgp_community then bgp_local_pref = 0;");
    page.line("  if net = 0.0.0.0/0 || net = ::/0 then accept;");
    page.line("  reject;");
    page.line("}");
    page.why(
        "Out goes what was brought in here, and nothing else: a host with two switches is no way\n\
         between them.",
    );
    match host.way {
        Way::Kernel => {
            // What the operators' page shows, as a filter with a name.
            let body = EXPORT.trim_start_matches("filter ");
            page.line(format_args!("filter own {body}"));
        }
        Way::Told => {
            let [v4, v6] = BIRD_PROTOCOLS;
            page.line(format_args!(
                "filter own {{ if proto = \"{v4}\" || proto = \"{v6}\" then accept; reject; }}"
            ));
        }
    }
}

fn session(page: &mut Page, host: &Host, number: usize) {
    let Some(uplink) = host.uplinks.get(number) else {
        return;
    };
    let first = number == 0;
    let (interface, (hold, keepalive)) = (&uplink.interface, TIMERS);
    if first {
        page.why(
            "ASN plan: each host its own from the private four-byte ones (RFC 6996), so that no path\n\
             that was through another host is taken for a loop.",
        );
    }
    page.line(format_args!("protocol bgp switch{} {{", number + 1));
    page.indent = 2;
    page.line(format_args!("local as {};", host.asn));
    match uplink.peer {
        Some(peer) => page.line(format_args!("neighbor {peer}%'{interface}' external;")),
        None => {
            if first {
                page.why(
                    "The switch's address isn't known here, so it opens the session, by our router\n\
                     advertisements; two ends that both wait never meet.",
                );
            }
            page.line(format_args!("interface \"{interface}\";"));
            page.line("neighbor range fe80::/10 external;");
            page.line(format_args!("dynamic name \"switch{}_\";", number + 1));
        }
    }
    page.line(format_args!(
        "hold time {hold}; keepalive time {keepalive};"
    ));
    page.line("connect delay time 1; connect retry time 1; error wait time 1, 1;");
    if let Some(password) = &host.password {
        if first {
            page.why("RFC 2385: nobody else on the link can end or open the session.");
        }
        page.line(format_args!("password \"{password}\";"));
    }
    if first {
        page.why(&format!(
            "RFC 4724: switches keep our routes as they are while BIRD restarts, for {RESTART} s, then\n\
             for {LLGR} s as the last choice (RFC 9494)."
        ));
    }
    page.line(format_args!(
        "graceful restart on; graceful restart time {RESTART};"
    ));
    page.line(format_args!(
        "long lived graceful restart on; long lived stale time {LLGR};"
    ));
    if host.bfd {
        if first {
            page.why(
                "A switch that is silent is left at once, graceful restart or not: there are others.\n\
                 (The switches answer BFD and end no session by it, since BIRD's BFD ends with BIRD.)",
            );
        }
        page.line("bfd on;");
    }
    match (host.roles, host.knows(&[2, 0, 11])) {
        (true, true) => {
            if first {
                page.why(
                    "RFC 9234: we are the switches' customer; what one of them sends is never passed to\n\
                     another.",
                );
            }
            page.line("local role customer;");
        }
        (true, false) if first => page.why("RFC 9234's roles aren't known to this version."),
        _ => {}
    }
    if first {
        page.why(
            "RFC 8950: IPv4 with next hops of IPv6. A switch that sends more than it ever should has\n\
             lost its filters: better without it.",
        );
    }
    for (digit, next_hop) in [(4, "extended next hop yes; "), (6, "")] {
        page.line(format_args!(
            "ipv{digit} {{ {next_hop}import filter from_switches; export filter own; \
             import limit {} action restart; }};",
            host.maximum_prefixes
        ));
    }
    page.indent = 0;
    page.line("}");
}

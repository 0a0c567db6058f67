//! `l2isolate status`: is the agent in sync, and if not, why?

use std::{fmt::Write, path::Path, process::ExitCode};

use jiff::{Span, SpanRound, Timestamp, Unit};
use l2isolate_model::IfName;

use super::{print, well};
use crate::{
    announcer::report::AdvertiseReport,
    control::{Request, client},
    report::{ConnectionsReport, PortState, StatusReport},
};

/// Asks the agent.
///
/// # Errors
/// No agent answers.
pub(crate) fn run(socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let report: StatusReport = client::ask(socket, Request::Status)?;
    print(&report, json, text)?;
    Ok(well(report.in_sync))
}

fn text(report: &StatusReport) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<13}{value}");
    };
    let verdict = if report.in_sync {
        "in sync"
    } else {
        "NOT in sync, see below"
    };
    line("host", format!("{}: {verdict}", report.host));
    line(
        "agent",
        format!(
            "{}, pid {}, up {}",
            report.version,
            report.pid,
            since(report.started)
        ),
    );
    let source = &report.source;
    line(
        "source",
        match (&source.away, source.complete) {
            (Some(reason), _) => format!(
                "{} is AWAY{}: {reason}",
                source.name,
                source
                    .away_since
                    .map_or_else(String::new, |at| format!(" for {}", since(at)))
            ),
            (None, false) => format!(
                "{}: not read completely yet, nothing is deleted before",
                source.name
            ),
            (None, true) => source.name.clone(),
        },
    );
    if source.away.is_some() {
        let age = source.last_update.map_or_else(
            || "of unknown age".to_owned(),
            |at| format!("of {at:.0} ({} ago)", since(at)),
        );
        line("", format!("working from the last intent, {age}"));
    }
    if let Some(contact) = &source.contact {
        let connected = match &contact.connected {
            Some(host) => format!("connected to {host}"),
            None => "not connected".to_owned(),
        };
        let ago = |at: Option<Timestamp>| {
            at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", since(at)))
        };
        line(
            "",
            format!(
                "{connected}; last report {}, last sync {}, next in {}",
                ago(contact.last_report),
                ago(contact.last_sync),
                contact
                    .next_sync
                    .map_or_else(|| "no time".to_owned(), until),
            ),
        );
        if contact.unreported > 0 {
            line(
                "",
                format!("{} ports to be told as up or down", contact.unreported),
            );
        }
    }
    if source.held_deletions > 0 {
        let until = source
            .held_until
            .map_or_else(String::new, |at| format!(" until {at:.0}"));
        line(
            "HELD",
            format!(
                "deletion of {} ports at once is held{until}; `l2isolate release` lets it go",
                source.held_deletions
            ),
        );
    }
    let total: usize = report.ports.values().sum();
    let by_state: Vec<String> = report
        .ports
        .iter()
        .map(|(state, count)| format!("{count} {}", words(*state)))
        .collect();
    line(
        "ports",
        if total == 0 {
            "none".to_owned()
        } else {
            format!("{total}: {}", by_state.join(", "))
        },
    );
    line(
        "announced",
        format!(
            "{} guest prefixes, {} loopbacks",
            report.announced, report.loopbacks
        ),
    );
    for (name, value) in report.advertise.iter().flat_map(announcing) {
        line(name, value);
    }
    line(
        "kernel",
        format!(
            "{} writes, {} refused, {} undone by others, {} full looks, {} overruns",
            report.written, report.failed, report.undone, report.observations, report.lost_events
        ),
    );
    if let Some(dhcp) = &report.dhcp {
        let process = dhcp.pid.map_or_else(
            || "dnsmasq does NOT run".to_owned(),
            |pid| format!("dnsmasq, pid {pid}"),
        );
        let (ports, leases, restarts) = (dhcp.ports, dhcp.leases, dhcp.restarts);
        line(
            "dhcp",
            format!(
                "{process}: {ports} ports, {leases} leases, {restarts} times found dead or hung"
            ),
        );
    }
    if let Some(asked) = &report.solicitations {
        let (answered, refused, limited) = (asked.answered, asked.refused, asked.limited);
        line(
            "ipv6",
            format!(
                "{answered} solicitations answered, {refused} not, guests {limited} times over their limit"
            ),
        );
    }
    if !report.stray_taps.is_empty() {
        let names: Vec<&str> = report.stray_taps.iter().map(IfName::as_str).collect();
        line(
            "stray taps",
            format!("{}: no port of the intent has them", names.join(", ")),
        );
    }
    if !report.unavailable.is_empty() {
        line(
            "",
            format!("not available here: {}", report.unavailable.join(", ")),
        );
    }
    if let Some(connections) = report.connections.filter(ConnectionsReport::is_short) {
        let room = connections.room.unwrap_or_default();
        line(
            "SHORT",
            format!(
                "connection tracking holds {room} connections, and the machines may open {}: a few \
                 of them can leave no room to the others; raise net.netfilter.nf_conntrack_max \
                 and nf_conntrack_buckets, or lower limit_connections",
                connections.allowed
            ),
        );
    }
    line(
        "differences",
        match report.differences {
            0 => "none".to_owned(),
            n => format!("{n}, see `l2isolate diff`"),
        },
    );
    for problem in &report.problems {
        line("problem", problem.to_string());
    }
    out
}

/// What is announced and what came of it, line by line.
pub(super) fn announcing(report: &AdvertiseReport) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let daemon = report.daemon.as_deref().unwrap_or("no daemon");
    let (way, wanted, in_rib) = (&report.way, report.wanted, report.in_rib);
    match (report.verified, report.verify_ms) {
        (Some(at), Some(ms)) => {
            let (undone, resent) = (report.undone, report.resent);
            lines.push((
                "bgp",
                format!(
                    "by {way}, {daemon} has {in_rib} of {wanted} prefixes; compared {} ago in \
                     {ms:.1} ms; {undone} were undone, sent all again {resent} times",
                    since(at)
                ),
            ));
        }
        _ if report.away.is_some() => {
            lines.push(("bgp", format!("by {way}, not read back yet")));
        }
        _ => lines.push((
            "bgp",
            format!("by {way}; no daemon is named to read back (verify_daemon)"),
        )),
    }
    if let Some(away) = &report.away {
        let (what, remedy, time) = (&away.what, &away.remedy, since(away.since));
        lines.push(("AWAY", format!("for {time}: {what}; {remedy}")));
    }
    for (name, peer) in &report.peers {
        let (state, sent, received) = (&peer.state, peer.sent, peer.received);
        let mut text = format!("{name}: {state}");
        if let Some(asn) = peer.remote_as {
            text += &format!(", AS {asn}");
        }
        text += &format!(", {sent} prefixes sent, {received} received");
        if peer.unsent > 0 {
            text += &format!(", {} NOT sent", peer.unsent);
        }
        if peer.leaked > 0 {
            text += &format!(", {} of OTHERS sent", peer.leaked);
        }
        if let Some(uplink) = &peer.uplink {
            text += &format!(
                "; out {:.0}/s ({} packets), in {:.0}/s ({})",
                uplink.sent_per_second,
                uplink.sent_packets,
                uplink.received_per_second,
                uplink.received_packets
            );
        }
        lines.push(("uplink", text));
    }
    if let Some(drain) = &report.drain {
        let (done, of, prepend) = (drain.done, drain.of, drain.prepend);
        lines.push((
            "DRAINED",
            format!(
                "for {}, prepended {prepend} times: {done} of {of} prefixes are marked everywhere; \
                 `l2isolate undrain` ends it",
                since(drain.since)
            ),
        ));
    }
    for problem in &report.problems {
        lines.push(("problem", problem.to_string()));
    }
    lines
}

/// A state in words.
pub(crate) fn words(state: PortState) -> &'static str {
    match state {
        PortState::Wired => "wired",
        PortState::Pending => "pending",
        PortState::NoTap => "without tap",
        PortState::Down => "down",
        PortState::Refused => "refused",
    }
}

fn since(at: Timestamp) -> String {
    words_of(Timestamp::now().since(at).unwrap_or_default())
}

fn until(at: Timestamp) -> String {
    let span = Timestamp::now().until(at).unwrap_or_default();
    if span.is_negative() {
        return "no time: it is under way or waits for the connection".to_owned();
    }
    words_of(span)
}

fn words_of(span: Span) -> String {
    let rounded = span.round(SpanRound::new().smallest(Unit::Second).largest(Unit::Hour));
    format!("{:#}", rounded.unwrap_or(span))
}

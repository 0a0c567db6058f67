//! `l2isolate verify`: intent, kernel, routing daemon and what each switch was
//! sent, compared now.

use std::{fmt::Write, path::Path, process::ExitCode};

use super::{print, status::announcing, well};
use crate::{
    announcer::report::VerifyReport,
    control::{Request, client},
};

/// Has the agent compare.
///
/// # Errors
/// No agent answers, or it has no daemon to ask.
pub(crate) fn run(socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let report: VerifyReport = client::ask(socket, Request::Verify)?;
    print(&report, json, text)?;
    let advertise = &report.advertise;
    let sound = advertise.away.is_none() && advertise.problems.is_empty();
    Ok(well(sound && report.differences == 0))
}

fn text(report: &VerifyReport) -> String {
    let mut out = String::new();
    for (name, value) in announcing(&report.advertise) {
        let _ = writeln!(out, "{name:<13}{value}");
    }
    let (kernel, daemon, both) = (report.kernel_ms, report.daemon_ms, report.verify_ms);
    let _ = writeln!(
        out,
        "{:<13}{both:.1} ms; beside each other the kernel {kernel:.1}, the daemon {daemon:.1}",
        "took"
    );
    let _ = writeln!(
        out,
        "{:<13}{}",
        "differences",
        match report.differences {
            0 => "none".to_owned(),
            n => format!("{n}, see `l2isolate diff`"),
        }
    );
    out
}

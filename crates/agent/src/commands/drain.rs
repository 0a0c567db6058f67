//! `l2isolate drain` and `l2isolate undrain`: have the fabric prefer any other
//! way to this host, or no longer.

use std::{
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use super::{print, well};
use crate::{
    announcer::report::{AdvertiseReport, DrainReport},
    control::{Request, client},
    report::StatusReport,
};

/// Tells the agent, and waits until all switches were told, for `wait` seconds
/// at most. To end it earlier ends only the waiting.
///
/// # Errors
/// No agent answers, or it can't.
pub(crate) fn run(
    socket: &Path,
    prepend: Option<u8>,
    wait: u64,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let request = match prepend {
        Some(prepend) => Request::Drain { prepend },
        None => Request::Undrain,
    };
    let () = client::ask(socket, request)?;
    let end = Instant::now() + Duration::from_secs(wait);
    let mut shown = None;
    loop {
        let status: StatusReport = client::ask(socket, Request::Status)?;
        let Some(report) = status.advertise else {
            anyhow::bail!("the agent says nothing of what it announces");
        };
        let done = is_done(&report);
        if !json && shown.as_ref() != Some(&progress(&report)) {
            print(&report, false, progress)?;
            shown = Some(progress(&report));
        }
        if done || Instant::now() >= end {
            if json {
                print(&report, true, progress)?;
            }
            return Ok(well(done));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Whether every prefix was read back from the daemon as it shall be, since it
/// was told, and was sent to all.
fn is_done(report: &AdvertiseReport) -> bool {
    let sent = match &report.drain {
        Some(DrainReport { done, of, .. }) => done == of,
        None => report.in_rib == report.wanted && report.unconfirmed == 0,
    };
    sent && report.away.is_none() && report.differences == 0
}

fn progress(report: &AdvertiseReport) -> String {
    let text = match &report.drain {
        Some(DrainReport { done, of, .. }) => {
            format!("draining: {done} of {of} prefixes are marked everywhere")
        }
        None => format!(
            "undraining: {} of {} prefixes are as usual",
            report.in_rib.saturating_sub(report.unconfirmed),
            report.wanted
        ),
    };
    match &report.away {
        Some(away) => format!("{text}; {}; {}\n", away.what, away.remedy),
        None => text + "\n",
    }
}

//! `l2isolate diff`: what would be written to the kernel now?

use std::{path::Path, process::ExitCode};

use super::{print, well};
use crate::{
    control::{Request, client},
    report::DifferenceReport,
};

/// Asks the agent.
///
/// # Errors
/// No agent answers.
pub(crate) fn run(socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let differences: Vec<DifferenceReport> = client::ask(socket, Request::Diff)?;
    print(&differences, json, |all| match all.as_slice() {
        [] => "nothing: the kernel is as it shall be\n".to_owned(),
        all => all
            .iter()
            .map(|difference| line(difference) + "\n")
            .collect(),
    })?;
    Ok(well(differences.is_empty()))
}

/// One difference on one line.
pub(crate) fn line(difference: &DifferenceReport) -> String {
    let object = &difference.object;
    let mut line = match (&difference.observed, &difference.desired) {
        (None, Some(desired)) => format!("+ {object}: {desired}"),
        (Some(observed), None) => format!("- {object}: {observed}"),
        (observed, desired) => {
            let or_none =
                |value: &Option<String>| value.clone().unwrap_or_else(|| "not there".to_owned());
            format!("~ {object}: {} → {}", or_none(observed), or_none(desired))
        }
    };
    if let Some(port) = &difference.port {
        line += &format!("  (port {port})");
    }
    if difference.contested {
        line += "  [somebody keeps changing it back]";
    }
    if let Some(error) = &difference.error {
        line += &format!("  [tried {} times: {error}]", difference.attempts);
    }
    line
}

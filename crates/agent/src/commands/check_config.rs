//! `l2isolate check-config`: are the files sound, and does anything on the
//! host fight the agent?

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{print, well};
use crate::{
    checks::{Finding, ThisHost, co_tenants, limits},
    config,
};

#[derive(Serialize)]
struct Report {
    /// What is wrong with the files: place, value, what was expected.
    problems: Vec<String>,
    /// What on this host will work against the agent, or can't hold what the
    /// configuration allows.
    co_tenants: Vec<Finding>,
}

/// Checks; changes nothing.
///
/// # Errors
/// A file can't be read at all.
pub(crate) fn run(files: &[PathBuf], json: bool) -> anyhow::Result<ExitCode> {
    let loaded = config::load(files)?;
    let report = Report {
        problems: loaded.problems.iter().map(ToString::to_string).collect(),
        co_tenants: co_tenants(&ThisHost)
            .into_iter()
            .chain(limits(&ThisHost, &loaded.config))
            .collect(),
    };
    print(&report, json, text)?;
    Ok(well(
        report.problems.is_empty() && report.co_tenants.is_empty(),
    ))
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for problem in &report.problems {
        let _ = writeln!(out, "configuration: {problem}");
    }
    for Finding {
        service,
        seen_in,
        effect,
        remedy,
    } in &report.co_tenants
    {
        let _ = writeln!(out, "{service} ({seen_in}): {effect}\n    do: {remedy}");
    }
    if out.is_empty() {
        out.push_str(
            "the configuration is sound, and nothing was found that would fight the agent\n",
        );
    }
    out
}

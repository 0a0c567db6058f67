//! A ToR taken out of service and put back: the commands of the operators' page,
//! run on the lab's ToR.
//!
//! The page is the source: [`Step`]s are its code blocks whose info string is
//! `sh FLAVOUR STEP` or `sh always STEP`. What is proven here is so proven of
//! the page.

use std::{process::Output, time::Duration};

use serde::Serialize;

use crate::{
    Error, Result,
    fabric::Node,
    lab::{Lab, Power},
    process,
    topology::Flavour,
};

/// docs/operate/tor-maintenance.md.
const PAGE: &str = include_str!("../../../docs/operate/tor-maintenance.md");

/// A step of the procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Where files are: part of every other step.
    Where,
    /// A look at the sessions.
    Look,
    /// The ToR marks all that it announces.
    Drain,
    /// How many packets it forwards.
    Proof,
    /// A look at a ToR that is back.
    Ready,
    /// The mark goes.
    Undrain,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Where => "where",
            Self::Look => "look",
            Self::Drain => "drain",
            Self::Proof => "proof",
            Self::Ready => "ready",
            Self::Undrain => "undrain",
        }
    }
}

/// Packets that the ToR forwarded in the two seconds of each proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cycle {
    /// Before anything was done.
    pub before: u64,
    /// Drained, before it was switched off.
    pub drained: u64,
    /// Switched on again, still drained.
    pub back: u64,
    /// Undrained.
    pub after: u64,
}

/// The commands of one step for one flavour, as on the page.
///
/// # Errors
/// The page has no such block.
pub fn commands(flavour: Flavour, step: Step) -> Result<String> {
    let block = |whose: &str, step: Step| {
        let head = format!("```sh {whose} {}\n", step.name());
        let (_, rest) = PAGE.split_once(&head)?;
        rest.split_once("```").map(|(commands, _)| commands)
    };
    let flavour = flavour.to_string();
    let find = |step| block(&flavour, step).or_else(|| block("always", step));
    match (find(Step::Where), find(step)) {
        (Some(files), Some(commands)) => Ok(format!("{files}{commands}")),
        _ => Err(Error::Program(format!(
            "docs/operate/tor-maintenance.md has no block `{flavour} {}`",
            step.name()
        ))),
    }
}

/// Runs one step on a router and gives its output.
///
/// # Errors
/// The page has no such step, or one of its commands fails.
pub fn run(lab: &Lab, node: &Node, step: Step) -> Result<String> {
    let commands = commands(node.flavour, step)?;
    let what = || format!("step `{}` on {}", step.name(), node.name);
    let Output {
        status,
        stdout,
        stderr,
    } = lab
        .command(&node.name, "sh")
        .args(["-e", "-c", &commands])
        .output()
        .map_err(Error::io(what()))?;
    if !status.success() {
        return Err(Error::Command {
            command: what(),
            reason: String::from_utf8_lossy(&stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Packets that a router forwarded within the two seconds of the page's proof,
/// both directions and families.
///
/// # Errors
/// As [`run`], or nstat's output isn't as expected.
pub fn forwarded(lab: &Lab, node: &Node) -> Result<u64> {
    let text = run(lab, node, Step::Proof)?;
    let count = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())
            .ok_or_else(|| Error::Program(format!("nstat says nothing of {name}: {text}")))
    };
    Ok(count("IpForwDatagrams")? + count("Ip6OutForwDatagrams")?)
}

/// The whole procedure on one ToR. Traffic is the caller's.
///
/// # Errors
/// A step fails, or the ToR doesn't come back within `limit`.
pub fn cycle(lab: &Lab, tor: &str, limit: Duration) -> Result<Cycle> {
    let node = lab.fabric().node(tor)?;
    run(lab, node, Step::Look)?;
    let before = forwarded(lab, node)?;
    run(lab, node, Step::Drain)?;
    // The page's word.
    process::sleep(Duration::from_secs(1))?;
    let drained = forwarded(lab, node)?;
    lab.power(tor, Power::Off)?;
    process::sleep(Duration::from_secs(2))?;
    lab.power(tor, Power::On)?;
    lab.wait(limit)?;
    run(lab, node, Step::Ready)?;
    let back = forwarded(lab, node)?;
    run(lab, node, Step::Undrain)?;
    process::sleep(Duration::from_secs(1))?;
    let after = forwarded(lab, node)?;
    Ok(Cycle {
        before,
        drained,
        back,
        after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // A block that was renamed on the page would be found out in a lab only.
    #[test]
    fn the_page_has_all_steps() {
        for flavour in [Flavour::Frr, Flavour::Bird] {
            for step in [
                Step::Look,
                Step::Drain,
                Step::Proof,
                Step::Ready,
                Step::Undrain,
            ] {
                let text = commands(flavour, step).unwrap();
                assert!(text.lines().count() > 1, "{text}");
            }
        }
    }
}

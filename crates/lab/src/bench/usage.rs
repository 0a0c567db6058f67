//! What an agent has used of the machine, as /proc says.

use std::time::Duration;

use crate::{Error, Result, agent, lab::Lab, process::Identity};

/// Memory and processor time of a process since its start.
pub(super) struct Usage {
    /// The largest resident size.
    pub(super) rss_mib: f64,
    /// Time on a processor, of its main thread, which makes all decisions.
    pub(super) cpu: Duration,
}

impl Usage {
    /// That of the agent on a hypervisor.
    ///
    /// # Errors
    /// It doesn't run.
    pub(super) fn of_agent(lab: &Lab, host: &str) -> Result<Self> {
        let running = lab.processes(host)?;
        agent::process_of(&running)
            .and_then(Self::of)
            .ok_or_else(|| Error::Program(format!("the agent on {host} has ended")))
    }

    /// That of a process, if it lives.
    pub(super) fn of(process: Identity) -> Option<Self> {
        let read = |file| std::fs::read_to_string(format!("/proc/{}/{file}", process.pid)).ok();
        let status = read("status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: f64 = peak?.split_ascii_whitespace().next()?.parse().ok()?;
        let schedstat = read("schedstat")?;
        let ns: u64 = schedstat.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self {
            rss_mib: kib / 1024.0,
            cpu: Duration::from_nanos(ns),
        })
    }

    pub(super) fn text(&self) -> String {
        format!(
            "{:.1} MiB, {:.2} s of processor time",
            self.rss_mib,
            self.cpu.as_secs_f64()
        )
    }
}

//! What nfnetlink announces of commits, read independently of the agent's own
//! code: each transaction ends with a message that has the new generation's
//! number and names the process (linux/netfilter/nf_tables.h).

use std::time::{Duration, Instant};

use nix::sys::socket::SockProtocol;

use super::super::{
    message::{attribute, messages},
    monitor::{Feed, Monitor},
};
use crate::{Error, Result, agent, process};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
const NEWGEN: u16 = 10 << 8 | 15;
/// `NFNLGRP_NFTABLES`.
const GROUPS: &[u32] = &[7];
/// `NFTA_GEN_PROC_NAME`.
const PROCESS: u16 = 3;
/// Longest wait for a commit.
const LIMIT: Duration = Duration::from_secs(10);

/// A commit, by the name of the process that made it.
#[derive(Debug)]
pub(in crate::bench) struct Commit {
    by: String,
}

const FEED: Feed<Commit> = Feed {
    protocol: SockProtocol::NetlinkNetFilter,
    groups: GROUPS,
    read,
};

fn read(datagram: &[u8]) -> Vec<Commit> {
    messages(datagram)
        .filter(|(kind, _)| *kind == NEWGEN)
        .filter_map(|(_, body)| {
            // Behind `struct nfgenmsg`.
            let name = attribute(body.get(4..)?, PROCESS)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            Some(Commit {
                by: String::from_utf8_lossy(name).into_owned(),
            })
        })
        .collect()
}

/// A listener to the agent's commits in a namespace.
pub(in crate::bench) struct Commits {
    monitor: Monitor<Commit>,
}

impl Commits {
    /// Listens from now on.
    ///
    /// # Errors
    /// The socket or its thread can't be made.
    pub(in crate::bench) fn listen(namespace: &str) -> Result<Self> {
        let monitor = Monitor::open(namespace, FEED)?;
        Ok(Self { monitor })
    }

    /// Forgets what has come.
    ///
    /// # Errors
    /// Messages were lost.
    pub(in crate::bench) fn clear(&self) -> Result<()> {
        while self.monitor.next(Duration::ZERO)?.is_some() {}
        Ok(())
    }

    /// The next commit, whoever makes it, if one comes within `limit`; of several
    /// that have come, the last.
    ///
    /// # Errors
    /// Messages were lost.
    pub(in crate::bench) fn anybodys(&self, limit: Duration) -> Result<Option<Instant>> {
        let mut last = None;
        let mut wait = limit;
        while let Some(event) = self.monitor.next(wait)? {
            last = Some(event.at);
            wait = Duration::ZERO;
        }
        Ok(last)
    }

    /// When the last commit of the agent came, before it was `quiet` for that
    /// long; how many there were.
    ///
    /// # Errors
    /// None comes.
    pub(in crate::bench) fn last(&self, quiet: Duration) -> Result<(Instant, usize)> {
        self.within(LIMIT, quiet)?.ok_or(Error::Timeout {
            what: "a commit of the agent",
            seconds: LIMIT.as_secs(),
            missing: "no message of a new generation".to_owned(),
        })
    }

    /// The same, if one comes within a time.
    ///
    /// # Errors
    /// Messages were lost.
    pub(in crate::bench) fn within(
        &self,
        limit: Duration,
        quiet: Duration,
    ) -> Result<Option<(Instant, usize)>> {
        let end = Instant::now() + limit;
        let mut last = None;
        let mut count = 0;
        loop {
            let event = self.monitor.next(quiet)?;
            match (event, last) {
                (Some(event), _) if event.news.by == agent::PROGRAM => {
                    last = Some(event.at);
                    count += 1;
                }
                (Some(_), _) => {}
                (None, Some(last)) => return Ok(Some((last, count))),
                (None, None) if process::interrupted() => return Err(Error::Interrupted),
                (None, None) if Instant::now() > end => return Ok(None),
                (None, None) => {}
            }
        }
    }
}

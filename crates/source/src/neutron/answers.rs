//! What comes of calls.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use l2isolate_model::PortId;
use l2isolate_oslo::Error as RpcError;
use serde_json::Value;

use super::{
    devices::Report,
    ledger::Named,
    schedule::Why,
    wire::{self, Reply},
    worker::{Asked, Done, Worker, Wrong},
};
use crate::update::Availability;

/// A report that the server ignored is sent again after this.
const IGNORED: Duration = Duration::from_secs(5);
/// So many seconds from the database's clock are worth a word.
const SKEW: i64 = 30;

impl Worker {
    pub(super) fn finish(&mut self, done: Done) {
        match done {
            Done::Report(result) => self.reported(result),
            Done::Sync {
                named,
                asked,
                result,
            } => self.synced(&named, &asked, result),
            Done::Devices(report, result) => self.told(&report, result),
        }
    }

    fn reported(&mut self, result: Result<Value, RpcError>) {
        self.reporting = false;
        let now = Instant::now();
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                self.complain(|w| &mut w.report, Some(format!("report_state: {error}")));
                return;
            }
        };
        match value.as_str() {
            None => {
                // Older than the server's start: either its words were long on
                // the way, or our clock is behind.
                let reason = "neutron-server ignores report_state, whose time is before the \
                              server's own start: this host's clock is behind (see NTP), or the \
                              report was long on its way";
                self.complain(|w| &mut w.report, Some(reason.to_owned()));
                self.report_at = Some(now + IGNORED);
                return;
            }
            Some("revived") => {
                tracing::warn!(
                    "Neutron took this agent for dead; asking for everything that differs"
                );
                self.schedule.want(now, Why::Revived);
            }
            Some(_) => {}
        }
        self.complain(|w| &mut w.report, None);
        if self.contact.last_report.is_none() {
            tracing::info!(host = self.host, "Neutron knows this agent");
        }
        self.contact.last_report = Some(Timestamp::now());
        self.report_first = None;
    }

    fn synced(&mut self, named: &Named, asked: &Asked, result: Result<Value, RpcError>) {
        self.syncing = false;
        let now = Instant::now();
        let reply = match result {
            Ok(value) => wire::reply(value),
            Err(RpcError::Remote { error, .. }) if error.is_unsupported() => Err(format!(
                "the driver of neutron-server is another version than this agent needs: {error}"
            )),
            Err(error) => Err(error.to_string()),
        };
        let mut reply = match reply {
            Ok(reply) => reply,
            Err(reason) => return self.sync_failed(now, &reason),
        };
        self.judge_clock(&reply);
        let known = reply.objects.len();
        let in_use = |id: &PortId| self.devices.in_use(id);
        let changes = self.ledger.apply(now, named, &mut reply, in_use);
        self.take_changes(changes, &reply.groups);
        self.doubt_unheard(&asked.heard);
        if asked.only {
            self.devices
                .set_some_statuses(&reply.statuses, asked.reports);
            if reply.more {
                self.schedule.want(now, Why::Gap);
            }
            return;
        }
        self.wrong.unidentified = reply.unidentified;
        if reply.more && known > 0 {
            // The next part, with what is known now.
            self.sync();
            return;
        }
        if reply.more {
            return self.sync_failed(now, "neutron-server has more to say, but says nothing");
        }
        self.devices.set_statuses(&reply.statuses, asked.reports);
        self.complain(|w| &mut w.sync, None);
        let other = reply.other_agent.map(|process| {
            format!(
                "another agent (process {process}) reports to Neutron as host `{}`: two \
                 hypervisors have the same `host` in their configuration",
                self.host
            )
        });
        self.complain(|w| &mut w.other_agent, other);
        if !self.complete {
            tracing::info!("Neutron has told this host's whole intent");
        }
        self.complete = true;
        self.contact.last_sync = Some(Timestamp::now());
        if !matches!(self.availability, Availability::Available { .. }) {
            self.availability = Availability::Available {
                since: Timestamp::now(),
            };
        }
        self.schedule.strays(now, self.devices.strays());
        self.schedule.succeeded(now, fastrand::f64());
    }

    fn sync_failed(&mut self, now: Instant, reason: &str) {
        let reason = format!("sync: {reason}");
        self.schedule.failed(now, fastrand::f64());
        self.set_away(reason.clone());
        self.complain(|w| &mut w.sync, Some(reason));
    }

    fn judge_clock(&mut self, reply: &Reply) {
        let ahead = Timestamp::now().duration_since(reply.read_at).as_secs();
        let skew = (ahead.abs() >= SKEW).then(|| {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            format!(
                "this host's clock is {} s {way} the database's; Neutron ignores reports from the past (see NTP)",
                ahead.abs()
            )
        });
        // How long the answer took is in it: only its beginning and end matter.
        if skew.is_some() != self.wrong.clock.is_some() {
            self.complain(|w| &mut w.clock, skew);
        }
    }

    fn told(&mut self, report: &Report, result: Result<Value, RpcError>) {
        let now = Instant::now();
        match result {
            Ok(value) => {
                let failed = wire::failed_devices(&value);
                let said = |ids: &mut dyn Iterator<Item = &PortId>| {
                    ids.filter(|id| !failed.contains(*id)).count()
                };
                tracing::info!(
                    up = said(&mut report.up.keys()),
                    down = said(&mut report.down.iter()),
                    failed = failed.len(),
                    "told Neutron of ports"
                );
                self.devices.done(now, report, &failed);
                let refused = self.devices.refused().map(ToString::to_string);
                let refused: Vec<String> = refused.collect();
                let reason = (!refused.is_empty()).then(|| {
                    format!(
                        "Neutron can't take the state of ports {}",
                        refused.join(", ")
                    )
                });
                self.complain(|w| &mut w.devices, reason);
            }
            Err(error) => {
                self.devices.failed(now, report, 0.5 + fastrand::f64());
                self.complain(
                    |w| &mut w.devices,
                    Some(format!("update_device_list: {error}")),
                );
            }
        }
    }

    /// Notes what is wrong, or that it is over, and says so once.
    fn complain(&mut self, place: impl Fn(&mut Wrong) -> &mut Option<String>, now: Option<String>) {
        let before = place(&mut self.wrong);
        if *before == now {
            return;
        }
        match (&before, &now) {
            (_, Some(reason)) => tracing::warn!("Neutron: {reason}"),
            (Some(reason), None) => tracing::info!("Neutron: over: {reason}"),
            (None, None) => {}
        }
        *before = now;
    }
}

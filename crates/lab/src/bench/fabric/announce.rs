//! How long the fabric takes to tell of a new guest: from the hypervisor's
//! kernel to the kernel of a ToR in the other rack, three sessions away.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::super::{
    message::{self, News, Object},
    monitor::{Feed, Monitor},
    site::{Ip, Site},
    stats,
};
use crate::{Error, Result, agent, fabric::Family, process};

/// Longest wait for one guest.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two guests.
const PAUSE: Duration = Duration::from_millis(100);
/// For the agent to take the intent of all ports in.
const SETTLE: Duration = Duration::from_secs(2);

/// The median in milliseconds, of all guests but the last, who is the flows'.
///
/// # Errors
/// A guest isn't announced in time.
pub(super) fn measure(site: &Site) -> Result<Option<f64>> {
    let nothing = || Error::Program("the bench's fabric has no ToR".to_owned());
    let far = site.lab.fabric().node(&site.far.host)?;
    let tor = far.interfaces.first().ok_or_else(nothing)?;
    process::sleep(SETTLE)?;
    let here = Monitor::open(&site.host_namespace, message::FEED)?;
    let there = Monitor::open(&site.lab.namespace(&tor.peer), HOST_ROUTES)?;
    let mut samples = Vec::new();
    let (_, announced) = site.vms.split_last().ok_or_else(nothing)?;
    for vm in announced {
        // With carrier from the start: what is timed is the fabric, not Nova.
        let mut shed = Ip::open(&site.guest_namespace(vm, false))?;
        shed.say(&site.tap_line(vm))?;
        shed.say(&Site::start_lines(vm, false))?;
        shed.finish()?;
        let address = vm.address(Family::V4);
        let routed = wait(&here, vm.tap.as_str(), |news| {
            matches!(news, News::Object { object: Object::Route { to, metric, device: Some(_) }, there: true }
                if *to == address && *metric == agent::ROUTE_METRIC)
        })?;
        let arrived = wait(&there, vm.tap.as_str(), |to| *to == address)?;
        samples.push(arrived.saturating_duration_since(routed));
        process::sleep(PAUSE)?;
    }
    Ok(stats::percentile(&samples, 50).map(stats::ms))
}

/// The time of the first message that `is` it.
fn wait<N: Send + 'static>(
    monitor: &Monitor<N>,
    what: &str,
    is: impl Fn(&N) -> bool,
) -> Result<Instant> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        if let Some(event) = monitor.next(Duration::from_millis(100))?
            && is(&event.news)
        {
            return Ok(event.at);
        }
    }
    Err(Error::Timeout {
        what: "announcement of a guest",
        seconds: LIMIT.as_secs(),
        missing: what.to_owned(),
    })
}

/// IPv4 destinations of all new routes, whoever wrote them.
const HOST_ROUTES: Feed<IpAddr> = Feed {
    protocol: nix::sys::socket::SockProtocol::NetlinkRoute,
    groups: &[7],
    read: message::new_routes,
};

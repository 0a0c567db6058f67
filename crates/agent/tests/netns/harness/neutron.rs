//! A hypervisor whose intent comes over RabbitMQ, from a neutron-server that is
//! none.
//!
//! The broker is in the hypervisor's own namespace, on its loopback, and goes
//! before the hypervisor does.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
};

use l2isolate_lab::{
    broker::{Broker, Options},
    fake::{Cloud, Fake},
};
use serde_json::Value;

use super::{Guest, Host, Port, intent};

/// What an agent is told of its cloud.
const CONFIG: &str = "source = neutron\nsync_interval = 2\nreport_interval = 2\n\
    [DEFAULT]\ntransport_url = rabbit://openstack:secret@127.0.0.1/\n\
    rpc_response_timeout = 3\nrpc_response_max_timeout = 6\n";

/// The hypervisor and its cloud.
pub(crate) struct Neutron {
    fake: Option<Fake>,
    pub(crate) broker: Broker,
    host: Host,
}

impl Neutron {
    /// With further options; the agent isn't started yet, the rest runs.
    pub(crate) fn new() -> Self {
        Self::on(Host::with(CONFIG))
    }

    /// On a hypervisor that will have many taps.
    pub(crate) fn crowded() -> Self {
        Self::on(Host::crowded_with(CONFIG))
    }

    fn on(host: Host) -> Self {
        let options = Options {
            ends_with_caller: true,
            ..Options::default()
        };
        let broker = Broker::configure(&host.hv, &host.path("rabbitmq"), options).unwrap();
        let mut neutron = Self {
            fake: None,
            broker,
            host,
        };
        neutron.broker.start().unwrap();
        neutron.serve();
        let subnets: Value = serde_json::from_str(&intent::subnets()).unwrap();
        for subnet in subnets["subnets"].as_array().unwrap() {
            neutron.cloud().set("subnets", subnet.clone());
        }
        neutron
    }

    /// Starts the server, with the cloud of the last one.
    pub(crate) fn serve(&mut self) {
        let cloud = self.fake.take().map_or_else(
            || Arc::new(Mutex::new(Cloud::default())),
            |fake| fake.shared(),
        );
        let url = self.broker.url([127, 0, 0, 1].into());
        self.fake = Some(Fake::start(self.broker.namespace(), &url, cloud).unwrap());
    }

    /// The cloud. To be let go soon.
    pub(crate) fn cloud(&self) -> MutexGuard<'_, Cloud> {
        self.fake.as_ref().unwrap().cloud()
    }

    /// Puts a port into the cloud, or changes it.
    pub(crate) fn put(&self, port: &Port) {
        self.cloud().set("ports", port.document.clone());
    }

    /// A guest as Nova boots one: the port first, then the tap.
    pub(crate) fn boot(&mut self, number: u32) -> Guest {
        self.put(&Port::new(number));
        self.host.guest(number)
    }

    /// Waits until Neutron takes exactly these ports for up.
    pub(crate) fn active(&self, ports: &[&Port]) {
        let mut expected: Vec<&str> = ports.iter().map(|port| port.id()).collect();
        expected.sort_unstable();
        self.host.until("all ports are up", || {
            let cloud = self.cloud();
            let up = cloud.statuses.iter().filter(|(_, s)| *s == "ACTIVE");
            up.map(|(id, _)| id.as_str()).eq(expected.iter().copied())
        });
    }

    /// Waits until a sync has begun after now and is done.
    pub(crate) fn synced(&self) {
        let before = self.cloud().calls_of("sync").len();
        // The one that is counted first may have been answered from what was
        // before.
        self.host.until("syncs", || {
            self.cloud().calls_of("sync").len() >= before + 2
        });
    }
}

impl Deref for Neutron {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl DerefMut for Neutron {
    fn deref_mut(&mut self) -> &mut Host {
        &mut self.host
    }
}

impl Drop for Neutron {
    fn drop(&mut self) {
        self.fake = None;
        if let Err(error) = self.broker.kill() {
            eprintln!("{error}");
        }
    }
}

//! A broker, a fake neutron-server, and the source.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use l2isolate_lab::{
    broker::{Alone, Broker, Options as BrokerOptions},
    fake::{Cloud, Fake},
    netns,
};
use l2isolate_model::{document::ObjectId, intent::Change};
use l2isolate_oslo::{Context, Target, Transport};
use l2isolate_source::{
    Availability, Stamp, State, Update,
    neutron::{self, Handle, TapState},
};
use serde_json::{Value, json};

/// Nothing takes that long; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(60);

/// A broker for all tests that leave it as it is, each with a virtual host of
/// its own. Ends with the process.
pub(crate) fn shared_broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(|| {
        let (sender, receiver) = channel();
        // The broker lives as long as the thread that started it.
        std::thread::spawn(move || {
            let alone = Alone::start(BrokerOptions::default()).unwrap();
            sender.send((*alone).clone()).unwrap();
            loop {
                std::thread::park();
            }
        });
        receiver.recv().unwrap()
    })
}

/// What a test has.
pub(crate) struct Rig {
    broker: Broker,
    url: String,
    pub(crate) fake: Option<Fake>,
    source: Option<(Handle, Receiver<Update>)>,
    /// What the source has told: what is in force, and its stamps.
    pub(crate) objects: BTreeMap<ObjectId, Change>,
    pub(crate) stamps: BTreeMap<ObjectId, Stamp>,
    pub(crate) complete: bool,
    pub(crate) state: State,
    /// Called on the options before each start.
    pub(crate) tune: fn(&mut neutron::Options),
}

impl Rig {
    /// On the shared broker.
    pub(crate) fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let broker = shared_broker();
        let vhost = format!("test{number}");
        broker.control(&["add_vhost", &vhost]).unwrap();
        let user = &broker.options().user;
        broker
            .control(&["set_permissions", "-p", &vhost, user, ".*", ".*", ".*"])
            .unwrap();
        Self::on(broker, &vhost)
    }

    /// On a broker, in a virtual host.
    pub(crate) fn on(broker: &Broker, vhost: &str) -> Self {
        let BrokerOptions { user, password, .. } = broker.options();
        Self {
            url: format!("rabbit://{user}:{password}@127.0.0.1/{vhost}"),
            broker: broker.clone(),
            fake: None,
            source: None,
            objects: BTreeMap::new(),
            stamps: BTreeMap::new(),
            complete: false,
            state: State::default(),
            tune: |_| {},
        }
    }

    /// Starts the fake server, with the cloud of the one before.
    pub(crate) fn serve(&mut self) {
        let cloud = self.fake.take().map_or_else(
            || Arc::new(Mutex::new(Cloud::default())),
            |fake| fake.shared(),
        );
        self.serve_with(cloud);
    }

    pub(crate) fn serve_with(&mut self, cloud: Arc<Mutex<Cloud>>) {
        let namespace = self.broker.namespace();
        self.fake = Some(Fake::start(namespace, &self.url, cloud).unwrap());
    }

    /// Starts the source, with what it told before as its cache.
    pub(crate) fn start(&mut self) {
        let mut messaging = l2isolate_oslo::Options::read(&self.url, |_| None).unwrap();
        messaging.exchange = "neutron".to_owned();
        messaging.retry.step = Duration::ZERO;
        let mut options = neutron::Options {
            known: self.objects.clone().into_iter().collect(),
            stamps: self.stamps.clone().into_iter().collect(),
            timeout: Duration::from_secs(2),
            max_timeout: Duration::from_secs(4),
            ..neutron::Options::new(messaging, "hv1")
        };
        (self.tune)(&mut options);
        let spawn = || neutron::spawn(options, Box::new(|| {})).unwrap();
        self.source = Some(netns::inside(self.broker.namespace(), spawn).unwrap());
        self.complete = false;
    }

    /// Ends the source.
    pub(crate) fn stop(&mut self) {
        self.source = None;
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.source.as_ref().unwrap().0
    }

    /// The fake's cloud.
    pub(crate) fn cloud(&self) -> std::sync::MutexGuard<'_, Cloud> {
        self.fake.as_ref().unwrap().cloud()
    }

    /// Takes updates in until something is so.
    pub(crate) fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LONG;
        while !condition(self) {
            assert!(Instant::now() < end, "in vain: {what}; {:?}", self.state);
            let (_, updates) = self.source.as_ref().unwrap();
            let Ok(update) = updates.recv_timeout(Duration::from_millis(20)) else {
                continue;
            };
            for (id, change) in update.changes {
                match change {
                    Change::Gone => {
                        self.objects.remove(&id);
                        self.stamps.remove(&id);
                    }
                    change => {
                        self.objects.insert(id, change);
                    }
                }
            }
            self.stamps.extend(update.stamps);
            self.complete = update.complete;
            self.state = update.state;
        }
    }

    /// Until everything was told once.
    pub(crate) fn until_complete(&mut self) {
        self.until("the intent is complete", |rig| rig.complete);
    }

    /// Tells of a tap: its index, and whether it is wired.
    pub(crate) fn tap(&self, number: u32, state: Option<(u32, bool)>) {
        let state = state.map(|(index, wired)| TapState {
            index,
            port: Some(port_id(number).parse().unwrap()),
            wired,
        });
        self.handle()
            .tell_taps(vec![(tap(number).parse().unwrap(), state)]);
    }

    pub(crate) fn is_available(&self) -> bool {
        matches!(self.state.availability, Availability::Available { .. })
    }

    /// Why it is away, or nothing.
    pub(crate) fn away(&self) -> &str {
        match &self.state.availability {
            Availability::Away { reason, .. } => reason,
            _ => "",
        }
    }

    /// What is wrong beside.
    pub(crate) fn problems(&self) -> String {
        let problems = self.state.problems.iter().map(ToString::to_string);
        problems.collect::<Vec<_>>().join("\n")
    }

    /// Tells agents something unasked, as the server's driver does.
    pub(crate) fn cast(&self, key: &str, number: u64, news: Value) {
        self.cast_as(1, key, number, news);
    }

    /// The same, by a method of another major version.
    pub(crate) fn cast_as(&self, major: u32, key: &str, number: u64, mut news: Value) {
        if news.get("version").is_none() {
            news["version"] = json!(1);
        }
        news["key"] = json!(key);
        news["sender"] = json!("test");
        news["number"] = json!(number);
        let mut options = l2isolate_oslo::Options::read(&self.url, |_| None).unwrap();
        options.exchange = "neutron".to_owned();
        let send = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let transport = Transport::start(options);
                let arguments = json!({"news": news}).as_object().cloned().unwrap();
                let client = transport.client(Target::new(key).version(major, 0));
                client
                    .cast(&Context::admin(), "changed", arguments)
                    .await
                    .unwrap();
                transport.close().await;
            });
        };
        netns::inside(self.broker.namespace(), send).unwrap();
    }

    pub(crate) fn syncs(&self) -> usize {
        self.cloud().calls_of("sync").len()
    }

    /// Which ports were reported, in order: `+1` up, `-1` down.
    pub(crate) fn reported(&self) -> String {
        let mut all = String::new();
        for arguments in self.cloud().calls_of("update_device_list") {
            for (key, sign) in [("devices_up", '+'), ("devices_down", '-')] {
                for id in arguments[key].as_array().unwrap() {
                    let number = id.as_str().unwrap().get(..8).unwrap();
                    let number = u32::from_str_radix(number, 16).unwrap();
                    all.push_str(&format!("{sign}{number} "));
                }
            }
        }
        all.trim_end().to_owned()
    }
}

pub(crate) fn port_id(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-000000000001")
}

pub(crate) fn tap(number: u32) -> String {
    format!("tap{}", &port_id(number)[..11])
}

/// A port on a subnet that is always there.
pub(crate) fn port(number: u32) -> Value {
    json!({
        "id": port_id(number), "mac": format!("fa:16:3e:00:00:{number:02x}"),
        "addresses": [{"address": format!("10.252.0.{}", number + 10), "subnet": "s1"}],
        "binding": {"state": "active"},
    })
}

pub(crate) fn subnet() -> Value {
    json!({"id": "s1", "cidr": "10.252.0.0/16", "gateway": "10.252.0.1"})
}

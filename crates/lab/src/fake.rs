//! A neutron-server that is none: it speaks docs/neutron-wire.md over a real
//! RabbitMQ, and can be told to misbehave in ways in which a real one can't.
//!
//! It keeps a cloud of one host. What the agent asks is answered from it, and
//! what the agent reports changes it as Neutron would. Everything that comes in
//! is written down.
//!
//! Owns a thread; dropping it is a kill: calls at hand are never answered.

#![allow(
    clippy::indexing_slicing,
    reason = "a serde_json value that is indexed gives null, or gets the field"
)]

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use jiff::Timestamp;
use l2isolate_oslo::{
    Dispatcher, Endpoint, Listen, Options, RemoteError, Request, Transport, Version,
};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::{Error, Result, netns};

const LISTS: [&str; 4] = ["subnets", "address_groups", "groups", "ports"];

/// How a method behaves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Manner {
    /// As it should.
    #[default]
    Answer,
    /// It never returns.
    Silent,
    /// It raises an exception: its class, with module `builtins`.
    Raise(String),
    /// It returns this instead.
    Say(Value),
}

/// What the fake knows, and how it behaves.
#[derive(Debug, Default)]
pub struct Cloud {
    /// The objects of the host's intent, by list and id, without digests.
    pub objects: BTreeMap<(String, String), Value>,
    /// Neutron's status of each port.
    pub statuses: BTreeMap<String, String>,
    /// All calls that came in, with their arguments.
    pub calls: Vec<(String, Map<String, Value>)>,
    /// How `sync` behaves.
    pub sync: Manner,
    /// How `report_state` behaves; by default it says `alive`.
    pub report: Manner,
    /// How `update_device_list` behaves.
    pub devices: Manner,
    /// How many objects an answer has at most; 0: all.
    pub cut: usize,
    /// By how much the database's clock is ahead.
    pub clock: jiff::SignedDuration,
    /// Another agent that reports under the host's name.
    pub other_agent: Option<String>,
}

impl Cloud {
    /// Puts an object in, or changes it; a port is `DOWN` at first.
    pub fn set(&mut self, list: &str, object: Value) {
        let id = object["id"].as_str().unwrap_or_default().to_owned();
        if list == "ports" {
            let status = self.statuses.entry(id.clone());
            status.or_insert_with(|| "DOWN".to_owned());
        }
        self.objects.insert((list.to_owned(), id), object);
    }

    /// Takes an object out.
    pub fn remove(&mut self, list: &str, id: &str) {
        self.statuses.remove(id);
        self.objects.remove(&(list.to_owned(), id.to_owned()));
    }

    /// Arguments of all calls of a method so far.
    #[must_use]
    pub fn calls_of(&self, method: &str) -> Vec<Map<String, Value>> {
        let calls = self.calls.iter().filter(|(name, _)| name == method);
        calls.map(|(_, arguments)| arguments.clone()).collect()
    }

    /// The digest that goes with an object.
    #[must_use]
    pub fn digest(object: &Value) -> String {
        let mut hasher = DefaultHasher::new();
        object.to_string().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    fn answer_sync(&self, request: &Request) -> Value {
        let now = Timestamp::now();
        let read_at = now.checked_add(self.clock).unwrap_or(now).to_string();
        let named = &request.arguments["digests"];
        let only = request.arguments.get("only") == Some(&json!(true));
        let mut lists: Map<String, Value> = Map::new();
        for list in LISTS {
            lists.insert(list.to_owned(), json!([]));
        }
        let mut more = false;
        let mut count = 0;
        for list in LISTS {
            let of_list = self.objects.iter().filter(|((l, _), _)| l == list);
            for ((_, id), object) in of_list {
                let digest = Self::digest(object);
                if named[list][id] == json!(digest) || (only && named[list][id].is_null()) {
                    continue;
                }
                if self.cut > 0 && count == self.cut {
                    more = true;
                    break;
                }
                count += 1;
                let mut object = object.clone();
                object["digest"] = digest.into();
                object["read_at"] = read_at.clone().into();
                if let Some(Value::Array(entries)) = lists.get_mut(list) {
                    entries.push(object);
                }
            }
        }
        let gone = |list: &str| -> Vec<Value> {
            let named = named[list].as_object().into_iter().flatten();
            let gone = named.filter(|(id, _)| {
                let key = (list.to_owned(), (*id).clone());
                !more && !self.objects.contains_key(&key)
            });
            gone.map(|(id, _)| json!({"id": id, "read_at": read_at}))
                .collect()
        };
        let tombstones: Map<String, Value> = LISTS
            .iter()
            .map(|list| ((*list).to_owned(), Value::from(gone(list))))
            .collect();
        let mut answer = json!({
            "version": 1, "read_at": read_at, "gone": tombstones,
            "statuses": self.statuses, "more": more,
        });
        if let Some(other) = &self.other_agent {
            answer["other_agent"] = other.clone().into();
        }
        if let Value::Object(answer) = &mut answer {
            answer.append(&mut lists);
        }
        answer
    }

    fn answer_devices(&mut self, request: &Request) -> Value {
        let list = |key: &str| request.arguments.get(key).cloned().unwrap_or_default();
        for (key, status) in [("devices_up", "ACTIVE"), ("devices_down", "DOWN")] {
            for id in list(key).as_array().into_iter().flatten() {
                let id = id.as_str().unwrap_or_default();
                let key = ("ports".to_owned(), id.to_owned());
                // Neutron changes nothing for a port that is active elsewhere.
                let here = self.objects.get(&key);
                if here.is_some_and(|port| port["binding"]["state"] != "incoming") {
                    self.statuses.insert(id.to_owned(), status.to_owned());
                }
            }
        }
        json!({
            "devices_up": list("devices_up"), "devices_down": list("devices_down"),
            "failed_devices_up": [], "failed_devices_down": [],
        })
    }
}

/// The running fake.
#[derive(Debug)]
pub struct Fake {
    cloud: Arc<Mutex<Cloud>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Starts one in a namespace, with a cloud that an earlier one may have
    /// left; returns when it serves.
    ///
    /// # Errors
    /// The URL, or the namespace can't be entered.
    pub fn start(namespace: &str, url: &str, cloud: Arc<Mutex<Cloud>>) -> Result<Self> {
        let mut options =
            Options::read(url, |_| None).map_err(|error| Error::Program(error.to_string()))?;
        options.exchange = "neutron".to_owned();
        options.retry.step = Duration::ZERO;
        let (stop, stopped) = watch::channel(false);
        let (ready, serves) = mpsc::channel();
        let (namespace, shared) = (namespace.to_owned(), Arc::clone(&cloud));
        let thread = std::thread::Builder::new()
            .name("fake neutron".to_owned())
            .spawn(move || {
                let served = netns::inside(&namespace, || serve(options, &shared, stopped, &ready));
                if let Ok(Err(error)) | Err(error) = served {
                    crate::lab::progress(&format!("fake neutron-server: {error}"));
                }
            })
            .map_err(Error::io("starting a thread"))?;
        let fake = Self {
            cloud,
            stop,
            thread: Some(thread),
        };
        serves
            .recv_timeout(Duration::from_secs(60))
            .map_err(|_| Error::Program("the fake neutron-server doesn't serve".to_owned()))?;
        Ok(fake)
    }

    /// Its cloud. To be let go soon: calls wait for it.
    pub fn cloud(&self) -> MutexGuard<'_, Cloud> {
        lock(&self.cloud)
    }

    /// Its cloud, for the next one.
    #[must_use]
    pub fn shared(&self) -> Arc<Mutex<Cloud>> {
        Arc::clone(&self.cloud)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It has said itself why it panicked.
            let _ = thread.join();
        }
    }
}

fn lock(cloud: &Mutex<Cloud>) -> MutexGuard<'_, Cloud> {
    cloud.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    options: Options,
    cloud: &Arc<Mutex<Cloud>>,
    mut stop: watch::Receiver<bool>,
    ready: &mpsc::Sender<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("a tokio runtime"))?;
    runtime.block_on(async {
        let transport = Transport::start(options);
        let endpoint = |minor, method, manner: fn(&Cloud) -> Manner, answer| {
            let endpoint = method_of(cloud, minor, method, manner, answer);
            Dispatcher::new().endpoint(endpoint)
        };
        let servers = [
            (
                "l2isolate",
                endpoint(1, "sync", |c| c.sync.clone(), |c, r| c.answer_sync(r)),
            ),
            (
                "q-reports-plugin",
                endpoint(
                    2,
                    "report_state",
                    |c| c.report.clone(),
                    |_, _| json!("alive"),
                ),
            ),
            (
                "q-plugin",
                endpoint(
                    9,
                    "update_device_list",
                    |c| c.devices.clone(),
                    |c, r| c.answer_devices(r),
                ),
            ),
        ]
        .map(|(topic, dispatcher)| transport.serve(Listen::new(topic, "fake"), dispatcher));
        for server in &servers {
            server.listening().await;
        }
        // Nobody waits any more if it took too long.
        let _ = ready.send(());
        let _ = stop.wait_for(|stop| *stop).await;
    });
    // Without a word to anybody, as killed.
    runtime.shutdown_background();
    Ok(())
}

fn method_of(
    cloud: &Arc<Mutex<Cloud>>,
    minor: u32,
    method: &'static str,
    manner: fn(&Cloud) -> Manner,
    answer: fn(&mut Cloud, &Request) -> Value,
) -> Endpoint {
    let cloud = Arc::clone(cloud);
    Endpoint::new(Version::new(1, minor)).method(method, move |request| {
        let cloud = Arc::clone(&cloud);
        async move {
            let result = {
                let mut cloud = lock(&cloud);
                cloud
                    .calls
                    .push((method.to_owned(), request.arguments.clone()));
                match manner(&cloud) {
                    Manner::Answer => Some(Ok(answer(&mut cloud, &request))),
                    Manner::Say(value) => Some(Ok(value)),
                    Manner::Raise(class) => {
                        Some(Err(RemoteError::new("builtins", &class, "told to fail")))
                    }
                    Manner::Silent => None,
                }
            };
            match result {
                Some(result) => result,
                None => std::future::pending().await,
            }
        }
    })
}

//! Nova's ears: where Neutron posts its events.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use l2isolate_lab::{
    netns,
    neutron::{ADDRESS, NOVA_PORT, Rig},
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

/// Listens until it is dropped.
pub(super) struct Nova {
    events: Arc<Mutex<Vec<Value>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Nova {
    pub(super) fn start(rig: &Rig) -> Self {
        let events: Arc<Mutex<Vec<Value>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let namespace = rig.namespace().to_owned();
        let bind = || TcpListener::bind((ADDRESS, NOVA_PORT)).unwrap();
        let listener = netns::inside(&namespace, bind).unwrap();
        let thread = std::thread::spawn({
            let (events, stop) = (Arc::clone(&events), Arc::clone(&stop));
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Ok(stream) = stream {
                        hear(stream, &events);
                    }
                }
            }
        });
        let wake = Box::new(move || {
            let knock = || TcpStream::connect((ADDRESS, NOVA_PORT));
            let _ = netns::inside(&namespace, knock);
        });
        Self {
            events,
            stop,
            thread: Some(thread),
            wake,
        }
    }

    /// Names of the events of a port so far.
    pub(super) fn events_of(&self, port: &str) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let ours = events.iter().filter(|event| event["tag"] == port);
        ours.map(|event| event["name"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(super) fn count(&self, port: &str, name: &str) -> usize {
        let events = self.events_of(port);
        events.iter().filter(|event| *event == name).count()
    }

    /// Waits until an event of a port has come so often.
    pub(super) fn until_told(&self, port: &str, name: &str, count: usize) {
        let end = Instant::now() + LIMIT;
        while self.count(port, name) < count {
            let events = self.events_of(port);
            assert!(Instant::now() < end, "no {name} of {port} but {events:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Nova {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        (self.wake)();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request; whatever it is, all is well.
fn hear(mut stream: TcpStream, events: &Mutex<Vec<Value>>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut reader = BufReader::new(&stream);
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut heard = body["events"].as_array().cloned().unwrap_or_default();
    events.lock().unwrap().extend(heard.iter().cloned());
    for event in &mut heard {
        event["code"] = json!(200);
    }
    let answer = json!({ "events": heard }).to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{answer}",
        answer.len()
    );
}

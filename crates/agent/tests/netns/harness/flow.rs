//! A one-way flow of numbered datagrams between two guests, to count what is
//! lost of it. ping doesn't do: it slows down while replies are missing.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use l2isolate_lab::netns;

use super::Guest;

/// Between two datagrams.
const INTERVAL: Duration = Duration::from_millis(2);
/// How long the last one may take.
const DRAIN: Duration = Duration::from_millis(300);

/// A flow that runs.
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<BTreeSet<u64>>,
}

impl Flow {
    /// Starts to send from one guest to another; `family` is 4 or 6.
    pub(crate) fn start(from: &Guest, to: &Guest, family: u8) -> Self {
        let bind = |guest: &Guest| {
            let address = if family == 4 {
                guest.port.v4()
            } else {
                guest.port.v6()
            };
            let address = SocketAddr::new(address.parse().unwrap(), 0);
            netns::inside(&guest.namespace, || UdpSocket::bind(address).unwrap()).unwrap()
        };
        let (output, input) = (bind(from), bind(to));
        let target = input.local_addr().unwrap();
        input.set_read_timeout(Some(DRAIN)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let sender = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    // What can't be sent is lost, and counted so.
                    let _ = output.send_to(&number.to_be_bytes(), target);
                    number += 1;
                    thread::sleep(INTERVAL);
                }
                number
            }
        });
        let receiver = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut received = BTreeSet::new();
                let mut datagram = [0; 8];
                loop {
                    match input.recv(&mut datagram) {
                        Ok(_) => drop(received.insert(u64::from_be_bytes(datagram))),
                        Err(_) if stop.load(Ordering::Relaxed) => return received,
                        Err(_) => {}
                    }
                }
            }
        });
        Self {
            stop,
            sender,
            receiver,
        }
    }

    /// Ends it, and asserts that every datagram has arrived.
    pub(crate) fn unharmed(self) {
        let (sent, lost) = self.end();
        assert!(
            lost.is_empty(),
            "of {sent} datagrams these were lost: {lost:?}"
        );
        assert!(sent > 0, "nothing was sent");
    }

    fn end(self) -> (u64, Vec<u64>) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        let received = self.receiver.join().unwrap();
        (
            sent,
            (0..sent)
                .filter(|number| !received.contains(number))
                .collect(),
        )
    }
}

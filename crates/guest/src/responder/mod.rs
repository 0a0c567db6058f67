//! Answers guests' solicitations, from a thread of its own: it goes on while
//! the agent's one thread of decisions is busy.
//!
//! Why not dnsmasq: its router advertisements take a prefix for each range of
//! its command line, and its DHCPv6 lets any guest take any other's address
//! (`docs/adr/` has the experiments).
//!
//! What a tap's guest gets is data ([`Answers`]), handed over by
//! [`Responder::set`]; [`respond`] is a function of that and a frame. A guest
//! that asks more often than it may is not heard for a moment: the kernel drops
//! its frames.

mod dhcp6;
mod frame;
mod nd;
mod thread;

use std::{
    io,
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use l2isolate_kernel::packet::Solicitations;
use l2isolate_model::{IfName, Mac, guest::ipv6::Answers};
use nix::sys::eventfd::{EfdFlags, EventFd};

use self::{
    frame::{Address, ICMPV6, Packet, UDP},
    thread::Worker,
};

/// This host's end of every tap, the same on all hosts: so a guest that has
/// moved still knows its router and its DHCPv6 server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Hardware address.
    pub mac: Mac,
    /// Link-local address.
    pub link_local: Ipv6Addr,
}

impl Local {
    fn address(&self) -> Address {
        Address {
            mac: self.mac.bytes(),
            ip: self.link_local,
        }
    }

    /// The DHCPv6 server's identifier: DUID-LL, Ethernet (RFC 8415, 11.4).
    fn duid(&self) -> [u8; 10] {
        let [a, b, c, d, e, f] = self.mac.bytes();
        [0, 3, 0, 1, a, b, c, d, e, f]
    }
}

/// What became of frames.
#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    refused: AtomicU64,
    limited: AtomicU64,
}

/// What has been asked until now, of all taps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Answers sent.
    pub answered: u64,
    /// Frames that get no answer: malformed, or not for us to answer.
    pub refused: u64,
    /// How often a guest wasn't heard for a moment.
    pub limited: u64,
}

/// The answer to a frame of the guest on a tap, if it gets one.
#[must_use]
pub fn respond(local: &Local, answers: &Answers, frame: &[u8]) -> Option<Vec<u8>> {
    let packet = Packet::read(frame)?;
    if !answers.macs.is_empty() && !answers.macs.contains(&packet.mac) {
        return None;
    }
    match (packet.protocol, packet.payload.first()?) {
        (ICMPV6, &nd::ROUTER_SOLICITATION) => nd::to_router_solicitation(local, answers, &packet),
        (ICMPV6, &nd::NEIGHBOUR_SOLICITATION) => {
            nd::to_neighbour_solicitation(local, answers, &packet)
        }
        (UDP, _) => dhcp6::answer(local, answers, &packet),
        _ => None,
    }
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    /// The tap of that name is the device with that index and gets these
    /// answers; `None`: it is gone, or gets none.
    Set(IfName, Option<(u32, Arc<Answers>)>),
}

/// The thread that answers; ends with this.
#[derive(Debug)]
pub struct Responder {
    /// Gone once the thread shall end.
    orders: Option<Sender<Order>>,
    wake: Arc<EventFd>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Starts it, in the network namespace of the calling thread. `rate`:
    /// solicitations that one guest gets answers to, per second.
    ///
    /// # Errors
    /// The socket can't be opened, or the thread not be started.
    pub fn start(local: Local, rate: u32) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags)?);
        let counters = Arc::new(Counters::default());
        let (orders, received) = channel();
        let worker = Worker::new(
            local,
            rate,
            received,
            Arc::clone(&wake),
            Arc::clone(&counters),
            Solicitations::open(local.mac)?,
        );
        let thread = std::thread::Builder::new()
            .name("responder".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            orders: Some(orders),
            wake,
            counters,
            thread: Some(thread),
        })
    }

    /// Says what a tap's guest gets from now on.
    pub fn set(&self, tap: IfName, answers: Option<(u32, Arc<Answers>)>) {
        if let Some(orders) = &self.orders {
            // It ends only after this.
            let _ = orders.send(Order::Set(tap, answers));
            let _ = self.wake.write(1);
        }
    }

    /// What has been asked until now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            answered: read(&self.counters.answered),
            refused: read(&self.counters.refused),
            limited: read(&self.counters.limited),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

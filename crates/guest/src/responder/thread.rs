//! The responder's thread: waits on the socket of all taps, and on the clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use l2isolate_kernel::packet::{FRAME, MUTED, Solicitations};
use l2isolate_model::{IfName, guest::ipv6::Answers};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};
use tracing::{debug, warn};

use super::{Counters, Local, Order, nd, respond};

/// Frames in a row, then it is the turn of the clock and of orders.
const ROW: u32 = 64;
/// How long a guest that asks too often isn't heard.
const MUTE: Duration = Duration::from_millis(100);
/// Between the first advertisements, and how many there are (RFC 4861, 10).
const INITIAL: Duration = Duration::from_secs(16);
const INITIALS: u32 = 3;
/// Between two advertisements at least; the most is a third more.
const PERIOD: u64 = 450;

pub(super) struct Worker {
    local: Local,
    rate: u32,
    orders: Receiver<Order>,
    wake: Arc<EventFd>,
    counters: Arc<Counters>,
    socket: Solicitations,
    /// By the number of the device.
    taps: HashMap<u32, Tap>,
    names: BTreeMap<IfName, u32>,
    /// Who isn't heard for the moment, and whether the kernel has been told.
    muted: BTreeSet<u32>,
    told: bool,
    /// What is due when: the device's number; and the same by device.
    clock: BTreeSet<(Instant, u32, Due)>,
    due: BTreeMap<(u32, Due), Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Advertise,
    Listen,
}

impl Due {
    const ALL: [Self; 2] = [Self::Advertise, Self::Listen];
}

struct Tap {
    name: IfName,
    answers: Arc<Answers>,
    /// Answers that it may still get, refilled with time.
    left: u32,
    refilled: Instant,
    /// Advertisements since what is advertised changed.
    advertised: u32,
}

impl Worker {
    pub(super) fn new(
        local: Local,
        rate: u32,
        orders: Receiver<Order>,
        wake: Arc<EventFd>,
        counters: Arc<Counters>,
        socket: Solicitations,
    ) -> Self {
        Self {
            local,
            rate: rate.max(1),
            orders,
            wake,
            counters,
            socket,
            taps: HashMap::new(),
            names: BTreeMap::new(),
            muted: BTreeSet::new(),
            told: true,
            clock: BTreeSet::new(),
            due: BTreeMap::new(),
        }
    }

    pub(super) fn run(mut self) {
        let mut buffer = [0; FRAME];
        while self.take_orders() {
            if let Err(error) = self.wait() {
                warn!(%error, "solicitations can't be waited for; nobody is answered any more");
                return;
            }
            self.hear(&mut buffer);
            self.strike(Instant::now());
            self.tell();
        }
    }

    /// Until there is something to do.
    fn wait(&self) -> Result<(), Errno> {
        let now = Instant::now();
        let next = self.clock.first();
        let timeout = match next.map(|(at, ..)| at.saturating_duration_since(now)) {
            // Rounded up: waking early would only mean waiting again.
            Some(wait) => {
                PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut both = [self.socket.as_fd(), self.wake.as_fd()]
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
        match poll(&mut both, timeout) {
            Ok(_) | Err(Errno::EINTR) => {
                // It doesn't block: mostly nobody has woken us.
                let _ = self.wake.read();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes in what has been ordered; says whether to go on.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Set(name, Some((index, answers)))) => self.set(name, index, answers),
                Ok(Order::Set(name, None)) => self.remove(name),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn set(&mut self, name: IfName, index: u32, answers: Arc<Answers>) {
        let now = Instant::now();
        if self.names.get(&name) == Some(&index)
            && let Some(tap) = self.taps.get_mut(&index)
        {
            let news = tap.answers.router != answers.router;
            tap.answers = answers;
            if news {
                tap.advertised = 0;
                self.schedule(index, now, Due::Advertise);
            }
            return;
        }
        self.remove(name);
        let tap = Tap {
            name,
            answers,
            left: self.rate * 2,
            refilled: now,
            advertised: 0,
        };
        if let Some(before) = self.taps.insert(index, tap) {
            // It has another name now.
            self.names.remove(&before.name);
        }
        self.names.insert(name, index);
        self.schedule(index, now, Due::Advertise);
    }

    fn remove(&mut self, name: IfName) {
        let Some(index) = self.names.remove(&name) else {
            return;
        };
        self.taps.remove(&index);
        self.unmute(index);
        for due in Due::ALL {
            self.unschedule(index, due);
        }
    }

    fn schedule(&mut self, index: u32, at: Instant, due: Due) {
        self.unschedule(index, due);
        self.clock.insert((at, index, due));
        self.due.insert((index, due), at);
    }

    fn unschedule(&mut self, index: u32, due: Due) {
        if let Some(at) = self.due.remove(&(index, due)) {
            self.clock.remove(&(at, index, due));
        }
    }

    fn unmute(&mut self, index: u32) {
        if self.muted.remove(&index) {
            self.told = false;
        }
    }

    /// Has the kernel drop what those send who aren't heard.
    fn tell(&mut self) {
        if self.told {
            return;
        }
        // If it can't be told, what they send is read and dropped here.
        match self.socket.mute(self.muted.iter().copied()) {
            Ok(()) => self.told = true,
            Err(error) => debug!(%error, muted = self.muted.len(), "the filter can't be changed"),
        }
        if self.muted.len() > MUTED {
            debug!(muted = self.muted.len(), "more than the filter can name");
        }
    }

    /// Answers what guests have asked.
    fn hear(&mut self, buffer: &mut [u8; FRAME]) {
        let now = Instant::now();
        for _ in 0..ROW {
            // An error is a device's, which goes away.
            let Ok(Some((index, frame))) = self.socket.next(buffer) else {
                return;
            };
            // No tap: the fabric's neighbours ask each other in the same way.
            let Some(tap) = self.taps.get_mut(&index) else {
                continue;
            };
            // What it had sent before the kernel was told.
            if self.muted.contains(&index) {
                continue;
            }
            tap.refill(now, self.rate);
            if tap.left == 0 {
                self.counters.limited.fetch_add(1, Ordering::Relaxed);
                self.muted.insert(index);
                self.told = false;
                self.schedule(index, now + MUTE, Due::Listen);
                continue;
            }
            tap.left -= 1;
            let counter = match respond(&self.local, &tap.answers, frame) {
                Some(answer) => {
                    // A guest that doesn't take its answers in asks again.
                    let _ = self.socket.send(index, &answer);
                    &self.counters.answered
                }
                None => &self.counters.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Does what is due.
    fn strike(&mut self, now: Instant) {
        while let Some((at, index, due)) = self.clock.first().copied() {
            if at > now {
                return;
            }
            self.unschedule(index, due);
            match due {
                Due::Listen => self.unmute(index),
                Due::Advertise => self.advertise(index, now),
            }
        }
    }

    fn advertise(&mut self, index: u32, now: Instant) {
        let Some(tap) = self.taps.get_mut(&index) else {
            return;
        };
        let Some(router) = &tap.answers.router else {
            return;
        };
        // Whether somebody hears it is as uncertain as ever.
        let _ = self
            .socket
            .send(index, &nd::unsolicited(&self.local, router));
        tap.advertised += 1;
        let wait = if tap.advertised < INITIALS {
            INITIAL
        } else {
            period(tap.name)
        };
        self.schedule(index, now + wait, Due::Advertise);
    }
}

impl Tap {
    fn refill(&mut self, now: Instant, rate: u32) {
        let waited = now.saturating_duration_since(self.refilled);
        let new = u128::from(rate) * waited.as_millis() / 1000;
        if new > 0 {
            let new = u32::try_from(new).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(new).min(rate * 2);
            self.refilled = now;
        }
    }
}

/// Between two advertisements: taps aren't all due at once, though they may
/// all have come at once.
fn period(name: IfName) -> Duration {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    Duration::from_secs(PERIOD + hasher.finish() % (PERIOD / 3))
}

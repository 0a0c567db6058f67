//! The responder's thread: waits on all taps' sockets, and on the clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use l2isolate_kernel::packet::{FRAME, Solicitations};
use l2isolate_model::{IfName, guest::ipv6::Answers};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::EventFd,
};
use tracing::{debug, warn};

use super::{Counters, Local, Order, nd, respond};

/// Frames of one tap in a row, then it is others' turn.
const ROW: u32 = 16;
/// How long a guest that asks too often isn't heard.
const MUTE: Duration = Duration::from_millis(100);
/// Between the first advertisements, and how many there are (RFC 4861, 10).
const INITIAL: Duration = Duration::from_secs(16);
const INITIALS: u32 = 3;
/// Between two advertisements at least; the most is a third more.
const PERIOD: u64 = 450;
/// Before a socket that can't be opened is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// The event that isn't a tap's.
const WAKE: u64 = u64::MAX;

pub(super) struct Worker {
    local: Local,
    rate: u32,
    orders: Receiver<Order>,
    wake: Arc<EventFd>,
    counters: Arc<Counters>,
    epoll: Epoll,
    taps: HashMap<u64, Tap>,
    names: BTreeMap<IfName, u64>,
    next: u64,
    /// What is due when: the tap's number; and the same by tap.
    clock: BTreeSet<(Instant, u64, Due)>,
    due: BTreeMap<(u64, Due), Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Advertise,
    Listen,
    Open,
}

impl Due {
    const ALL: [Self; 3] = [Self::Advertise, Self::Listen, Self::Open];
}

struct Tap {
    name: IfName,
    index: u32,
    answers: Arc<Answers>,
    socket: Option<Solicitations>,
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
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self {
            local,
            rate: rate.max(1),
            orders,
            wake,
            counters,
            epoll,
            taps: HashMap::new(),
            names: BTreeMap::new(),
            next: 0,
            clock: BTreeSet::new(),
            due: BTreeMap::new(),
        })
    }

    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        let mut buffer = [0; FRAME];
        while self.take_orders() {
            let now = Instant::now();
            let wait = self
                .clock
                .first()
                .map(|(at, ..)| at.saturating_duration_since(now));
            let timeout = match wait {
                // Rounded up: waking early would only mean waiting again.
                Some(wait) => EpollTimeout::try_from(wait + Duration::from_millis(1))
                    .unwrap_or(EpollTimeout::ZERO),
                None => EpollTimeout::NONE,
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => {
                    warn!(%error, "solicitations can't be waited for; nobody is answered any more");
                    return;
                }
            };
            for event in events.iter().take(count) {
                match event.data() {
                    WAKE => drop(self.wake.read()),
                    number => self.hear(number, &mut buffer),
                }
            }
            self.strike(Instant::now());
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
        let known = self.names.get(&name).copied();
        if let Some(tap) = known.and_then(|number| self.taps.get_mut(&number))
            && tap.index == index
        {
            let news = tap.answers.router != answers.router;
            tap.answers = answers;
            if news {
                tap.advertised = 0;
                self.schedule(known.unwrap_or(WAKE), now, Due::Advertise);
            }
            return;
        }
        self.remove(name);
        let number = self.next;
        self.next += 1;
        let tap = Tap {
            name,
            index,
            answers,
            socket: None,
            left: self.rate * 2,
            refilled: now,
            advertised: 0,
        };
        self.taps.insert(number, tap);
        self.names.insert(name, number);
        self.open(number, now);
        self.schedule(number, now, Due::Advertise);
    }

    fn remove(&mut self, name: IfName) {
        let Some(number) = self.names.remove(&name) else {
            return;
        };
        // With its socket it leaves the epoll set.
        self.taps.remove(&number);
        for due in Due::ALL {
            self.unschedule(number, due);
        }
    }

    fn schedule(&mut self, number: u64, at: Instant, due: Due) {
        self.unschedule(number, due);
        self.clock.insert((at, number, due));
        self.due.insert((number, due), at);
    }

    fn unschedule(&mut self, number: u64, due: Due) {
        if let Some(at) = self.due.remove(&(number, due)) {
            self.clock.remove(&(at, number, due));
        }
    }

    fn open(&mut self, number: u64, now: Instant) {
        let Some(tap) = self.taps.get_mut(&number) else {
            return;
        };
        let opened = Solicitations::open(tap.index).and_then(|socket| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
            self.epoll.add(socket.as_fd(), event)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => tap.socket = Some(socket),
            Err(error) => {
                // Mostly it has gone again, and we are about to hear of it.
                debug!(tap = %tap.name, %error, "solicitations can't be heard; will try again");
                self.schedule(number, now + AGAIN, Due::Open);
            }
        }
    }

    /// Answers what a tap's guest has asked.
    fn hear(&mut self, number: u64, buffer: &mut [u8; FRAME]) {
        let now = Instant::now();
        let rate = self.rate;
        let Some(tap) = self.taps.get_mut(&number) else {
            return;
        };
        tap.refill(now, rate);
        let Some(socket) = &tap.socket else { return };
        for _ in 0..ROW {
            if tap.left == 0 {
                self.counters.limited.fetch_add(1, Ordering::Relaxed);
                // Its queue fills, and nobody looks at it.
                let _ = self.epoll.delete(socket.as_fd());
                self.schedule(number, now + MUTE, Due::Listen);
                return;
            }
            // An error is the device's, going down or away; then there is
            // nothing to answer.
            let Ok(Some(frame)) = socket.next(buffer) else {
                return;
            };
            tap.left -= 1;
            let counter = match respond(&self.local, &tap.answers, frame) {
                Some(answer) => {
                    // A guest that doesn't take its answers in asks again.
                    let _ = socket.send(&answer);
                    &self.counters.answered
                }
                None => &self.counters.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Does what is due.
    fn strike(&mut self, now: Instant) {
        while let Some((at, number, due)) = self.clock.first().copied() {
            if at > now {
                return;
            }
            self.unschedule(number, due);
            match due {
                Due::Open => self.open(number, now),
                Due::Listen => {
                    if let Some(socket) = self.taps.get(&number).and_then(|tap| tap.socket.as_ref())
                    {
                        let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
                        let _ = self.epoll.add(socket.as_fd(), event);
                    }
                }
                Due::Advertise => self.advertise(number, now),
            }
        }
    }

    fn advertise(&mut self, number: u64, now: Instant) {
        let Some(tap) = self.taps.get_mut(&number) else {
            return;
        };
        let (Some(router), Some(socket)) = (&tap.answers.router, &tap.socket) else {
            return;
        };
        // Whether somebody hears it is as uncertain as ever.
        let _ = socket.send(&nd::unsolicited(&self.local, router));
        tap.advertised += 1;
        let wait = if tap.advertised < INITIALS {
            INITIAL
        } else {
            period(tap.name)
        };
        self.schedule(number, now + wait, Due::Advertise);
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

//! A guest's network interface as QEMU has it: the guest's frames are read from and
//! written to a host's tap by this process, as long as the guest runs there.
//!
//! The guest's side is a tap as well, `eth0` of its namespace, which stays whatever
//! the guest does: a guest doesn't notice where it is. While it is stopped nobody
//! reads from any of them, and their queues keep what comes, as they do for QEMU.
//!
//! Owns a thread, which ends with it.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread::{self, JoinHandle},
};

use l2isolate_kernel::tap::Tap;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use crate::{Error, Result, netns};

/// Longest frame, in bytes: taps without offload have no longer ones than their MTU.
const FRAME: usize = 16 << 10;
/// Frames that are taken from one side before the other has its turn.
const AT_ONCE: usize = 64;

/// A tap that is open, by whoever needs it.
pub type Open = Arc<Tap>;

/// Opens a tap; one that isn't there is made, and goes when it is closed.
///
/// # Errors
/// It is open already, or the caller isn't root.
pub fn open(namespace: &str, tap: &str) -> Result<Open> {
    let what = || format!("opening the tap {tap} in namespace {namespace}");
    let name = tap
        .parse()
        .map_err(|error| Error::Program(format!("{}: {error}", what())))?;
    let opened = netns::inside(namespace, || Tap::open(name))?;
    opened.map(Arc::new).map_err(Error::io(what()))
}

/// A guest's interface.
#[derive(Debug)]
pub struct Nic {
    /// `None` once it ends.
    orders: Option<Sender<Order>>,
    given: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told; it answers when it is done.
struct Order {
    what: What,
    done: Sender<io::Result<()>>,
}

enum What {
    Stop,
    /// Behind this tap, where this frame is the first one.
    Run(Open, Vec<u8>),
    /// A frame.
    Say(Vec<u8>),
}

impl Nic {
    /// The interface of a guest, which is stopped; `guest` is its side.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(guest: Open) -> Result<Self> {
        let what = || Error::io("a guest's network interface");
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let given = EventFd::from_flags(flags).map_err(|e| what()(e.into()))?;
        let given = Arc::new(given);
        let (orders, received) = mpsc::channel();
        let thread = thread::Builder::new().name("nic".to_owned()).spawn({
            let given = Arc::clone(&given);
            move || carry(&guest, &given, &received)
        });
        Ok(Self {
            orders: Some(orders),
            given,
            thread: Some(thread.map_err(what())?),
        })
    }

    /// The guest stops. Once this has returned no frame passes any more.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn stop(&self) -> Result<()> {
        self.order(What::Stop)
    }

    /// The guest runs behind this tap from now on, and this is the first frame there.
    ///
    /// # Errors
    /// The frame can't be sent.
    pub fn run(&self, host: Open, first: Vec<u8>) -> Result<()> {
        self.order(What::Run(host, first))
    }

    /// Puts a frame on the tap behind which the guest runs, as if it had sent it.
    ///
    /// # Errors
    /// It is stopped, or the kernel refuses.
    pub fn say(&self, frame: Vec<u8>) -> Result<()> {
        self.order(What::Say(frame))
    }

    fn order(&self, what: What) -> Result<()> {
        let ended = || Error::Program("a guest's network interface has ended".to_owned());
        let (done, answer) = mpsc::channel();
        let orders = self.orders.as_ref().ok_or_else(ended)?;
        orders.send(Order { what, done }).map_err(|_| ended())?;
        self.wake();
        let answer = answer.recv().map_err(|_| ended())?;
        answer.map_err(Error::io("a guest's frame"))
    }

    fn wake(&self) {
        // It fails if the thread is to wake already.
        let _ = self.given.write(1);
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        self.orders = None;
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A panic has been shown.
            let _ = thread.join();
        }
    }
}

/// Carries frames between the guest's side and the tap behind which it runs, until
/// nobody can give orders any more.
fn carry(guest: &Tap, given: &EventFd, orders: &Receiver<Order>) {
    let mut host: Option<Open> = None;
    let mut frame = vec![0; FRAME];
    loop {
        let mut sides = vec![PollFd::new(given.as_fd(), PollFlags::POLLIN)];
        if let Some(host) = &host {
            let both =
                [guest, host.as_ref()].map(|side| PollFd::new(side.as_fd(), PollFlags::POLLIN));
            sides.extend(both);
        }
        // Whatever it says, what is tried then says more.
        let _ = poll(&mut sides, PollTimeout::NONE);
        let _ = given.read();
        loop {
            match orders.try_recv() {
                Ok(Order { what, done }) => {
                    // Who doesn't wait for it doesn't need it.
                    let _ = done.send(obey(&mut host, what));
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        if let Some(there) = &host {
            let both = pass(guest, there, &mut frame) && pass(there, guest, &mut frame);
            if !both {
                host = None;
            }
        }
    }
}

fn obey(host: &mut Option<Open>, what: What) -> io::Result<()> {
    let frame = match what {
        What::Stop => {
            *host = None;
            return Ok(());
        }
        What::Run(tap, first) => {
            *host = Some(tap);
            first
        }
        What::Say(frame) => frame,
    };
    let stopped = || io::Error::from(io::ErrorKind::NotConnected);
    let host = host.as_ref().ok_or_else(stopped)?;
    host.send(&frame)
}

/// Takes frames from one side to the other; false: one of them was deleted. What the
/// other side has no room for is lost, as on any wire.
fn pass(from: &Tap, to: &Tap, frame: &mut [u8]) -> bool {
    for _ in 0..AT_ONCE {
        match from.receive(frame) {
            Ok(length) => {
                let frame = frame.get(..length).unwrap_or_default();
                let _ = to.send(frame);
            }
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

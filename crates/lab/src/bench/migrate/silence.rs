//! For how long a guest answers nobody, wherever it runs: seen on its taps, before any
//! network. No network can make a blackout shorter than that.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    Error, Result,
    fabric::Vm,
    frames::{self, Receives},
    lab::Lab,
    netns,
    timed::{self, Received},
};

/// As much of a frame as is read: Ethernet, IPv6, ICMPv6's type.
const HEAD: usize = 55;
/// Where an echo reply differs from other frames (RFC 792, RFC 4443): EtherType, the
/// protocol, the type; each with its place.
const REPLY4: [(usize, &[u8]); 3] = [(12, &[0x08, 0x00]), (23, &[1]), (34, &[0])];
const REPLY6: [(usize, &[u8]); 3] = [(12, &[0x86, 0xdd]), (20, &[58]), (54, &[129])];

/// Listens on taps of a guest.
#[derive(Debug)]
pub(super) struct Silence {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Heard>>>,
}

/// What was heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Heard {
    replies: u64,
    last: Duration,
    longest: Duration,
    /// Frames for which there was no room.
    dropped: u32,
}

impl Silence {
    /// Listens for the guest's echo replies on its taps at these hosts.
    ///
    /// # Errors
    /// There is no such tap, or it can't be listened on.
    pub(super) fn start(lab: &Lab, vm: &Vm, hosts: &[&str]) -> Result<Self> {
        let own = vm.hardware_address()?;
        let listen = |host: &&str| {
            let socket = netns::inside(&lab.namespace(host), || {
                frames::open(&vm.tap, Receives::All).and_then(timed::prepare)
            })?;
            socket.map_err(Error::io(format!("listening on {} at {host}", vm.tap)))
        };
        let sockets: Vec<OwnedFd> = hosts.iter().map(listen).collect::<Result<_>>()?;
        let done = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("silence".to_owned()).spawn({
            let done = Arc::clone(&done);
            move || hear(&sockets, own, &done)
        });
        Ok(Self {
            done,
            thread: Some(thread.map_err(Error::io("starting a thread"))?),
        })
    }

    /// The longest time between two replies.
    ///
    /// # Errors
    /// There were no two, or not all were heard.
    pub(super) fn stop(mut self) -> Result<Duration> {
        let wrong = |what: String| Error::Program(format!("listening on a guest's taps: {what}"));
        self.done.store(true, Ordering::Release);
        let heard = self.thread.take().map(JoinHandle::join);
        let heard = heard
            .transpose()
            .map_err(|_| wrong("a thread panicked".to_owned()))?;
        let heard = heard
            .transpose()
            .map_err(Error::io("listening on a guest's taps"))?;
        match heard.unwrap_or_default() {
            Heard { dropped, .. } if dropped > 0 => Err(wrong(format!(
                "{dropped} frames were missed; the machine is too busy"
            ))),
            Heard { replies, .. } if replies < 2 => Err(wrong("it answers nobody".to_owned())),
            heard => Ok(heard.longest),
        }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

fn hear(sockets: &[OwnedFd], own: [u8; 6], done: &AtomicBool) -> io::Result<Heard> {
    let mut heard = Heard::default();
    while !done.load(Ordering::Acquire) {
        let sides = sockets.iter();
        let mut sides: Vec<_> = sides
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut sides, PollTimeout::from(100u8)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for socket in sockets {
            while take(socket, own, &mut heard)? {}
        }
    }
    Ok(heard)
}

/// Takes one frame off a socket, if there is one.
fn take(socket: &OwnedFd, own: [u8; 6], heard: &mut Heard) -> io::Result<bool> {
    let mut frame = [0; HEAD];
    let mut dropped = 0;
    let received = timed::receive(socket, &mut frame, &mut dropped)?;
    heard.dropped = heard.dropped.max(dropped);
    let Some(Received { time, .. }) = received else {
        return Ok(false);
    };
    if let Some(time) = time.filter(|_| is_reply(&frame, own)) {
        if heard.replies > 0 {
            heard.longest = heard.longest.max(time.saturating_sub(heard.last));
        }
        heard.replies += 1;
        heard.last = time;
    }
    Ok(true)
}

fn is_reply(frame: &[u8], own: [u8; 6]) -> bool {
    let has = |parts: [(usize, &[u8]); 3]| {
        let mut parts = parts.into_iter();
        parts.all(|(at, bytes)| frame.get(at..at + bytes.len()) == Some(bytes))
    };
    frame.get(6..12) == Some(&own) && (has(REPLY4) || has(REPLY6))
}

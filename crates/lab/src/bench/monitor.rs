//! A listener of its own to what a namespace's kernel announces, by rtnetlink or
//! by nfnetlink: what changes, and when.
//!
//! The time of a message is when the listener's thread has taken it, which is
//! never before the change itself; both ends of every measured interval are
//! taken the same way.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
        setsockopt, socket, sockopt::RcvBufForce,
    },
};

use crate::{Error, Result, netns};

/// Receive queue; the resync bench makes some ten thousand messages at once.
const QUEUE: usize = 64 << 20;
const DATAGRAM: usize = 64 * 1024;

/// What to listen to.
pub(super) struct Feed<N> {
    pub(super) protocol: SockProtocol,
    /// Multicast groups, by number.
    pub(super) groups: &'static [u32],
    /// All messages of a datagram that matter.
    pub(super) read: fn(&[u8]) -> Vec<N>,
}

/// A message with its time.
#[derive(Debug)]
pub(super) struct Event<N> {
    pub(super) at: Instant,
    pub(super) news: N,
}

/// The listener; its thread ends with it.
#[derive(Debug)]
pub(super) struct Monitor<N> {
    events: Receiver<io::Result<Event<N>>>,
    stop: Arc<AtomicBool>,
}

impl<N: Send + 'static> Monitor<N> {
    /// Listens to a namespace.
    ///
    /// # Errors
    /// The socket or the thread can't be made.
    pub(super) fn open(namespace: &str, feed: Feed<N>) -> Result<Self> {
        let (protocol, groups) = (feed.protocol, feed.groups);
        let socket = netns::inside(namespace, || open(protocol, groups))?
            .map_err(Error::errno(format!("netlink socket in {namespace}")))?;
        let (sender, events) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::Builder::new()
            .name("bench monitor".to_owned())
            .spawn(move || {
                // Nobody left to tell: the bench has ended.
                let _ = listen(&socket, feed.read, &stopped, &sender);
            })
            .map_err(Error::io("starting a thread"))?;
        Ok(Self { events, stop })
    }

    /// The next event, if one comes within `limit`.
    ///
    /// # Errors
    /// Messages were lost: what was measured is worth nothing.
    pub(super) fn next(&self, limit: Duration) -> Result<Option<Event<N>>> {
        match self.events.recv_timeout(limit) {
            Ok(event) => event
                .map(Some)
                .map_err(Error::io("listening to the kernel's messages")),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Program(
                "the listener to the kernel's messages has ended".to_owned(),
            )),
        }
    }
}

impl<N> Drop for Monitor<N> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn open(protocol: SockProtocol, groups: &[u32]) -> nix::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    setsockopt(&socket, RcvBufForce, &QUEUE)?;
    let groups = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

fn listen<N>(
    socket: &OwnedFd,
    read: fn(&[u8]) -> Vec<N>,
    stop: &AtomicBool,
    sender: &Sender<io::Result<Event<N>>>,
) -> Result<(), mpsc::SendError<io::Result<Event<N>>>> {
    let mut buffer = vec![0; DATAGRAM];
    while !stop.load(Ordering::Acquire) {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if matches!(poll(&mut fds, PollTimeout::from(100u8)), Ok(0)) {
            continue;
        }
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return sender.send(Err(error.into())),
        };
        let at = Instant::now();
        for news in read(buffer.get(..length).unwrap_or_default()) {
            sender.send(Ok(Event { at, news }))?;
        }
    }
    Ok(())
}

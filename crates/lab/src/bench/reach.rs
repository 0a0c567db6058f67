//! The first answer from the other rack.
//!
//! The far VM echoes. The new VM sends it a packet every millisecond until one
//! comes back: the way there is the hypervisor's default route and known from
//! the start, the way back is the new address's, which has to travel through
//! the fabric first.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    Error, Result,
    fabric::{Family, Vm},
    lab::Lab,
    netns, process,
};

/// Port of the far VM that echoes.
const PORT: u16 = 7;
/// Longest wait for the first answer.
const LIMIT: Duration = Duration::from_secs(20);

/// The far VM's echo; ends with this.
pub(super) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it in the VM's namespace.
    ///
    /// # Errors
    /// The socket can't be made.
    pub(super) fn start(lab: &Lab, vm: &Vm) -> Result<Self> {
        let socket = bind(lab, vm, PORT)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("bench echo".to_owned())
            .spawn(move || {
                let mut data = [0; 64];
                while !stopped.load(Ordering::Acquire) {
                    if !readable(&socket, 100) {
                        continue;
                    }
                    // Errors are ICMP's answers to earlier echoes: the way
                    // back isn't there yet.
                    if let Ok((length, from)) = socket.recv_from(&mut data) {
                        let _ = socket.send_to(data.get(..length).unwrap_or_default(), from);
                    }
                }
            })
            .map_err(Error::io("starting a thread"))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends from `vm` to `far` every millisecond; gives the time of the first
/// answer.
///
/// # Errors
/// None comes.
pub(super) fn first_answer(lab: &Lab, vm: &Vm, far: &Vm) -> Result<Instant> {
    let socket = bind(lab, vm, 0)?;
    let target = SocketAddr::new(far.address(Family::V4), PORT);
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if process::interrupted() {
            return Err(Error::Interrupted);
        }
        // What can't be sent yet is sent again.
        let _ = socket.send_to(b"are you there?", target);
        if readable(&socket, 1) && socket.recv_from(&mut [0; 64]).is_ok() {
            return Ok(Instant::now());
        }
    }
    Err(Error::Timeout {
        what: "an answer from the other rack",
        seconds: LIMIT.as_secs(),
        missing: format!("{} to {}", far.name, vm.name),
    })
}

fn bind(lab: &Lab, vm: &Vm, port: u16) -> Result<UdpSocket> {
    let address = SocketAddr::new(vm.address(Family::V4), port);
    let make = || {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    netns::inside(&lab.namespace(&vm.name), make)?
        .map_err(Error::io(format!("UDP socket {address} in {}", vm.name)))
}

fn readable(socket: &UdpSocket, ms: u8) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::from(ms)), Ok(n) if n > 0)
}

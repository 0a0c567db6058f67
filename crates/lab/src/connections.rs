//! TCP connections between two VMs, held by this process: whether they live on.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    Error, Result,
    fabric::{Family, Vm},
    lab::Lab,
    netns,
};

/// How long a connection may take to carry a byte before it counts as broken: TCP
/// doubles its pauses while a guest is stopped.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the stream writes at once, and how long it then waits: some 100 Mbit/s,
/// which leaves the machine to what is measured.
const CHUNK: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(5);

/// Connections that are open, and a stream that flows.
#[derive(Debug)]
pub struct Connections {
    pairs: Vec<(TcpStream, TcpStream)>,
    stream: Stream,
}

#[derive(Debug)]
struct Stream {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Connections {
    /// Opens `count` connections from one VM to another, families by turns, and
    /// has a stream flow from the one to the other beside them.
    ///
    /// # Errors
    /// One can't be opened.
    pub fn open(lab: &Lab, from: &Vm, to: &Vm, count: usize) -> Result<Self> {
        let what = || Error::io(format!("TCP from {} to {}", from.name, to.name));
        let mut listeners = Vec::new();
        for family in Family::ALL {
            let address = SocketAddr::new(to.address(family), 0);
            let listener = netns::inside(&lab.namespace(&to.name), || TcpListener::bind(address))?;
            listeners.push(listener.map_err(what())?);
        }
        let open = |listener: &TcpListener| -> Result<(TcpStream, TcpStream)> {
            let address = listener.local_addr().map_err(what())?;
            let near = netns::inside(&lab.namespace(&from.name), || {
                TcpStream::connect_timeout(&address, PATIENCE)
            })?;
            let near = near.map_err(what())?;
            let (far, _) = listener.accept().map_err(what())?;
            for end in [&near, &far] {
                end.set_nodelay(true).map_err(what())?;
                end.set_read_timeout(Some(PATIENCE)).map_err(what())?;
                end.set_write_timeout(Some(PATIENCE)).map_err(what())?;
            }
            Ok((near, far))
        };
        let turns = listeners.iter().cycle();
        let pairs: Result<Vec<_>> = turns.take(count).map(open).collect();
        let [.., last] = listeners.as_slice() else {
            return Err(Error::Program("there is no family".to_owned()));
        };
        Ok(Self {
            pairs: pairs?,
            stream: Stream::start(open(last)?)?,
        })
    }

    /// How many of them no longer carry a byte each way.
    pub fn broken(&mut self) -> usize {
        let carries = |(near, far): &mut (TcpStream, TcpStream)| -> io::Result<()> {
            let mut byte = [0];
            near.write_all(b"a")?;
            far.read_exact(&mut byte)?;
            far.write_all(b"b")?;
            near.read_exact(&mut byte)
        };
        let tried = self.pairs.iter_mut().map(carries);
        tried.filter(io::Result::is_err).count()
    }

    /// Ends the stream: how many bytes it has carried, and whether it broke.
    ///
    /// # Errors
    /// A thread of it panicked.
    pub fn close(self) -> Result<(u64, bool)> {
        let Stream {
            stop,
            received,
            threads,
        } = self.stream;
        stop.store(true, Ordering::Release);
        let mut broken = false;
        for thread in threads {
            let panicked = |_| Error::Program("a thread of the stream panicked".to_owned());
            broken |= thread.join().map_err(panicked)?.is_err();
        }
        Ok((received.load(Ordering::Acquire), broken))
    }
}

impl Stream {
    fn start((mut near, mut far): (TcpStream, TcpStream)) -> Result<Self> {
        let (stop, received) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let writer = {
            let stop = Arc::clone(&stop);
            move || {
                let chunk = vec![7; CHUNK];
                while !stop.load(Ordering::Acquire) {
                    near.write_all(&chunk)?;
                    thread::sleep(PAUSE);
                }
                near.shutdown(std::net::Shutdown::Write)
            }
        };
        let reader = {
            let received = Arc::clone(&received);
            move || {
                let mut chunk = vec![0; CHUNK];
                loop {
                    let length = far.read(&mut chunk)?;
                    if length == 0 {
                        return Ok(());
                    }
                    received.fetch_add(length.try_into().unwrap_or_default(), Ordering::AcqRel);
                }
            }
        };
        let spawn = |work: Box<dyn FnOnce() -> io::Result<()> + Send>| {
            let named = thread::Builder::new().name("stream".to_owned());
            named.spawn(work).map_err(Error::io("starting a thread"))
        };
        let threads = vec![spawn(Box::new(writer))?, spawn(Box::new(reader))?];
        Ok(Self {
            stop,
            received,
            threads,
        })
    }
}

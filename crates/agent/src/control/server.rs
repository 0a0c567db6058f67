//! The agent's side of the socket.
//!
//! Each connection has a thread of its own, few at a time and with time-outs:
//! a client that says nothing, or reads nothing, holds up only itself.

use std::{
    fs,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use tracing::{debug, warn};

use super::{Answer, MAX_REQUEST, Request};

/// How long a client may take for its request, and for reading the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients served at once; further ones are turned away.
const CLIENTS: usize = 16;

/// A question on its way to the event loop, and where the answer goes.
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) reply: Sender<Answer>,
}

/// The listening socket; its file goes when this is dropped.
pub(crate) struct Server {
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "can't remove the socket");
        }
    }
}

/// Listens at `path`; `wake` is called after each question.
///
/// # Errors
/// The socket can't be made, or another agent answers on it.
pub(crate) fn listen(
    path: &Path,
    wake: impl Fn() + Send + Sync + 'static,
) -> anyhow::Result<(Server, Receiver<Pending>)> {
    let listener = bind(path).with_context(|| format!("control socket {}", path.display()))?;
    let (questions, receiver) = mpsc::channel();
    let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
    let busy = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if busy.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
                    busy.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let (questions, wake, busy) =
                    (questions.clone(), Arc::clone(&wake), Arc::clone(&busy));
                let client = move || {
                    if let Err(error) = serve(&stream, &questions, wake.as_ref()) {
                        debug!(%error, "control connection");
                    }
                    busy.fetch_sub(1, Ordering::Relaxed);
                };
                if let Err(error) = std::thread::Builder::new()
                    .name("control-client".to_owned())
                    .spawn(client)
                {
                    warn!(%error, "can't serve a control connection");
                }
            }
        })?;
    Ok((
        Server {
            path: path.to_owned(),
        },
        receiver,
    ))
}

fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("directory {}", directory.display()))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("a file that is no socket is in the way; remove it")
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!("another agent answers there; end it first")
        }
        // Left behind by an agent that was killed.
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

fn serve(
    mut stream: &UnixStream,
    questions: &Sender<Pending>,
    wake: &(dyn Fn() + Send + Sync),
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_REQUEST)).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => ask(request, questions, wake),
        Err(error) => Answer::Error(format!("no request that this agent knows: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    stream.write_all(&text)
}

fn ask(request: Request, questions: &Sender<Pending>, wake: &(dyn Fn() + Send + Sync)) -> Answer {
    let (reply, answer) = mpsc::channel();
    if questions.send(Pending { request, reply }).is_err() {
        return Answer::Error("the agent is ending".to_owned());
    }
    wake();
    answer
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Answer::Error("the agent is too busy to answer".to_owned()))
}

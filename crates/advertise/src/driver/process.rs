//! Programs that are run for an answer, and may hang.

use std::{
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::memfd::{MFdFlags, memfd_create},
};

use super::PATIENCE;

/// What a program left.
pub(super) struct Output {
    pub(super) success: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Output {
    /// The last line that says something.
    pub(super) fn last_words(&self) -> &str {
        let lines = self.stdout.lines().chain(self.stderr.lines());
        lines
            .map(str::trim)
            .rfind(|line| !line.is_empty())
            .unwrap_or("nothing")
    }
}

/// Runs a program, at most for [`PATIENCE`]. `input` is a file in memory as its
/// standard input, which it may open anew by name (`/dev/stdin`) as any user.
pub(super) fn run(command: &mut Command, input: Option<&str>) -> io::Result<Output> {
    match input {
        Some(text) => {
            let mut file = std::fs::File::from(memfd_create("input", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(text.as_bytes())?;
            file.rewind()?;
            command.stdin(file);
        }
        None => {
            command.stdin(Stdio::null());
        }
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let result = read(&mut child);
    if result.is_err() {
        // It may have ended by itself meanwhile.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let [stdout, stderr] = result?;
    Ok(Output {
        success: status.success(),
        stdout,
        stderr,
    })
}

/// Both outputs, until both are closed.
fn read(child: &mut Child) -> io::Result<[String; 2]> {
    let end = Instant::now() + PATIENCE;
    let (mut stdout, mut stderr) = match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), Some(stderr)) => (stdout, stderr),
        _ => return Err(io::Error::other("no pipes")),
    };
    let mut texts = [Vec::new(), Vec::new()];
    let mut open = [true, true];
    let mut buffer = vec![0; 65536];
    while open.contains(&true) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let what = format!("no answer within {} s", PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        let [out, err] = open;
        let mut fds = Vec::new();
        if out {
            fds.push(PollFd::new(stdout.as_fd(), PollFlags::POLLIN));
        }
        if err {
            fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLIN));
        }
        match poll(
            &mut fds,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        ) {
            Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let ready = [
            out && ready.next().unwrap_or(false),
            err && ready.next().unwrap_or(false),
        ];
        drop(fds);
        for (place, text) in texts.iter_mut().enumerate() {
            if !ready.get(place).copied().unwrap_or(false) {
                continue;
            }
            let count = match place {
                0 => stdout.read(&mut buffer)?,
                _ => stderr.read(&mut buffer)?,
            };
            if count == 0
                && let Some(open) = open.get_mut(place)
            {
                *open = false;
            }
            text.extend(buffer.iter().take(count));
        }
    }
    Ok(texts.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

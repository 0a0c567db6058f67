//! Files that are there whole, or as they were.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// Writes a file aside and renames it in, readable for all: whoever opens it
/// has all of it. Not for what must outlive a power failure.
///
/// # Errors
/// It can't be written; then nothing is left beside it.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, |_| Ok(()))
}

/// The same, and on the disk when it returns: after a power failure it is the
/// new one.
///
/// # Errors
/// As [`replace`].
pub fn replace_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, File::sync_all)?;
    // Its name as well.
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn write(path: &Path, content: &[u8], sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".aside");
    let written = File::create(&aside)
        .and_then(|mut file| file.write_all(content).and_then(|()| sync(&file)))
        .and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // Most often the medium is full.
        let _ = fs::remove_file(&aside);
    }
    written
}

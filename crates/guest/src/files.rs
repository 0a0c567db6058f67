//! Files that others read: a directory for each service, a file for each
//! object, written aside and renamed in.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown, fchown},
    path::PathBuf,
    sync::Arc,
};

use std::io::Write as _;

use l2isolate_model::guest::{Key, Name, Objects, Service, Value};

/// A directory of files, and who else may read them.
#[derive(Debug, Clone)]
pub struct Directory {
    /// For whom.
    pub service: Service,
    /// Where.
    pub path: PathBuf,
    /// The group that may read it, by number; absent: everybody may.
    pub group: Option<u32>,
}

impl Directory {
    fn modes(&self) -> (u32, u32) {
        match self.group {
            Some(_) => (0o750, 0o640),
            None => (0o755, 0o644),
        }
    }
}

/// The directories.
#[derive(Debug)]
pub(crate) struct Files {
    directories: Vec<Directory>,
}

impl Files {
    /// Makes the directories that aren't there.
    pub(crate) fn new(directories: Vec<Directory>) -> io::Result<Self> {
        directories.iter().try_for_each(make)?;
        Ok(Self { directories })
    }

    fn of(&self, service: Service) -> io::Result<&Directory> {
        let mut all = self.directories.iter();
        all.find(|directory| directory.service == service)
            .ok_or_else(|| io::Error::other("nobody is there to read it"))
    }

    /// Everything in the directories.
    pub(crate) fn observe(&self) -> io::Result<Objects> {
        let mut objects = Objects::new();
        for directory in &self.directories {
            let service = &directory.service;
            // Somebody may have taken it away.
            make(directory)?;
            for entry in fs::read_dir(&directory.path)? {
                let entry = entry?;
                let file_name = entry.file_name();
                let Some(name) = file_name.to_str() else {
                    continue;
                };
                // What was being written when an agent was killed.
                if name.starts_with('.') {
                    // Gone already is as good.
                    let _ = fs::remove_file(entry.path());
                    continue;
                }
                let value = match fs::read_to_string(entry.path()) {
                    Ok(text) => Value::Content(text.into()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(_) => Value::Other,
                };
                objects.insert(Key::File(*service, name.into()), value);
            }
        }
        Ok(objects)
    }

    /// Writes a file whole: readers see the old one or the new one.
    pub(crate) fn write(
        &self,
        service: Service,
        name: &Name,
        content: &Arc<str>,
    ) -> io::Result<()> {
        let directory = self.of(service)?;
        let aside = directory.path.join(format!(".{name}"));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(directory.modes().1)
            .open(&aside)?;
        if directory.group.is_some() {
            fchown(&file, None, directory.group)?;
        }
        file.write_all(content.as_bytes())?;
        drop(file);
        let path = directory.path.join(name.as_ref());
        match fs::rename(&aside, &path) {
            // Nobody writes directories here; one that is in the way goes.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                fs::remove_dir(&path)?;
                fs::rename(&aside, &path)
            }
            other => other,
        }
    }

    /// Removes a file; that it isn't there is as good.
    pub(crate) fn remove(&self, service: Service, name: &Name) -> io::Result<()> {
        let path = self.of(service)?.path.join(name.as_ref());
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(&path),
            other => other,
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Makes a directory, if it isn't there.
fn make(directory: &Directory) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(directory.modes().0)
        .create(&directory.path)?;
    match directory.group {
        Some(group) => chown(&directory.path, None, Some(group)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is observed; leftovers and what is no text are seen and
    /// cleared; a directory that vanishes comes back.
    #[test]
    fn what_is_written_is_observed() {
        let root = tempfile::TempDir::new().unwrap();
        let directory = |service: Service| Directory {
            service,
            path: root.path().join(service.directory()),
            group: None,
        };
        let files = Files::new([Service::Hosts, Service::Options].map(directory).into()).unwrap();
        let name: Name = "p1".into();
        files.write(Service::Hosts, &name, &"one\n".into()).unwrap();
        files.write(Service::Hosts, &name, &"two\n".into()).unwrap();
        fs::write(root.path().join("hosts/.p2"), "half").unwrap();
        fs::write(root.path().join("options/junk"), [0xff, 0xfe]).unwrap();
        let found = files.observe().unwrap();
        let expected = Objects::from([
            (
                Key::File(Service::Hosts, name.clone()),
                Value::Content("two\n".into()),
            ),
            (Key::File(Service::Options, "junk".into()), Value::Other),
        ]);
        assert_eq!(found, expected);
        assert!(!root.path().join("hosts/.p2").exists());
        files.remove(Service::Options, &"junk".into()).unwrap();
        files.remove(Service::Hosts, &name).unwrap();
        files.remove(Service::Hosts, &name).unwrap();
        assert_eq!(files.observe().unwrap(), Objects::new());
        fs::remove_dir(root.path().join("hosts")).unwrap();
        assert_eq!(files.observe().unwrap(), Objects::new());
        files
            .write(Service::Hosts, &name, &"three\n".into())
            .unwrap();
    }
}

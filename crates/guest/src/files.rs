//! Files that others read: a directory for each service, a file for each
//! object, written aside and renamed in.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use std::io::Write as _;

use l2isolate_model::guest::{Key, Name, Objects, Service, Value};

/// Programs with users of their own read them; nothing in them is secret.
const DIRECTORY: u32 = 0o755;
const FILE: u32 = 0o644;

/// The directories.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    services: Vec<Service>,
}

impl Files {
    /// Makes the directories that aren't there.
    pub(crate) fn new(directory: &Path, services: &[Service]) -> io::Result<Self> {
        let files = Self {
            directory: directory.to_owned(),
            services: services.to_vec(),
        };
        for service in services {
            files.make(*service)?;
        }
        Ok(files)
    }

    fn make(&self, service: Service) -> io::Result<()> {
        let path = self.below(service);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY)
            .create(path)
    }

    fn below(&self, service: Service) -> PathBuf {
        self.directory.join(service.directory())
    }

    /// Everything in the directories.
    pub(crate) fn observe(&self) -> io::Result<Objects> {
        let mut objects = Objects::new();
        for service in &self.services {
            // Somebody may have taken it away.
            self.make(*service)?;
            for entry in fs::read_dir(self.below(*service))? {
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
        let directory = self.below(service);
        let aside = directory.join(format!(".{name}"));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE)
            .open(&aside)?;
        file.write_all(content.as_bytes())?;
        drop(file);
        let path = directory.join(name.as_ref());
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
        let path = self.below(service).join(name.as_ref());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is observed; leftovers and what is no text are seen and
    /// cleared; a directory that vanishes comes back.
    #[test]
    fn what_is_written_is_observed() {
        let root = tempfile::TempDir::new().unwrap();
        let files = Files::new(root.path(), &[Service::Hosts, Service::Options]).unwrap();
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

//! The end of labs: in order, by a holder's end, or after a crash.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{GRACE, Lab, Plan, progress};
use crate::{
    Error, Result, daemon, netns,
    process::{self, Identity},
    state::{self, Directory},
    wiring::Names,
};

/// Takes a lab down in whatever state it is: ends the processes in its
/// namespaces, removes the namespaces and the directory.
///
/// # Errors
/// There is nothing of that name, or something can't be removed.
pub fn down(name: &str) -> Result<()> {
    let lock = state::lock()?;
    down_locked(name, &lock)
}

fn down_locked(name: &str, lock: &state::Lock) -> Result<()> {
    let directory = Directory::of(name)?;
    let namespaces = netns::list(Names::of(name).prefix())?;
    if namespaces.is_empty() && !directory.path().exists() {
        return Err(Error::NoLab(name.to_owned()));
    }
    let by_node: HashMap<String, Vec<Identity>> = process::in_namespaces(&namespaces)?;
    // This process itself may have a socket there, but is not of the lab.
    let own = std::process::id();
    let processes: Vec<Identity> = by_node
        .into_values()
        .flatten()
        .filter(|p| p.pid != own)
        .collect();
    if !process::end(&processes, GRACE) {
        return Err(Error::Program(format!(
            "lab `{name}`: some of its processes can't be killed; try again"
        )));
    }
    for process in &processes {
        daemon::sweep(*process);
    }
    netns::delete(&namespaces)?;
    directory.remove(lock)
}

/// Takes down all labs whose owner has died; returns their names.
///
/// # Errors
/// One can't be taken down.
pub fn down_dead() -> Result<Vec<String>> {
    let mut gone = Vec::new();
    if state::labs()?.is_empty() {
        return Ok(gone);
    }
    let lock = state::lock()?;
    for name in state::labs()? {
        let Ok(directory) = Directory::of(&name) else {
            continue;
        };
        // Without a state nobody can tell; it may be coming up just now.
        let Ok(Some(state)) = directory.load(&name) else {
            continue;
        };
        if state.owner.is_some_and(|owner| !owner.lives()) {
            down_locked(&name, &lock)?;
            gone.push(name);
        }
    }
    Ok(gone)
}

/// A lab that goes with its holder, also when a test panics.
#[derive(Debug)]
pub struct Guard {
    lab: Lab,
    done: bool,
}

impl Guard {
    /// Builds a lab to be held; `plan.owned` is taken as true.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up(plan: Plan) -> Result<Self> {
        let plan = Plan {
            owned: true,
            ..plan
        };
        Ok(Self {
            lab: Lab::up(plan)?,
            done: false,
        })
    }

    /// Takes the lab down and says whether that went well.
    ///
    /// # Errors
    /// As [`down`].
    pub fn down(mut self) -> Result<()> {
        self.done = true;
        down(&self.lab.name)
    }
}

impl std::ops::Deref for Guard {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Err(error) = down(&self.lab.name) {
            progress(&format!("taking lab `{}` down: {error}", self.lab.name));
        }
    }
}

/// A name for a lab that nobody else will choose: for demos and tests.
#[must_use]
pub fn unique_name(kind: &str) -> String {
    // Two threads may ask in the same microsecond.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    const COUNTS: u32 = 256;
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed) % COUNTS;
    let number = since.subsec_micros() / COUNTS * COUNTS + count;
    format!("{kind}{:x}{number:x}", std::process::id())
}

//! `l2isolate-lab neutron …`.

use std::{io::Write as _, process::ExitCode};

use clap::Subcommand;

use super::{Options, Release, Rig};
use crate::{
    Error, Result,
    lab::{self, Guard, Lab, Plan, unique_name},
    process,
    topology::{self, Topology},
};

/// A Neutron in a lab.
#[derive(Debug, Subcommand)]
pub enum Neutron {
    /// Start one with an empty database, and link the lab's hypervisors to it;
    /// without a lab of that name, one that consists of the Neutron alone.
    Up {
        /// Which release.
        #[arg(long, value_enum, default_value = "21")]
        release: Release,
    },
    /// End it; what it knew is gone.
    Down,
    /// Show how it is and where, as JSON.
    Status,
    /// Run a command in its namespace.
    Exec {
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Start one for a single command, run it in its namespace, end everything.
    Run {
        /// Which release.
        #[arg(long, value_enum, default_value = "21")]
        release: Release,
        /// The command; it finds what it needs to know in its environment.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

impl Neutron {
    /// Does it, in the lab `name`.
    ///
    /// # Errors
    /// As the library's functions.
    pub fn run(self, name: &str) -> Result<ExitCode> {
        match self {
            Self::Up { release } => {
                process::watch_signals()?;
                up(name, Options::new(release)?)
            }
            Self::Down => down(name),
            Self::Status => status(name),
            Self::Exec { command } => execute(&Rig::open(&Lab::open(name)?)?, &command),
            Self::Run { release, command } => {
                process::watch_signals()?;
                let options = Options::new(release)?;
                let lab = Guard::up(Plan {
                    name: unique_name("neutron"),
                    ..alone(true)
                })?;
                let code = Rig::up(&lab, options).and_then(|rig| {
                    let code = execute(&rig, &command);
                    if !matches!(code, Ok(ExitCode::SUCCESS)) {
                        lab::progress(&format!("errors in Neutron's logs:\n{}", rig.errors()));
                    }
                    rig.down().and(code)
                });
                lab.down()?;
                code
            }
        }
    }
}

/// A lab that has nothing but a Neutron.
fn alone(owned: bool) -> Plan {
    Plan {
        name: String::new(),
        topology: Topology {
            nodes: Vec::new(),
            links: Vec::new(),
            options: topology::Options::default(),
        },
        agent: None,
        owned,
    }
}

fn up(name: &str, options: Options) -> Result<ExitCode> {
    let (lab, made) = match Lab::open(name) {
        Err(Error::NoLab(_)) => {
            let plan = Plan {
                name: name.to_owned(),
                ..alone(false)
            };
            (Lab::up(plan)?, true)
        }
        lab => (lab?, false),
    };
    match Rig::up(&lab, options) {
        Err(error) if made => {
            lab::down(name)?;
            return Err(error);
        }
        rig => rig?,
    };
    status(name)
}

fn down(name: &str) -> Result<ExitCode> {
    let lab = Lab::open(name)?;
    Rig::open(&lab)?.down()?;
    if lab.fabric().nodes.is_empty() {
        lab::down(name)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(name: &str) -> Result<ExitCode> {
    let status = Rig::open(&Lab::open(name)?)?.status()?;
    let text = serde_json::to_string_pretty(&status)
        .map_err(|e| Error::Program(format!("a status has no JSON form: {e}")))?;
    writeln!(std::io::stdout(), "{text}").map_err(Error::io("writing to standard output"))?;
    let good = status.answers && status.missing.is_empty();
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn execute(rig: &Rig, command: &[String]) -> Result<ExitCode> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Error::Program("no command given".to_owned()))?;
    let mut child = rig
        .command(program)
        .args(arguments)
        .spawn()
        .map_err(Error::io(format!("running {program}")))?;
    loop {
        let done = child
            .try_wait()
            .map_err(Error::io(format!("waiting for {program}")))?;
        if let Some(status) = done {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(ExitCode::from(code.unwrap_or(1)));
        }
        if process::sleep(std::time::Duration::from_millis(50)).is_err() {
            // Ends with everything else in the namespace.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Interrupted);
        }
    }
}

//! A real Neutron in a lab: neutron-server with the l2isolate drivers, its
//! MariaDB and its RabbitMQ, in a namespace of their own.
//!
//! The namespace is called as if it were a node of the lab, so the lab's `down`
//! ends it with everything else, also after a crash. Its address is the same in
//! every lab; hypervisors reach it by a link of its own for each, beside the
//! fabric, as a management network would be ([`Rig::attach`]).
//!
//! Who calls its API needs no credentials (`auth_strategy=noauth`) and is
//! administrator. What Nova would be told goes to [`NOVA_PORT`] of the same
//! address, where a test may listen.
//!
//! What can break it: the programs of other releases of Neutron ([`Release`]
//! has what differs), and MariaDB's options.

mod api;
mod command;
mod config;
mod database;
mod release;
mod server;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

pub use api::Answer;
pub use command::Neutron as Command;
use database::Database;
pub use release::{Programs, Release};
use serde::{Deserialize, Serialize};
use server::Server;

use crate::{
    Error, Result, agent,
    broker::{self, Broker},
    lab::{Lab, timed},
    netns,
    process::{self, Identity},
    state::replace,
    topology::Role,
};

/// Name of the namespace, as a node of the lab.
pub const NODE: &str = "neutron";
/// The address of API and broker (RFC 2544's range, which no fabric uses).
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The API's port.
pub const API_PORT: u16 = 9696;
/// Where Nova's API would be.
pub const NOVA_PORT: u16 = 8774;
/// Name of a hypervisor's interface to Neutron.
pub const MANAGEMENT: &str = "mgmt";
/// Hypervisors' addresses on their links, numbers from 1 on are added.
const HYPERVISORS: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);
const FILE: &str = "rig.json";
const GRACE: Duration = Duration::from_secs(15);

/// The mechanism driver that binds ports to hypervisors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    /// Ours, with networks of type `routed`.
    L2isolate,
    /// Neutron's linuxbridge, for comparison: flat networks on `physnet1`. The
    /// oldest release only.
    Linuxbridge,
}

impl Mechanism {
    /// To which its agents send.
    fn queues(self) -> &'static [&'static str] {
        match self {
            Self::L2isolate => &["l2isolate", "q-plugin", "q-reports-plugin"],
            Self::Linuxbridge => &["q-plugin", "q-reports-plugin"],
        }
    }
}

/// How a Neutron shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Which one.
    pub release: Release,
    /// Where programs and drivers are.
    pub programs: Programs,
    /// What binds ports.
    pub mechanism: Mechanism,
    /// Processes that serve the API.
    pub api_workers: u16,
    /// Processes that serve agents.
    pub rpc_workers: u16,
    /// After how many seconds without report an agent is dead.
    pub agent_down_time: u32,
}

impl Options {
    /// Two workers of each kind, with programs and drivers where
    /// `scripts/neutron-env` puts them.
    ///
    /// # Errors
    /// They aren't there.
    pub fn new(release: Release) -> Result<Self> {
        Ok(Self {
            release,
            programs: Programs::find(release)?,
            mechanism: Mechanism::L2isolate,
            api_workers: 2,
            rpc_workers: 2,
            agent_down_time: 75,
        })
    }
}

/// A lab's Neutron.
#[derive(Debug, Clone)]
pub struct Rig {
    namespace: String,
    directory: PathBuf,
    options: Options,
}

/// How a Neutron is.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its release.
    pub release: Release,
    /// Its namespace.
    pub namespace: String,
    /// The API's address.
    pub api: String,
    /// The `transport_url` of agents.
    pub transport_url: String,
    /// Whether the API answers.
    pub answers: bool,
    /// What doesn't run of what should.
    pub missing: Vec<String>,
}

impl Rig {
    /// Starts a Neutron with an empty database in a lab, and links the lab's
    /// hypervisors to it. What was started is ended again if something fails.
    ///
    /// # Errors
    /// A program is missing, the lab has a Neutron already, or something
    /// doesn't start: with the end of its log.
    pub fn up(lab: &Lab, options: Options) -> Result<Self> {
        options.programs.check()?;
        let rig = Self {
            namespace: lab.namespace(NODE),
            directory: lab.directory(NODE),
            options,
        };
        std::fs::create_dir(&rig.directory).map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                return Error::Program(format!("lab `{}` has a Neutron already", lab.name()));
            }
            Error::file(&rig.directory)(error)
        })?;
        if let Err(error) = rig.build(lab) {
            rig.down()?;
            return Err(error);
        }
        Ok(rig)
    }

    /// The Neutron that a lab has.
    ///
    /// # Errors
    /// It has none.
    pub fn open(lab: &Lab) -> Result<Self> {
        let directory = lab.directory(NODE);
        let file = directory.join(FILE);
        let text = std::fs::read_to_string(&file).map_err(|_| {
            Error::Program(format!(
                "lab `{0}` has no Neutron; `l2isolate-lab neutron up --name {0}` starts one",
                lab.name()
            ))
        })?;
        let options = serde_json::from_str(&text)
            .map_err(|e| Error::Program(format!("{}: {e}", file.display())))?;
        Ok(Self {
            namespace: lab.namespace(NODE),
            directory,
            options,
        })
    }

    fn build(&self, lab: &Lab) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.options)
            .map_err(|e| Error::Program(format!("options have no JSON form: {e}")))?;
        replace(&self.directory.join(FILE), &text)?;
        netns::create(std::slice::from_ref(&self.namespace))?;
        let lines = format!("link set lo up\naddress add {ADDRESS}/32 dev lo\n");
        netns::batch(Some(&self.namespace), &lines)?;
        let hypervisors = lab.fabric().role(Role::Hypervisor);
        for (number, node) in (1..).zip(hypervisors) {
            self.attach(&lab.namespace(&node.name), number)?;
        }
        let broker = Broker::configure(
            &self.namespace,
            &self.directory.join("rabbitmq"),
            broker_options(),
        )?;
        config::write(self)?;
        let database = self.database();
        timed("RabbitMQ, MariaDB with Neutron's tables", || {
            thread::scope(|scope| {
                let other = scope.spawn(|| broker.start());
                let mine = database.make().and_then(|()| database.fill(self));
                match other.join() {
                    Ok(result) => result.and(mine),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            })
        })?;
        let what = format!("Neutron {} started", self.options.release);
        timed(&what, || self.start_servers())
    }

    /// Links a namespace to Neutron's: interface [`MANAGEMENT`] there, and a
    /// route to [`ADDRESS`]. `number`, from 1 on, is another one for each.
    ///
    /// # Errors
    /// The interface is there already, or there is no such namespace.
    pub fn attach(&self, namespace: &str, number: u16) -> Result<()> {
        let address = Ipv4Addr::from(u32::from(HYPERVISORS) + u32::from(number));
        netns::batch(
            None,
            &format!(
                "link add name {MANAGEMENT} netns {namespace} type veth \
                 peer name hv{number} netns {}\n",
                self.namespace
            ),
        )?;
        netns::batch(
            Some(namespace),
            &format!(
                "address add {address}/32 dev {MANAGEMENT}\nlink set {MANAGEMENT} up\n\
                 route add {ADDRESS}/32 dev {MANAGEMENT} src {address}\n"
            ),
        )?;
        netns::batch(
            Some(&self.namespace),
            &format!("link set hv{number} up\nroute add {address}/32 dev hv{number}\n"),
        )
    }

    /// Hands the lab's agents over: their intent comes from this Neutron from now
    /// on. `more` are further lines for `[l2isolate]` of their configuration.
    ///
    /// # Errors
    /// A configuration can't be written, or an agent can't be started anew.
    pub fn drive(&self, lab: &Lab, more: &str) -> Result<()> {
        let url = self.transport_url();
        for node in lab.fabric().role(Role::Hypervisor) {
            agent::configure_for_neutron(node, &lab.agent_files(&node.name), &url, more)?;
            lab.kill(&node.name, agent::PROGRAM)?;
            lab.restart(&node.name)?;
        }
        Ok(())
    }

    /// Starts the servers that don't run, and waits until API and RPC serve.
    ///
    /// # Errors
    /// One ends, or doesn't serve in time: with the end of its log.
    pub fn start_servers(&self) -> Result<()> {
        let servers = self.servers();
        for server in &servers {
            server.start()?;
        }
        server::wait(self, &servers)
    }

    /// Ends the servers in order; broker and database go on.
    ///
    /// # Errors
    /// One can't be ended.
    pub fn stop_servers(&self) -> Result<()> {
        self.servers().iter().try_for_each(Server::stop)
    }

    /// Kills the servers, all their workers at once, with SIGKILL.
    ///
    /// # Errors
    /// One can't be killed.
    pub fn kill_servers(&self) -> Result<()> {
        self.servers().iter().try_for_each(Server::kill)
    }

    /// Ends everything: servers first, since one without broker doesn't end in
    /// order.
    ///
    /// # Errors
    /// Something can't be ended or removed.
    pub fn down(&self) -> Result<()> {
        let namespaces = std::slice::from_ref(&self.namespace);
        if netns::identity(&self.namespace).is_ok() {
            self.stop_servers()?;
            let own = std::process::id();
            let mut left: Vec<Identity> = process::in_namespaces(namespaces)?
                .into_values()
                .flatten()
                .collect();
            // This process may have threads or sockets there.
            left.retain(|process| process.pid != own);
            if !process::end(&left, GRACE) {
                return Err(Error::Program(format!(
                    "processes in namespace {} can't be ended",
                    self.namespace
                )));
            }
            netns::delete(namespaces)?;
        }
        std::fs::remove_dir_all(&self.directory).map_err(Error::file(&self.directory))
    }

    /// How it is.
    ///
    /// # Errors
    /// Its namespace can't be entered.
    pub fn status(&self) -> Result<Status> {
        let mut missing = Vec::new();
        if self.broker().process().is_none() {
            missing.push("RabbitMQ".to_owned());
        }
        if self.database().process().is_none() {
            missing.push("MariaDB".to_owned());
        }
        for server in self.servers() {
            if server.process().is_none() {
                missing.push(server.name().to_owned());
            }
        }
        Ok(Status {
            release: self.options.release,
            namespace: self.namespace.clone(),
            api: self.api(),
            transport_url: self.transport_url(),
            answers: server::answers(self)?,
            missing,
        })
    }

    /// Asks the API: `path` begins after `/v2.0/`.
    ///
    /// # Errors
    /// Nobody answers, or no HTTP. What the API refuses is an answer.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer> {
        let socket = (ADDRESS, API_PORT).into();
        netns::inside(&self.namespace, || {
            api::ask(socket, method, &format!("/v2.0/{path}"), body)
        })?
    }

    /// What the servers logged as errors, the last of it: for whoever has to
    /// find out why a test failed.
    #[must_use]
    pub fn errors(&self) -> String {
        let of = |server: &Server<'_>| format!("{}:\n{}\n", server.name(), server.errors());
        self.servers().iter().map(of).collect()
    }

    /// Runs SQL in Neutron's database, and returns what it prints.
    ///
    /// # Errors
    /// The database refuses it.
    pub fn sql(&self, statement: &str) -> Result<String> {
        self.database().run(statement)
    }

    /// A command in Neutron's namespace with what a client needs to know in its
    /// environment: `NEUTRON_RELEASE`, `NEUTRON_API`, `NEUTRON_TRANSPORT_URL`,
    /// `NEUTRON_DATABASE` (MariaDB's socket), `NEUTRON_PYTHON`.
    #[must_use]
    pub fn command(&self, program: &str) -> std::process::Command {
        let mut command = netns::command(&self.namespace, program);
        command
            .env("NEUTRON_RELEASE", self.options.release.to_string())
            .env("NEUTRON_API", self.api())
            .env("NEUTRON_TRANSPORT_URL", self.transport_url())
            .env("NEUTRON_DATABASE", self.database().socket())
            .env("NEUTRON_PYTHON", self.options.programs.python());
        command
    }

    /// Where the API is, with its version.
    #[must_use]
    pub fn api(&self) -> String {
        format!("http://{ADDRESS}:{API_PORT}/v2.0")
    }

    /// The `transport_url` of servers and agents.
    #[must_use]
    pub fn transport_url(&self) -> String {
        self.broker().url(ADDRESS.into())
    }

    /// Its broker.
    #[must_use]
    pub fn broker(&self) -> Broker {
        let directory = self.directory.join("rabbitmq");
        Broker::open(&self.namespace, &directory, broker_options())
    }

    /// Where it runs.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its configuration and logs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How it is meant to be.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    fn database(&self) -> Database {
        Database::new(&self.namespace, &self.directory.join("mariadb"))
    }

    fn servers(&self) -> Vec<Server<'_>> {
        Server::all(self)
    }
}

fn broker_options() -> broker::Options {
    broker::Options {
        addresses: vec![IpAddr::V4(ADDRESS), Ipv4Addr::LOCALHOST.into()],
        ..broker::Options::default()
    }
}

//! A guest that moves from one hypervisor to another while it runs, as Nova and
//! QEMU have it move: a tap at the destination, the bindings of both hosts, the
//! guest stops here and goes on there, its old tap goes.
//!
//! The guest stays one namespace. Its interface is a bridge with a port for
//! each host; the port that nothing closes is where it runs. So neither its
//! addresses nor its connections notice, a stopped guest's tap keeps its carrier
//! as QEMU's does, and the move itself is one transaction. A third
//! port, to nowhere, keeps the guest's carrier, and so its neighbour cache.

use std::{
    io,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket},
};
use serde_json::{Value, json};

use crate::{
    Error, Result, agent, fabric::Vm, lab::Lab, netns, process, topology::Role, wiring::guest_lines,
};

/// Has all hypervisors of a lab send what still arrives for guests that have left
/// after them. Their agents are started anew.
///
/// # Errors
/// The lab has no agents, or one doesn't start.
pub fn follow(lab: &Lab) -> Result<()> {
    for node in lab.fabric().role(Role::Hypervisor) {
        agent::with_tunnel(node, &lab.agent_files(&node.name))?;
        lab.kill(&node.name, agent::PROGRAM)?;
        lab.restart(&node.name)?;
    }
    Ok(())
}

/// The document that holds the guest's port.
const DOCUMENT: &str = "moving";
/// How long the kernel may take to tell a bridge of a port's carrier.
const CARRIER: Duration = Duration::from_secs(10);
const BROADCAST: [u8; 6] = [0xff; 6];
const RARP: [u8; 2] = [0x80, 0x35];

/// A guest that can move.
#[derive(Debug)]
pub struct Mobile<'a> {
    lab: &'a Lab,
    /// The guest; `host` is where it was at first.
    pub vm: Vm,
    /// Where it runs, or ran when it was stopped.
    pub at: String,
    /// Its port's security groups; the next document of it says so.
    pub groups: Vec<String>,
    namespace: String,
    revision: u64,
    /// Number of the port of its bridge, with the host it leads to.
    ports: Vec<(u32, String)>,
    made: u32,
}

impl<'a> Mobile<'a> {
    /// The port of one of the lab's guests, with a document of its own; what is
    /// behind its taps is the caller's.
    ///
    /// # Errors
    /// There is no such guest.
    pub fn port_of(lab: &'a Lab, name: &str) -> Result<Self> {
        let vm = lab.fabric().vm(name)?.clone();
        let mut mobile = Self {
            lab,
            at: vm.host.clone(),
            groups: vec![agent::GROUP.to_owned()],
            namespace: lab.namespace(&vm.name),
            revision: 1,
            ports: vec![(0, vm.host.clone())],
            made: 0,
            vm,
        };
        mobile.bind(&mobile.at.clone(), "active", None)?;
        // The document of all ports of that host no longer has it.
        let others: Vec<&Vm> = lab
            .fabric()
            .vms_on(&mobile.vm.host)
            .filter(|other| other.name != mobile.vm.name)
            .collect();
        let files = lab.agent_files(&mobile.vm.host);
        agent::write_intent(&files, "ports", &agent::ports(&others))?;
        Ok(mobile)
    }

    /// Makes a guest of the lab one that can move. Its interface is away for a
    /// moment.
    ///
    /// # Errors
    /// There is no such guest, or it can't be rebuilt.
    pub fn new(lab: &'a Lab, name: &str) -> Result<Self> {
        let mobile = Self::port_of(lab, name)?;
        let mac = &mobile.vm.mac;
        let lines = format!(
            "address flush dev eth0\n\
             link set eth0 down\n\
             link set eth0 name host0\n\
             link set host0 address {}\n\
             link add eth0 address {mac} type bridge stp_state 0\n\
             link add idle0 type veth peer name idle1\n\
             link set idle0 master eth0\n\
             link set idle0 up\n\
             link set idle1 up\n\
             link set host0 master eth0\n\
             {}\
             link set host0 up\n",
            port_mac(0),
            unlearned(0),
        );
        netns::batch(Some(&mobile.namespace), &lines)?;
        mobile.quiet(0)?;
        netns::batch(Some(&mobile.namespace), &guest_lines(&mobile.vm))?;
        Ok(mobile)
    }

    /// A port of the bridge has nothing to say of its own.
    fn quiet(&self, number: u32) -> Result<()> {
        let key = format!("ipv6.conf.host{number}.disable_ipv6");
        netns::sysctl(&self.namespace, &[(&key, "1")])
    }

    /// The document of its port at a host; `peer` is the host at the other end of
    /// the migration.
    ///
    /// # Errors
    /// It can't be written.
    pub fn bind(&mut self, host: &str, state: &str, peer: Option<&str>) -> Result<()> {
        self.revision += 1;
        let mut port = agent::port(&self.vm, self.revision, &self.groups);
        let mut binding = json!({ "state": state });
        if let (Some(peer), Some(fields)) = (peer, binding.as_object_mut()) {
            let address = self.lab.fabric().node(peer)?.loopback4;
            fields.insert("peer".to_owned(), json!(address));
        }
        if let Some(fields) = port.as_object_mut() {
            fields.insert("binding".to_owned(), binding);
        }
        let document = json!({"version": 1, "ports": [port]});
        agent::write_intent(&self.lab.agent_files(host), DOCUMENT, &document)
    }

    /// The port is no longer bound to a host.
    ///
    /// # Errors
    /// It wasn't.
    pub fn unbind(&self, host: &str) -> Result<()> {
        let path = self.lab.agent_files(host).intent();
        let path = path.join(format!("{DOCUMENT}.json"));
        std::fs::remove_file(&path).map_err(Error::file(&path))
    }

    /// Makes the guest's tap at another host, with its far end open, as QEMU has it
    /// while it waits for the guest.
    ///
    /// # Errors
    /// There is one already.
    pub fn plug(&mut self, host: &str) -> Result<()> {
        self.made += 1;
        let number = self.made;
        let tap = &self.vm.tap;
        let made = format!(
            "link add name {tap} netns {} type veth peer name host{number} netns {} address {}\n",
            self.lab.namespace(host),
            self.namespace,
            port_mac(number),
        );
        netns::batch(None, &made)?;
        self.quiet(number)?;
        nft(&self.namespace, &stopped(number))?;
        let device = format!("host{number}");
        let attach = format!(
            "link set {device} master eth0\n{}link set {device} up\n",
            unlearned(number)
        );
        netns::batch(Some(&self.namespace), &attach)?;
        let up = format!("link set {tap} up\n");
        netns::batch(Some(&self.lab.namespace(host)), &up)?;
        self.lab.until("carrier of a new tap", CARRIER, || {
            let text = netns::ip(&self.namespace, &["-d", "link", "show", "dev", &device])?;
            let forwards = text.contains("state forwarding");
            Ok((!forwards).then_some(text).into_iter().collect())
        })?;
        self.ports.push((number, host.to_owned()));
        Ok(())
    }

    /// Deletes its tap at a host.
    ///
    /// # Errors
    /// There is none.
    pub fn unplug(&mut self, host: &str) -> Result<()> {
        self.ports.retain(|(_, at)| at != host);
        let line = format!("link del {}\n", self.vm.tap);
        netns::batch(Some(&self.lab.namespace(host)), &line)
    }

    fn port(&self, host: &str) -> Result<u32> {
        let port = self.ports.iter().find(|(_, at)| at == host);
        port.map(|(number, _)| *number)
            .ok_or_else(|| Error::Program(format!("{} has no tap at {host}", self.vm.name)))
    }

    /// The guest stops: its tap stays open, and nobody reads from it.
    ///
    /// # Errors
    /// It has no tap there.
    pub fn stop(&self) -> Result<()> {
        nft(&self.namespace, &stopped(self.port(&self.at)?))
    }

    /// The guest goes on at a host, and says so as QEMU does for it (RARP).
    ///
    /// # Errors
    /// It has no tap there.
    pub fn resume(&mut self, host: &str) -> Result<()> {
        nft(&self.namespace, &going_on(self.port(host)?))?;
        host.clone_into(&mut self.at);
        self.say(RARP, &rarp(&self.mac_bytes()?))
    }

    /// Stops and goes on elsewhere, at once.
    ///
    /// # Errors
    /// As [`Self::resume`].
    pub fn jump(&mut self, host: &str) -> Result<()> {
        let frame = rarp(&self.mac_bytes()?);
        let (from, to) = (self.port(&self.at)?, self.port(host)?);
        let lines = stopped(from) + &going_on(to);
        nft(&self.namespace, &lines)?;
        host.clone_into(&mut self.at);
        self.say(RARP, &frame)
    }

    /// Tells a host's agent, as libvirt's helper does, that the guest has `stopped`
    /// there to go on elsewhere, or has `resumed` there. Gives the state that the
    /// agent has it in then; null if it makes nothing of it.
    ///
    /// # Errors
    /// It can't be told.
    pub fn tell(&self, host: &str, event: &str) -> Result<Value> {
        let subject = json!({"instance": self.vm.port});
        let request = json!({"verb": "guest", "event": event, "subject": subject});
        let answer = agent::tell(&self.lab.agent_files(host), &request)?;
        Ok(answer.pointer("/0/migration").cloned().unwrap_or_default())
    }

    /// The guest says where it is, as QEMU does for it (RARP).
    ///
    /// # Errors
    /// It can't be sent.
    pub fn announce(&self) -> Result<()> {
        self.say(RARP, &rarp(&self.mac_bytes()?))
    }

    fn mac_bytes(&self) -> Result<[u8; 6]> {
        let parsed = self.vm.mac.parse::<l2isolate_model::Mac>();
        let mac = parsed.map_err(|error| Error::Program(error.to_string()))?;
        Ok(mac.bytes())
    }

    /// Broadcasts a frame from the guest's interface.
    ///
    /// # Errors
    /// It can't be sent.
    pub fn say(&self, kind: [u8; 2], payload: &[u8]) -> Result<()> {
        let own = self.mac_bytes()?;
        let mut frame = Vec::from(BROADCAST);
        frame.extend(own);
        frame.extend(kind);
        frame.extend(payload);
        netns::inside(&self.namespace, || broadcast("eth0", &frame))?
            .map_err(Error::io(format!("sending a frame from {}", self.vm.name)))
    }

    /// The whole of a migration as it should go: both ends are told, the guest
    /// moves once all is ready and known (`settle` later), the destination is told
    /// that it has it, the source that it hasn't.
    ///
    /// # Errors
    /// A step fails, or an agent doesn't come to it within `limit`.
    pub fn migrate(&mut self, to: &str, settle: Duration, limit: Duration) -> Result<()> {
        let from = self.begin(to, limit)?;
        process::sleep(settle)?;
        self.jump(to)?;
        self.end(&from, limit)
    }

    /// Up to where the guest moves; gives where it is.
    ///
    /// # Errors
    /// As [`Self::migrate`].
    pub fn begin(&mut self, to: &str, limit: Duration) -> Result<String> {
        let from = self.at.clone();
        self.bind(to, "incoming", Some(&from))?;
        self.plug(to)?;
        self.until(to, "incoming", limit)?;
        self.bind(&from, "outgoing", Some(to))?;
        self.until(&from, "outgoing", limit)?;
        Ok(from)
    }

    /// From when the guest has moved.
    ///
    /// # Errors
    /// As [`Self::migrate`].
    pub fn end(&mut self, from: &str, limit: Duration) -> Result<()> {
        let at = self.at.clone();
        self.bind(&at, "active", None)?;
        self.until(&at, "active", limit)?;
        self.unplug(from)?;
        self.unbind(from)
    }

    /// Waits until a host's agent has its part of a binding in place.
    ///
    /// # Errors
    /// It hasn't, within `limit`.
    pub fn until(&self, host: &str, binding: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let port = self.seen_by(host)?;
            let is = |field, word: &str| port.get(field).is_some_and(|value| value == word);
            if is("state", "wired") && is("binding", binding) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Error::Timeout {
                    what: "wiring of a migrating guest",
                    seconds: limit.as_secs(),
                    missing: format!("{binding} at {host}: {port}"),
                });
            }
            process::sleep(Duration::from_millis(20))?;
        }
    }

    /// What a host's agent says of the guest's port; null: nothing, or it doesn't
    /// answer.
    ///
    /// # Errors
    /// The lab has no agents.
    pub fn seen_by(&self, host: &str) -> Result<Value> {
        let missing = || Error::Program("the lab has no agents".to_owned());
        let binary = self.lab.agent_binary().ok_or_else(missing)?;
        let answer = agent::ask(binary, &self.lab.agent_files(host), "ports");
        let ports = answer.unwrap_or_default();
        let ports = ports.as_array().into_iter().flatten();
        let own = ports.into_iter().find(|port| {
            port.get("id")
                .is_some_and(|id| *id == self.vm.port.as_str())
        });
        Ok(own.cloned().unwrap_or_default())
    }
}

/// A port learns nothing: the gateway has the same hardware address behind all of
/// them.
fn unlearned(number: u32) -> String {
    format!("link set host{number} type bridge_slave learning off\n")
}

/// Nothing passes by the port, either way. A table of the guest's own does that: it
/// is one transaction for two ports, and neither a carrier that comes nor the
/// kernel's wait for its readers has a say in it, as with the bridge's own means.
fn stopped(number: u32) -> String {
    let chain = |way: &str, hook: &str| {
        format!(
            "add chain netdev moving {way}{number} {{ type filter hook {hook} device \
             \"host{number}\" priority 0; policy drop; }}\n"
        )
    };
    let chains = [chain("to", "egress"), chain("from", "ingress")].concat();
    format!("add table netdev moving\n{chains}")
}

fn going_on(number: u32) -> String {
    format!("delete chain netdev moving to{number}\ndelete chain netdev moving from{number}\n")
}

fn nft(namespace: &str, text: &str) -> Result<()> {
    let what = || format!("nft {text}");
    let output = netns::command(namespace, "nft")
        .arg(text)
        .output()
        .map_err(Error::io(what()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: what(),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn port_mac(number: u32) -> String {
    let [_, _, high, low] = number.to_be_bytes();
    format!("02:4c:32:00:{high:02x}:{low:02x}")
}

/// A RARP request of one's own address (RFC 903), as QEMU sends it.
fn rarp(own: &[u8; 6]) -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 3];
    for _ in 0..2 {
        payload.extend(own);
        payload.extend([0; 4]);
    }
    payload.resize(46, 0);
    payload
}

fn broadcast(device: &str, frame: &[u8]) -> io::Result<()> {
    let link = getifaddrs()?.find_map(|interface| {
        let address = interface.address?;
        let link = address.as_link_addr()?;
        (interface.interface_name == device).then_some(*link)
    });
    let link = link.ok_or(Errno::ENODEV)?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    bind(socket.as_raw_fd(), &link)?;
    send(socket.as_raw_fd(), frame, MsgFlags::empty())?;
    Ok(())
}

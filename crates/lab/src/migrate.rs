//! A guest that moves from one hypervisor to another while it runs, as Nova and
//! QEMU have it move: a tap at the destination, the bindings of both hosts, the
//! guest stops here and goes on there, its old tap goes.
//!
//! The guest stays one namespace, and its interface is [`Nic`]'s: taps that are made
//! and opened as libvirt and QEMU do it, and whose queues keep what comes while the
//! guest is stopped.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Error, Result, agent,
    fabric::Vm,
    lab::Lab,
    netns,
    nic::{self, Nic, Open},
    process,
    topology::Role,
    wiring::guest_lines,
};

/// Has all hypervisors of a lab send what still arrives for guests that have left
/// after them. Their agents are started anew.
///
/// # Errors
/// The lab has no agents, or one doesn't start.
pub fn follow(lab: &Lab) -> Result<()> {
    for node in lab.fabric().role(Role::Hypervisor) {
        agent::with_tunnel(&lab.agent_files(&node.name))?;
        lab.kill(&node.name, agent::PROGRAM)?;
        lab.restart(&node.name)?;
    }
    Ok(())
}

/// The document that holds the guest's port.
const DOCUMENT: &str = "moving";
/// Ethernet's shortest frame without its checksum, in bytes.
const SHORTEST: usize = 60;
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
    revision: u64,
    nic: Option<Nic>,
    /// Its taps that are open, by host.
    taps: BTreeMap<String, Open>,
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
            revision: 1,
            nic: None,
            taps: BTreeMap::new(),
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
        let mut mobile = Self::port_of(lab, name)?;
        let namespace = lab.namespace(name);
        let host = mobile.at.clone();
        mobile.unplug(&host)?;
        let made = format!(
            "tuntap add dev eth0 mode tap\nlink set dev eth0 address {}\n",
            mobile.vm.mac
        );
        netns::batch(Some(&namespace), &made)?;
        mobile.nic = Some(Nic::start(nic::open(&namespace, "eth0")?)?);
        netns::batch(Some(&namespace), &guest_lines(&mobile.vm))?;
        mobile.plug(&host)?;
        mobile.resume(&host)?;
        Ok(mobile)
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

    /// Makes the guest's tap at a host, as libvirt does: persistent, up, and without
    /// carrier until it is opened.
    ///
    /// # Errors
    /// There is one already.
    pub fn make_tap(&self, host: &str) -> Result<()> {
        let tap = &self.vm.tap;
        let lines = format!("tuntap add dev {tap} mode tap\nlink set dev {tap} up\n");
        netns::batch(Some(&self.lab.namespace(host)), &lines)
    }

    /// Makes the guest's tap at a host and opens it, as QEMU has it while it waits
    /// for the guest.
    ///
    /// # Errors
    /// There is one already.
    pub fn plug(&mut self, host: &str) -> Result<()> {
        self.make_tap(host)?;
        let tap = nic::open(&self.lab.namespace(host), &self.vm.tap)?;
        self.taps.insert(host.to_owned(), tap);
        Ok(())
    }

    /// Deletes its tap at a host.
    ///
    /// # Errors
    /// There is none.
    pub fn unplug(&mut self, host: &str) -> Result<()> {
        self.taps.remove(host);
        if let Some(nic) = self.nic.as_ref().filter(|_| self.at == host) {
            nic.stop()?;
        }
        let line = format!("link del {}\n", self.vm.tap);
        netns::batch(Some(&self.lab.namespace(host)), &line)
    }

    fn nic(&self) -> Result<&Nic> {
        let nobody = || Error::Program(format!("{} can't move", self.vm.name));
        self.nic.as_ref().ok_or_else(nobody)
    }

    fn tap(&self, host: &str) -> Result<Open> {
        let tap = self.taps.get(host).cloned();
        tap.ok_or_else(|| Error::Program(format!("{} has no tap at {host}", self.vm.name)))
    }

    /// The guest stops: its tap stays open, and nobody reads from it.
    ///
    /// # Errors
    /// It isn't one that can move.
    pub fn stop(&self) -> Result<()> {
        self.nic()?.stop()
    }

    /// The guest goes on at a host, and QEMU says so for it (RARP): its first frame
    /// there.
    ///
    /// # Errors
    /// It has no tap there.
    pub fn resume(&mut self, host: &str) -> Result<()> {
        self.nic()?.run(self.tap(host)?, self.rarp()?)?;
        host.clone_into(&mut self.at);
        Ok(())
    }

    /// Stops and goes on elsewhere, at once.
    ///
    /// # Errors
    /// As [`Self::resume`].
    pub fn jump(&mut self, host: &str) -> Result<()> {
        self.stop()?;
        self.resume(host)
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
    /// It is stopped.
    pub fn announce(&self) -> Result<()> {
        self.nic()?.say(self.rarp()?)
    }

    /// A RARP request of one's own address, broadcast (RFC 903), as QEMU sends it.
    fn rarp(&self) -> Result<Vec<u8>> {
        let own = self.vm.hardware_address()?;
        let mut frame = [&BROADCAST[..], &own, &RARP].concat();
        frame.extend([0, 1, 8, 0, 6, 4, 0, 3]);
        for _ in 0..2 {
            frame.extend(own);
            frame.extend([0; 4]);
        }
        frame.resize(SHORTEST, 0);
        Ok(frame)
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

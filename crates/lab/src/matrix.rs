//! Who reaches whom: one UDP packet from every VM to every other, each way and
//! each family on its own.
//!
//! All sockets are this process's, made inside the VMs' namespaces; what
//! didn't arrive is sent again twice, since a first packet may be lost to
//! neighbour discovery.
//!
//! What can break it: the kernel's neighbour table, one for all namespaces of
//! a machine (1,024 entries by default), which guests with a large prefix on
//! their link fill quickly. So a guest's entries are removed when it has sent
//! to all.

use std::{
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use serde::Serialize;

use crate::{
    Error, Result,
    fabric::{Fabric, Family, Vm},
    lab::Lab,
    netns, process, show,
};

/// UDP port at the receiving end; any would do.
const PORT: u16 = 20252;
const ROUNDS: usize = 3;
/// How long after the last packet of a round silence means loss.
const QUIET: Duration = Duration::from_millis(300);
/// Bytes of receive buffer: a packet from each of some thousand VMs.
const BUFFER: usize = 8 << 20;
/// How long a hypervisor may take to answer its guests' ARP requests.
const RESOLUTION: Duration = Duration::from_millis(5);
/// More VMs than that are shown by hypervisor.
const SHOWN: usize = 16;

/// What reached what.
#[derive(Debug, Clone, Serialize)]
pub struct Matrix {
    /// Ordered pairs of VMs.
    pub pairs: usize,
    /// What didn't arrive.
    pub missing: Vec<Missing>,
}

/// A pair of VMs, and a family in which the first doesn't reach the second.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Missing {
    /// Sender.
    pub from: String,
    /// Receiver.
    pub to: String,
    /// Family.
    pub family: Family,
}

/// Sends and counts.
///
/// # Errors
/// A namespace can't be entered or a socket can't be made.
pub fn measure(lab: &Lab) -> Result<Matrix> {
    let count = lab.fabric().vms.len();
    let mut missing = Vec::new();
    for family in Family::ALL {
        missing.extend(measure_family(lab, family)?);
    }
    Ok(Matrix {
        pairs: count * count.saturating_sub(1),
        missing,
    })
}

fn measure_family(lab: &Lab, family: Family) -> Result<Vec<Missing>> {
    let vms = &lab.fabric().vms;
    let sockets: Vec<UdpSocket> = vms
        .iter()
        .map(|vm| socket(lab, vm, family))
        .collect::<Result<_>>()?;
    // Indices of sender and receiver.
    let mut open: Vec<(usize, usize)> = (0..vms.len())
        .flat_map(|from| (0..vms.len()).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .collect();
    let index: HashMap<_, usize> = vms
        .iter()
        .enumerate()
        .map(|(index, vm)| (vm.address(family), index))
        .collect();
    for _ in 0..ROUNDS {
        for group in open.chunk_by(|a, b| a.0 == b.0) {
            send(lab, family, &sockets, group)?;
        }
        let mut arrived = vec![false; vms.len() * vms.len()];
        let mut last = Instant::now();
        while last.elapsed() < QUIET {
            if process::interrupted() {
                return Err(Error::Interrupted);
            }
            for (to, socket) in sockets.iter().enumerate() {
                while let Ok((_, sender)) = socket.recv_from(&mut [0; 8]) {
                    last = Instant::now();
                    let from = index.get(&sender.ip());
                    if let Some(cell) = from.and_then(|i| arrived.get_mut(i * vms.len() + to)) {
                        *cell = true;
                    }
                }
            }
            let done =
                |(from, to): &(usize, usize)| arrived.get(from * vms.len() + to) == Some(&true);
            if open.iter().all(done) {
                return Ok(Vec::new());
            }
            thread::sleep(Duration::from_millis(5));
        }
        open.retain(|(from, to)| arrived.get(from * vms.len() + to) != Some(&true));
    }
    let name = |i: usize| vms.get(i).map(|vm| vm.name.clone()).unwrap_or_default();
    Ok(open
        .into_iter()
        .map(|(from, to)| Missing {
            from: name(from),
            to: name(to),
            family,
        })
        .collect())
}

/// Sends from one VM to all in `pairs`, whose first element it is.
fn send(lab: &Lab, family: Family, sockets: &[UdpSocket], pairs: &[(usize, usize)]) -> Result<()> {
    let vms = &lab.fabric().vms;
    for (from, to) in pairs {
        if let (Some(socket), Some(vm)) = (sockets.get(*from), vms.get(*to)) {
            // A refusal by the sender's own kernel is loss as well.
            let _ = socket.send_to(&[0; 8], (vm.address(family), PORT));
        }
    }
    let sender = pairs.first().and_then(|(from, _)| vms.get(*from));
    match sender {
        Some(vm) if vms.len() > SHOWN => {
            // Packets that wait for their neighbour go first.
            thread::sleep(RESOLUTION);
            let namespace = lab.namespace(&vm.name);
            netns::ip(
                &namespace,
                &[family.flag(), "neigh", "flush", "dev", "eth0"],
            )
            .map(drop)
        }
        _ => Ok(()),
    }
}

fn socket(lab: &Lab, vm: &Vm, family: Family) -> Result<UdpSocket> {
    let address = SocketAddr::new(vm.address(family), PORT);
    netns::inside(&lab.namespace(&vm.name), || {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, RcvBufForce, &BUFFER)?;
        Ok(socket)
    })?
    .map_err(Error::io(format!("UDP socket {address} in {}", vm.name)))
}

impl Matrix {
    /// Whether everybody reaches everybody in both families.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// The matrix for people: a row for each sender. Few VMs are shown one by
    /// one, many by hypervisor.
    #[must_use]
    pub fn text(&self, fabric: &Fabric) -> String {
        if fabric.vms.len() <= SHOWN {
            return self.by_vm(fabric);
        }
        self.by_hypervisor(fabric)
    }

    fn by_vm(&self, fabric: &Fabric) -> String {
        let mut rows = vec![vec!["from \\ to".to_owned()]];
        if let Some(head) = rows.first_mut() {
            head.extend(fabric.vms.iter().map(|vm| vm.name.clone()));
        }
        for from in &fabric.vms {
            let mut row = vec![from.name.clone()];
            for to in &fabric.vms {
                let reached = |family| {
                    !self
                        .missing
                        .iter()
                        .any(|m| m.family == family && m.from == from.name && m.to == to.name)
                };
                row.push(
                    match (reached(Family::V4), reached(Family::V6)) {
                        _ if from.name == to.name => "·",
                        (true, true) => "4 6",
                        (true, false) => "4 ✗",
                        (false, true) => "✗ 6",
                        (false, false) => "✗ ✗",
                    }
                    .to_owned(),
                );
            }
            rows.push(row);
        }
        show::table(&rows)
    }

    fn by_hypervisor(&self, fabric: &Fabric) -> String {
        let host: HashMap<&str, &str> = fabric
            .vms
            .iter()
            .map(|vm| (vm.name.as_str(), vm.host.as_str()))
            .collect();
        let mut bad: HashMap<(&str, &str, Family), usize> = HashMap::new();
        for m in &self.missing {
            if let (Some(from), Some(to)) = (host.get(m.from.as_str()), host.get(m.to.as_str())) {
                *bad.entry((from, to, m.family)).or_default() += 1;
            }
        }
        let mut bad: Vec<_> = bad.into_iter().collect();
        bad.sort_by_key(|((from, to, family), _)| (*from, *to, *family == Family::V6));
        let mut rows = Vec::new();
        for ((from, to, family), count) in bad.iter().take(SHOWN) {
            rows.push(vec![
                format!("VMs on {from}"),
                format!("to VMs on {to}"),
                format!("{family}: {count} pairs don't pass"),
            ]);
        }
        if bad.len() > SHOWN {
            rows.push(vec!["…".to_owned()]);
        }
        let total = self.pairs * Family::ALL.len();
        format!(
            "{} of {total} pairs (sender, receiver, family) pass\n{}",
            total - self.missing.len(),
            show::table(&rows),
        )
    }
}

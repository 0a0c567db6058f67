//! The way of one flow through the fabric, hop by hop.
//!
//! As traceroute, but every packet has the same addresses and ports, so that
//! equal-cost multipath takes all of them the same way: what is shown is a
//! real path, not a mixture. Hops are named by their addresses.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv4Ttl, Ipv6RecvErr, Ipv6Ttl},
    },
};
use serde::Serialize;

use crate::{
    Error, Result,
    fabric::{Fabric, Family, GATEWAY4},
    lab::Lab,
    netns,
};

const HOPS_MAX: u8 = 16;
/// Tries for each hop, and how long each waits.
const TRIES: usize = 3;
const ANSWER: Duration = Duration::from_millis(500);
/// Where traceroute's ports begin; nobody listens there.
const TARGET_PORT: u16 = 33434;

/// One hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// The address that answered; None: nobody did.
    pub address: Option<IpAddr>,
    /// Whose it is.
    pub node: Option<String>,
}

/// A path of one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Path {
    /// Family.
    pub family: Family,
    /// Where it starts.
    pub from: String,
    /// All hops; the target is the last if it was reached.
    pub hops: Vec<Hop>,
    /// Whether the target answered.
    pub reached: bool,
}

/// Follows the flow from `from` to `to` with the given source port.
///
/// # Errors
/// One of the two is unknown, or the socket can't be made.
pub fn trace(lab: &Lab, from: &str, to: &str, family: Family, source_port: u16) -> Result<Path> {
    let fabric = lab.fabric();
    let source = SocketAddr::new(address(fabric, from, family)?, source_port);
    let target = SocketAddr::new(address(fabric, to, family)?, TARGET_PORT);
    let names = names(fabric, from, family);
    let answers = netns::inside(&lab.namespace(from), || follow(source, target))?
        .map_err(Error::io(format!("following {source} to {target}")))?;
    let hops: Vec<Hop> = answers
        .into_iter()
        .map(|address| Hop {
            address,
            node: address.and_then(|a| names.get(&a).cloned()),
        })
        .collect();
    Ok(Path {
        family,
        from: from.to_owned(),
        reached: hops
            .last()
            .is_some_and(|hop| hop.address == Some(target.ip())),
        hops,
    })
}

/// The address of a VM or the loopback of a router.
fn address(fabric: &Fabric, name: &str, family: Family) -> Result<IpAddr> {
    if let Ok(vm) = fabric.vm(name) {
        return Ok(vm.address(family));
    }
    Ok(fabric.node(name)?.loopback(family))
}

fn names(fabric: &Fabric, from: &str, family: Family) -> HashMap<IpAddr, String> {
    let routers = fabric.nodes.iter().map(|n| (n.loopback(family), &n.name));
    let vms = fabric.vms.iter().map(|vm| (vm.address(family), &vm.name));
    let mut names: HashMap<IpAddr, String> =
        routers.chain(vms).map(|(a, n)| (a, n.clone())).collect();
    // A VM's own hypervisor may answer with the gateway address.
    if let Ok(vm) = fabric.vm(from) {
        names.insert(GATEWAY4.into(), vm.host.clone());
    }
    names
}

/// Who answered for each hop limit from 1 on, up to the target.
fn follow(source: SocketAddr, target: SocketAddr) -> io::Result<Vec<Option<IpAddr>>> {
    let socket = UdpSocket::bind(source)?;
    if target.is_ipv4() {
        setsockopt(&socket, Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, Ipv6RecvErr, &true)?;
    }
    let mut answers = Vec::new();
    for limit in 1..=HOPS_MAX {
        if target.is_ipv4() {
            setsockopt(&socket, Ipv4Ttl, &i32::from(limit))?;
        } else {
            setsockopt(&socket, Ipv6Ttl, &i32::from(limit))?;
        }
        let mut answer = None;
        for _ in 0..TRIES {
            // An error here is the one queued for an earlier packet.
            let _ = socket.send_to(&[0; 32], target);
            answer = receive(&socket)?;
            if answer.is_some() {
                break;
            }
        }
        answers.push(answer);
        if answer == Some(target.ip()) {
            break;
        }
    }
    while let [.., _, None] = answers.as_slice() {
        answers.pop();
    }
    Ok(answers)
}

/// Waits for an ICMP error and says who sent it.
fn receive(socket: &UdpSocket) -> io::Result<Option<IpAddr>> {
    let end = Instant::now() + ANSWER;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        // POLLERR comes unasked.
        poll(
            &mut [PollFd::new(socket.as_fd(), PollFlags::empty())],
            timeout,
        )?;
        let from = offender(socket)?;
        if from.is_some() {
            return Ok(from);
        }
    }
}

/// Takes one entry off the socket's error queue.
fn offender(socket: &UdpSocket) -> io::Result<Option<IpAddr>> {
    let mut data = [0; 64];
    let mut parts = [io::IoSliceMut::new(&mut data)];
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
        Ok(message) => message,
        Err(nix::Error::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    for message in message.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv4RecvErr(error, Some(from))
                if error.ee_origin == libc::SO_EE_ORIGIN_ICMP =>
            {
                return Ok(Some(SockaddrIn::from(from).ip().into()));
            }
            ControlMessageOwned::Ipv6RecvErr(error, Some(from))
                if error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 =>
            {
                return Ok(Some(SockaddrIn6::from(from).ip().into()));
            }
            _ => {}
        }
    }
    Ok(None)
}

impl Path {
    /// Names of all nodes on the way, the start first.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let hop = |hop: &Hop| match (&hop.node, hop.address) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => address.to_string(),
            (None, None) => "*".to_owned(),
        };
        std::iter::once(self.from.clone())
            .chain(self.hops.iter().map(hop))
            .collect()
    }

    /// One line for people.
    #[must_use]
    pub fn text(&self) -> String {
        let end = if self.reached {
            ""
        } else {
            "  (target not reached)"
        };
        format!("{}  {}{end}\n", self.family, self.names().join(" → "))
    }
}

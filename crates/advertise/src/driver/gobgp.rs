//! GoBGP, by its gRPC interface: each prefix is a path that is added there.
//!
//! GoBGP keeps nothing over a restart, and gets all of it again. What is ours
//! carries a path identifier of our own ([`IDENTIFIER`]), which isn't sent to
//! neighbours that don't ask for several paths.
//!
//! What can break it: GoBGP 4, whose interface has another name and other
//! messages; it is told apart.

use std::{collections::BTreeSet, future::Future};

use http::uri::PathAndQuery;
use ipnet::IpNet;
use l2isolate_model::announce::{Attributes, Community, Origin};
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    Change, Driver, Events, Failure, FailureKind, Observed, PATIENCE, Peer, Reader, all,
    gobgp_api::{self as api, Any},
    gobgp_watch::Watch,
};
use crate::Family;

/// The path identifier of what is ours.
const IDENTIFIER: u32 = 76;

/// Where GoBGP is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its gRPC interface, `http://127.0.0.1:50051` or `unix:///run/gobgp.sock`.
    pub address: String,
}

/// A driver of GoBGP.
pub struct Gobgp {
    settings: Settings,
    runtime: Option<Runtime>,
    client: Option<Client>,
}

impl Gobgp {
    /// One that has asked nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            runtime: None,
            client: None,
        }
    }

    /// Does something with a connection, which is given up if that fails.
    fn with<T, F: Future<Output = Result<T, Failure>>>(
        &mut self,
        work: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure> {
        if self.runtime.is_none() {
            let runtime = Builder::new_current_thread().enable_all().build();
            self.runtime = Some(runtime.map_err(|error| odd(&error))?);
        }
        let Some(runtime) = &self.runtime else {
            return Err(odd(&"no runtime"));
        };
        let (known, address) = (self.client.take(), &self.settings.address);
        let (client, result) = runtime.block_on(async {
            let client = match known {
                Some(client) => client,
                None => match Client::connect(address).await {
                    Ok(client) => client,
                    Err(failure) => return (None, Err(failure)),
                },
            };
            let result = tokio::time::timeout(PATIENCE, work(client.clone())).await;
            let late = |_| odd(&format!("no answer within {} s", PATIENCE.as_secs()));
            (Some(client), result.map_err(late).and_then(|result| result))
        });
        self.client = client.filter(|_| result.is_ok());
        result
    }
}

impl Reader for Gobgp {
    fn observe(&mut self) -> Result<Observed, Failure> {
        self.with(observe)
    }

    fn resend(&mut self, peer: &str) -> Result<(), Failure> {
        let peer = peer.to_owned();
        self.with(|mut client| async move {
            for known in client.peers().await? {
                if name(&known) == peer {
                    let request = api::ResetPeerRequest {
                        address: address(&known),
                        soft: true,
                        direction: 1,
                    };
                    let _: api::Empty = client.call("ResetPeer", request).await?;
                }
            }
            Ok(())
        })
    }

    fn events(&self) -> Option<Box<dyn Events>> {
        Some(Box::new(Watch::new(self.settings.address.clone())))
    }
}

impl Driver for Gobgp {
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), Failure>> {
        let changes_owned = changes.to_vec();
        let outcome = self.with(|mut client| async move {
            let mut results = Vec::new();
            let prepends = changes_owned.iter().any(
                |change| matches!(change, Change::Set(_, attributes) if attributes.prepend > 0),
            );
            let asn = match prepends {
                true => client.own_as().await?,
                false => 0,
            };
            for change in &changes_owned {
                let result = client.change(change, asn).await;
                // Without a connection the others fail as well.
                if let Err(failure) = &result
                    && failure.kind != FailureKind::Refused
                {
                    return Err(failure.clone());
                }
                results.push(result);
            }
            Ok(results)
        });
        match outcome {
            Ok(results) => results,
            Err(failure) => all(changes, &failure),
        }
    }
}

async fn observe(mut client: Client) -> Result<Observed, Failure> {
    let mut observed = Observed {
        daemon: "GoBGP 3".to_owned(),
        ..Observed::default()
    };
    for family in Family::ALL {
        for destination in client.paths(api::GLOBAL, "", family).await? {
            let Ok(prefix) = destination.prefix.parse::<IpNet>() else {
                continue;
            };
            for path in &destination.paths {
                // A neighbour's add-path identifier means nothing here.
                if !matches!(path.neighbor_ip.as_str(), "" | "<nil>") {
                    continue;
                }
                let whose = if path.identifier == IDENTIFIER {
                    &mut observed.rib
                } else {
                    &mut observed.foreign
                };
                whose.insert(prefix, attributes(path));
            }
        }
    }
    for known in client.peers().await? {
        let state = known.state.clone().unwrap_or_default();
        let established = state.session_state == 6;
        let mut peer = Peer {
            established,
            state: session_state(state.session_state).to_owned(),
            remote_as: known.conf.as_ref().map(|conf| conf.peer_asn),
            received: known
                .afi_safis
                .iter()
                .filter_map(|family| family.state.as_ref())
                .map(|state| state.accepted)
                .sum(),
            ..Peer::default()
        };
        if established {
            for family in Family::ALL {
                let sent = client.paths(api::ADJ_OUT, &address(&known), family).await?;
                let sent: BTreeSet<IpNet> = sent
                    .iter()
                    .filter_map(|destination| destination.prefix.parse().ok())
                    .collect();
                for prefix in sent {
                    let own = observed.rib.contains_key(&prefix)
                        || observed.foreign.contains_key(&prefix);
                    match own {
                        true => peer.sent.insert(prefix),
                        false => peer.leaked.insert(prefix),
                    };
                }
            }
        }
        observed.peers.insert(name(&known), peer);
    }
    Ok(observed)
}

/// By its interface, or by its address.
fn name(peer: &api::Peer) -> String {
    let conf = peer.conf.clone().unwrap_or_default();
    if !conf.neighbor_interface.is_empty() {
        return conf.neighbor_interface;
    }
    match conf.neighbor_address.split_once('%') {
        Some((_, interface)) => interface.to_owned(),
        None => conf.neighbor_address,
    }
}

/// By which GoBGP finds it.
fn address(peer: &api::Peer) -> String {
    let state = peer.state.clone().unwrap_or_default().neighbor_address;
    let conf = peer.conf.clone().unwrap_or_default().neighbor_address;
    if state.is_empty() { conf } else { state }
}

fn session_state(state: i32) -> &'static str {
    match state {
        1 => "Idle",
        2 => "Connect",
        3 => "Active",
        4 => "OpenSent",
        5 => "OpenConfirm",
        6 => "Established",
        _ => "unknown",
    }
}

fn family_of(family: Family) -> api::Family {
    api::Family {
        afi: match family {
            Family::V4 => 1,
            Family::V6 => 2,
        },
        safi: 1,
    }
}

fn nlri(prefix: IpNet) -> Any {
    let message = api::IpAddressPrefix {
        prefix_len: prefix.prefix_len().into(),
        prefix: prefix.addr().to_string(),
    };
    Any::new("IPAddressPrefix", &message)
}

/// A path of ours; without attributes, to take it away.
fn path(prefix: IpNet, given: Option<(&Attributes, u32)>) -> api::Path {
    let (family, here) = match prefix {
        IpNet::V4(_) => (Family::V4, "0.0.0.0"),
        IpNet::V6(_) => (Family::V6, "::"),
    };
    // What is nowhere in particular becomes this host's address towards each
    // neighbour.
    let mut pattrs = vec![match family {
        Family::V4 => Any::new(
            "NextHopAttribute",
            &api::NextHopAttribute {
                next_hop: here.to_owned(),
            },
        ),
        Family::V6 => Any::new(
            "MpReachNLRIAttribute",
            &api::MpReachNlriAttribute {
                family: Some(family_of(family)),
                next_hops: vec![here.to_owned()],
                nlris: vec![nlri(prefix)],
            },
        ),
    }];
    let (attributes, asn) = match given {
        Some((attributes, asn)) => (attributes.clone(), asn),
        None => (Attributes::default(), 0),
    };
    let origin = match attributes.origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    };
    pattrs.push(Any::new(
        "OriginAttribute",
        &api::OriginAttribute { origin },
    ));
    if attributes.prepend > 0 {
        let segment = api::AsSegment {
            r#type: 2,
            numbers: vec![asn; attributes.prepend.into()],
        };
        let segments = vec![segment];
        pattrs.push(Any::new(
            "AsPathAttribute",
            &api::AsPathAttribute { segments },
        ));
    }
    if !attributes.communities.is_empty() {
        let communities = attributes.communities.iter().map(|c| c.bits()).collect();
        let attribute = api::CommunitiesAttribute { communities };
        pattrs.push(Any::new("CommunitiesAttribute", &attribute));
    }
    api::Path {
        nlri: Some(nlri(prefix)),
        pattrs,
        family: Some(family_of(family)),
        identifier: IDENTIFIER,
        neighbor_ip: String::new(),
    }
}

fn attributes(path: &api::Path) -> Attributes {
    let mut attributes = Attributes {
        origin: Origin::Incomplete,
        ..Attributes::default()
    };
    for any in &path.pattrs {
        if let Some(found) = any.read::<api::OriginAttribute>("OriginAttribute") {
            attributes.origin = match found.origin {
                0 => Origin::Igp,
                1 => Origin::Egp,
                _ => Origin::Incomplete,
            };
        } else if let Some(found) = any.read::<api::AsPathAttribute>("AsPathAttribute") {
            let length: usize = found.segments.iter().map(|s| s.numbers.len()).sum();
            attributes.prepend = u8::try_from(length).unwrap_or(u8::MAX);
        } else if let Some(found) = any.read::<api::CommunitiesAttribute>("CommunitiesAttribute") {
            attributes.communities = found.communities.into_iter().map(Community::from).collect();
        }
    }
    attributes
}

#[derive(Clone)]
pub(super) struct Client(Grpc<Channel>);

impl Client {
    pub(super) async fn connect(address: &str) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| {
            Failure::new(
                FailureKind::Answer,
                format!("{address} is no address of a gRPC interface: {error}"),
                "set gobgp_address to one like http://127.0.0.1:50051",
            )
        })?;
        let channel = endpoint.connect_timeout(PATIENCE).connect().await;
        let channel = channel.map_err(|error| {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            let mut kind = FailureKind::Absent;
            while let Some(cause) = source {
                if let Some(io) = cause.downcast_ref::<std::io::Error>()
                    && io.kind() == std::io::ErrorKind::PermissionDenied
                {
                    kind = FailureKind::Permission;
                }
                text = cause.to_string();
                source = cause.source();
            }
            let remedy = match kind {
                FailureKind::Permission => "run the agent as root, or let its user use the socket",
                _ => "start gobgpd, or set gobgp_address",
            };
            Failure::new(
                kind,
                format!("GoBGP doesn't answer at {address}: {text}"),
                remedy,
            )
        })?;
        // Tables of some thousand prefixes come as one message each.
        Ok(Self(Grpc::new(channel).max_decoding_message_size(64 << 20)))
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let ready = self.0.ready().await;
        ready.map_err(|error| {
            Failure::new(
                FailureKind::Absent,
                format!("GoBGP has gone: {error}"),
                "start gobgpd",
            )
        })
    }

    async fn call<Q, A>(&mut self, method: &str, request: Q) -> Result<A, Failure>
    where
        Q: Message + Send + Sync + Default + 'static,
        A: Message + Send + Sync + Default + 'static,
    {
        self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.0.unary(Request::new(request), place(method)?, codec);
        let answer = answer.await.map_err(|status| refused(method, &status))?;
        Ok(answer.into_inner())
    }

    /// A call whose answer is a stream.
    pub(super) async fn stream<Q, A>(
        &mut self,
        method: &str,
        request: Q,
    ) -> Result<Streaming<A>, Failure>
    where
        Q: Message + Send + Sync + Default + 'static,
        A: Message + Send + Sync + Default + 'static,
    {
        self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = self
            .0
            .server_streaming(Request::new(request), place(method)?, codec);
        let answer = answer.await.map_err(|status| refused(method, &status))?;
        Ok(answer.into_inner())
    }

    /// Everything of a call whose answer is a stream.
    async fn list<Q, A>(&mut self, method: &str, request: Q) -> Result<Vec<A>, Failure>
    where
        Q: Message + Send + Sync + Default + 'static,
        A: Message + Send + Sync + Default + 'static,
    {
        let mut stream = self.stream(method, request).await?;
        let mut all = Vec::new();
        loop {
            match stream.message().await {
                Ok(Some(one)) => all.push(one),
                Ok(None) => return Ok(all),
                Err(status) => return Err(refused(method, &status)),
            }
        }
    }

    async fn paths(
        &mut self,
        table_type: i32,
        name: &str,
        family: Family,
    ) -> Result<Vec<api::Destination>, Failure> {
        let request = api::ListPathRequest {
            table_type,
            name: name.to_owned(),
            family: Some(family_of(family)),
        };
        let all: Vec<api::ListPathResponse> = self.list("ListPath", request).await?;
        Ok(all.into_iter().filter_map(|one| one.destination).collect())
    }

    async fn peers(&mut self) -> Result<Vec<api::Peer>, Failure> {
        let request = api::ListPeerRequest {};
        let all: Vec<api::ListPeerResponse> = self.list("ListPeer", request).await?;
        Ok(all.into_iter().filter_map(|one| one.peer).collect())
    }

    async fn own_as(&mut self) -> Result<u32, Failure> {
        let answer: api::GetBgpResponse = self.call("GetBgp", api::Empty {}).await?;
        Ok(answer.global.unwrap_or_default().asn)
    }

    async fn change(&mut self, change: &Change, asn: u32) -> Result<(), Failure> {
        match change {
            Change::Set(prefix, attributes) => {
                let request = api::AddPathRequest {
                    table_type: api::GLOBAL,
                    path: Some(path(*prefix, Some((attributes, asn)))),
                };
                let _: api::AddPathResponse = self.call("AddPath", request).await?;
            }
            Change::Delete(prefix) => {
                let path = path(*prefix, None);
                let request = api::DeletePathRequest {
                    table_type: api::GLOBAL,
                    family: path.family.clone(),
                    path: Some(path),
                };
                let _: api::Empty = self.call("DeletePath", request).await?;
            }
        }
        Ok(())
    }
}

fn place(method: &str) -> Result<PathAndQuery, Failure> {
    let path = PathAndQuery::try_from(format!("/apipb.GobgpApi/{method}"));
    path.map_err(|error| odd(&error))
}

pub(super) fn refused(method: &str, status: &Status) -> Failure {
    let (code, said) = (status.code(), status.message());
    match code {
        Code::Unimplemented => Failure::new(
            FailureKind::Version,
            format!("GoBGP doesn't know the call {method}: it isn't GoBGP 3"),
            "install GoBGP 3, or set advertise = kernel",
        ),
        Code::Unavailable => Failure::new(
            FailureKind::Absent,
            format!("GoBGP has gone: {said}"),
            "start gobgpd",
        ),
        _ => Failure::new(
            FailureKind::Refused,
            format!("GoBGP answers {method} with {code:?}: {said}"),
            "see its log",
        ),
    }
}

pub(super) fn odd(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        FailureKind::Answer,
        format!("GoBGP's gRPC interface: {error}"),
        "see its log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_was_meant() {
        let attributes = Attributes {
            communities: [Community::GRACEFUL_SHUTDOWN, Community(65001, 20)].into(),
            origin: Origin::Egp,
            prepend: 3,
        };
        for prefix in ["10.252.0.5/32", "2001:db8::5/128"] {
            let path = path(prefix.parse().unwrap(), Some((&attributes, 65010)));
            let bytes = path.encode_to_vec();
            let again = api::Path::decode(bytes.as_slice()).unwrap();
            assert_eq!(super::attributes(&again), attributes);
            assert_eq!(again.identifier, IDENTIFIER);
        }
    }
}

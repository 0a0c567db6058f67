//! The part of GoBGP 3's gRPC interface that the driver uses: messages by
//! their field numbers (`api/gobgp.proto`, `api/attribute.proto` of GoBGP
//! 3.10), and the paths of its calls.

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

impl Any {
    /// A message of the package `apipb`.
    pub(super) fn new(name: &str, message: &impl prost::Message) -> Self {
        Self {
            type_url: format!("type.googleapis.com/apipb.{name}"),
            value: message.encode_to_vec(),
        }
    }

    /// The message, if it is the one of that name.
    pub(super) fn read<M: prost::Message + Default>(&self, name: &str) -> Option<M> {
        let own = self.type_url.rsplit('.').next()?;
        (own == name).then(|| M::decode(self.value.as_slice()).ok())?
    }
}

/// `google.protobuf.Empty`, and requests without fields.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Family {
    /// 1 for IPv4, 2 for IPv6.
    #[prost(int32, tag = "1")]
    pub(super) afi: i32,
    /// 1 for unicast.
    #[prost(int32, tag = "2")]
    pub(super) safi: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Path {
    #[prost(message, optional, tag = "1")]
    pub(super) nlri: Option<Any>,
    #[prost(message, repeated, tag = "2")]
    pub(super) pattrs: Vec<Any>,
    #[prost(message, optional, tag = "9")]
    pub(super) family: Option<Family>,
    #[prost(string, tag = "15")]
    pub(super) neighbor_ip: String,
    #[prost(uint32, tag = "18")]
    pub(super) identifier: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Destination {
    #[prost(string, tag = "1")]
    pub(super) prefix: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) paths: Vec<Path>,
}

/// `TableType`.
pub(super) const GLOBAL: i32 = 0;
pub(super) const ADJ_OUT: i32 = 3;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListPathRequest {
    #[prost(int32, tag = "1")]
    pub(super) table_type: i32,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(message, optional, tag = "3")]
    pub(super) family: Option<Family>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListPathResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) destination: Option<Destination>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AddPathRequest {
    #[prost(int32, tag = "1")]
    pub(super) table_type: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) path: Option<Path>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AddPathResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) uuid: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeletePathRequest {
    #[prost(int32, tag = "1")]
    pub(super) table_type: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) family: Option<Family>,
    #[prost(message, optional, tag = "4")]
    pub(super) path: Option<Path>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResetPeerRequest {
    #[prost(string, tag = "1")]
    pub(super) address: String,
    #[prost(bool, tag = "3")]
    pub(super) soft: bool,
    /// 1 is out.
    #[prost(int32, tag = "4")]
    pub(super) direction: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListPeerRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListPeerResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) peer: Option<Peer>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Peer {
    #[prost(message, optional, tag = "2")]
    pub(super) conf: Option<PeerConf>,
    #[prost(message, optional, tag = "5")]
    pub(super) state: Option<PeerState>,
    #[prost(message, repeated, tag = "10")]
    pub(super) afi_safis: Vec<AfiSafi>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PeerConf {
    #[prost(string, tag = "4")]
    pub(super) neighbor_address: String,
    #[prost(uint32, tag = "5")]
    pub(super) peer_asn: u32,
    #[prost(string, tag = "11")]
    pub(super) neighbor_interface: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PeerState {
    #[prost(string, tag = "5")]
    pub(super) neighbor_address: String,
    /// 1 idle, 2 connect, 3 active, 4 opensent, 5 openconfirm, 6 established.
    #[prost(int32, tag = "13")]
    pub(super) session_state: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AfiSafi {
    #[prost(message, optional, tag = "3")]
    pub(super) state: Option<AfiSafiState>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AfiSafiState {
    #[prost(uint64, tag = "4")]
    pub(super) accepted: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetBgpResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) global: Option<Global>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Global {
    #[prost(uint32, tag = "1")]
    pub(super) asn: u32,
}

/// Prefix of an `IPAddressPrefix`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IpAddressPrefix {
    #[prost(uint32, tag = "1")]
    pub(super) prefix_len: u32,
    #[prost(string, tag = "2")]
    pub(super) prefix: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OriginAttribute {
    #[prost(uint32, tag = "1")]
    pub(super) origin: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AsSegment {
    /// 2 is a sequence.
    #[prost(int32, tag = "1")]
    pub(super) r#type: i32,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) numbers: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AsPathAttribute {
    #[prost(message, repeated, tag = "1")]
    pub(super) segments: Vec<AsSegment>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NextHopAttribute {
    #[prost(string, tag = "1")]
    pub(super) next_hop: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CommunitiesAttribute {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) communities: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MpReachNlriAttribute {
    #[prost(message, optional, tag = "1")]
    pub(super) family: Option<Family>,
    #[prost(string, repeated, tag = "2")]
    pub(super) next_hops: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub(super) nlris: Vec<Any>,
}

/// The best paths of the global table.
pub(super) const BEST: i32 = 0;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchEventRequest {
    /// Without fields: all peers.
    #[prost(message, optional, tag = "1")]
    pub(super) peer: Option<Empty>,
    #[prost(message, optional, tag = "2")]
    pub(super) table: Option<WatchTable>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchTable {
    #[prost(message, repeated, tag = "1")]
    pub(super) filters: Vec<WatchFilter>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchFilter {
    #[prost(int32, tag = "1")]
    pub(super) r#type: i32,
}

/// What it says isn't read: that it comes is enough.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchEventResponse {}

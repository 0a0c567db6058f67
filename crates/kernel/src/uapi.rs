//! Numbers of the kernel's interface, under the names of its headers.
//!
//! One table for all of them, since they are spread over several headers and
//! no library has them all. They are ABI: none ever changes.

/// Message types (linux/netlink.h, linux/rtnetlink.h).
pub(crate) mod kind {
    pub(crate) const NLMSG_ERROR: u16 = 2;
    pub(crate) const NLMSG_DONE: u16 = 3;
    pub(crate) const RTM_NEWLINK: u16 = 16;
    pub(crate) const RTM_DELLINK: u16 = 17;
    pub(crate) const RTM_GETLINK: u16 = 18;
    pub(crate) const RTM_SETLINK: u16 = 19;
    pub(crate) const RTM_NEWADDR: u16 = 20;
    pub(crate) const RTM_DELADDR: u16 = 21;
    pub(crate) const RTM_GETADDR: u16 = 22;
    pub(crate) const RTM_NEWROUTE: u16 = 24;
    pub(crate) const RTM_DELROUTE: u16 = 25;
    pub(crate) const RTM_GETROUTE: u16 = 26;
    pub(crate) const RTM_NEWNEIGH: u16 = 28;
    pub(crate) const RTM_NEWRULE: u16 = 32;
    pub(crate) const RTM_DELRULE: u16 = 33;
    pub(crate) const RTM_GETRULE: u16 = 34;
    pub(crate) const RTM_DELNEIGH: u16 = 29;
    pub(crate) const RTM_GETNEIGH: u16 = 30;
    pub(crate) const RTM_NEWNEIGHTBL: u16 = 64;
    pub(crate) const RTM_GETNEIGHTBL: u16 = 66;
    pub(crate) const RTM_NEWNETCONF: u16 = 80;
    pub(crate) const RTM_DELNETCONF: u16 = 81;
}

/// Message flags (linux/netlink.h).
pub(crate) mod flag {
    pub(crate) const NLM_F_REQUEST: u16 = 0x1;
    pub(crate) const NLM_F_ACK: u16 = 0x4;
    pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
    pub(crate) const NLM_F_DUMP: u16 = 0x300;
    pub(crate) const NLM_F_REPLACE: u16 = 0x100;
    pub(crate) const NLM_F_EXCL: u16 = 0x200;
    pub(crate) const NLM_F_CREATE: u16 = 0x400;
    pub(crate) const NLM_F_APPEND: u16 = 0x800;
    /// In an answer: the request's body is left out.
    pub(crate) const NLM_F_CAPPED: u16 = 0x100;
}

/// Attributes of an error message (linux/netlink.h).
pub(crate) const NLMSGERR_ATTR_MSG: u16 = 1;

/// Address families (linux/socket.h).
pub(crate) const AF_UNSPEC: u8 = 0;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

/// Links (linux/if.h, linux/if_link.h, linux/rtnetlink.h).
pub(crate) mod link {
    pub(crate) const IFF_UP: u32 = 0x1;
    pub(crate) const IFF_LOWER_UP: u32 = 0x1_0000;
    pub(crate) const IFLA_ADDRESS: u16 = 1;
    pub(crate) const IFLA_IFNAME: u16 = 3;
    pub(crate) const IFLA_MTU: u16 = 4;
    pub(crate) const IFLA_LINKINFO: u16 = 18;
    pub(crate) const IFLA_STATS64: u16 = 23;
    pub(crate) const IFLA_AF_SPEC: u16 = 26;
    pub(crate) const IFLA_EXT_MASK: u16 = 29;
    pub(crate) const IFLA_INET_CONF: u16 = 1;
    pub(crate) const IFLA_INET6_CONF: u16 = 2;
    pub(crate) const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
    pub(crate) const IFLA_INFO_KIND: u16 = 1;
    pub(crate) const IFLA_INFO_DATA: u16 = 2;
    pub(crate) const IFLA_VXLAN_LEARNING: u16 = 7;
    pub(crate) const IFLA_VXLAN_PORT: u16 = 15;
    pub(crate) const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
    pub(crate) const IFLA_VXLAN_GPE: u16 = 27;
}

/// Addresses (linux/if_addr.h).
pub(crate) mod address {
    pub(crate) const IFA_ADDRESS: u16 = 1;
    pub(crate) const IFA_LOCAL: u16 = 2;
    pub(crate) const IFA_FLAGS: u16 = 8;
    pub(crate) const IFA_PROTO: u16 = 11;
    pub(crate) const IFA_F_NODAD: u32 = 0x02;
    pub(crate) const IFA_F_NOPREFIXROUTE: u32 = 0x200;
}

/// Neighbours and their tables (linux/neighbour.h).
pub(crate) mod neighbour {
    pub(crate) const NDA_DST: u16 = 1;
    pub(crate) const NDA_LLADDR: u16 = 2;
    pub(crate) const NDA_PROTOCOL: u16 = 12;
    pub(crate) const NUD_PERMANENT: u16 = 0x80;
    pub(crate) const NDTA_PARMS: u16 = 6;
    pub(crate) const NDTPA_IFINDEX: u16 = 1;
    pub(crate) const NDTPA_PROXY_DELAY: u16 = 13;
}

/// Routes (linux/rtnetlink.h).
pub(crate) mod route {
    pub(crate) const RTA_DST: u16 = 1;
    pub(crate) const RTA_OIF: u16 = 4;
    pub(crate) const RTA_GATEWAY: u16 = 5;
    pub(crate) const RTA_PRIORITY: u16 = 6;
    pub(crate) const RTA_MULTIPATH: u16 = 9;
    pub(crate) const RTA_VIA: u16 = 18;
    pub(crate) const RTA_ENCAP_TYPE: u16 = 21;
    pub(crate) const RTA_ENCAP: u16 = 22;
    pub(crate) const RT_TABLE_MAIN: u8 = 254;
    pub(crate) const RT_SCOPE_UNIVERSE: u8 = 0;
    pub(crate) const RT_SCOPE_LINK: u8 = 253;
    pub(crate) const RT_SCOPE_NOWHERE: u8 = 255;
    pub(crate) const RTN_UNSPEC: u8 = 0;
    pub(crate) const RTN_UNICAST: u8 = 1;
    pub(crate) const RTN_UNREACHABLE: u8 = 7;
}

/// Tunnels that a route says all of (linux/lwtunnel.h). IPv4's attributes and
/// IPv6's have the same numbers.
pub(crate) mod lwtunnel {
    pub(crate) const LWTUNNEL_ENCAP_IP: u16 = 2;
    pub(crate) const LWTUNNEL_ENCAP_IP6: u16 = 4;
    pub(crate) const LWTUNNEL_IP_DST: u16 = 2;
    pub(crate) const LWTUNNEL_IP_SRC: u16 = 3;
    pub(crate) const LWTUNNEL_IP_FLAGS: u16 = 6;
    /// Outer UDP checksums (linux/if_tunnel.h), which IPv6 can't do without.
    pub(crate) const TUNNEL_CSUM: u16 = 0x01;
}

/// Rules (linux/fib_rules.h).
pub(crate) mod rule {
    pub(crate) const FRA_IIFNAME: u16 = 3;
    pub(crate) const FRA_PRIORITY: u16 = 6;
    pub(crate) const FRA_TABLE: u16 = 15;
    pub(crate) const FRA_PROTOCOL: u16 = 21;
    pub(crate) const FR_ACT_TO_TBL: u8 = 1;
}

/// Device settings that are announced (linux/netconf.h).
pub(crate) mod netconf {
    pub(crate) const NETCONFA_IFINDEX: u16 = 1;
    pub(crate) const NETCONFA_FORWARDING: u16 = 2;
    pub(crate) const NETCONFA_RP_FILTER: u16 = 3;
    pub(crate) const NETCONFA_PROXY_NEIGH: u16 = 5;
    pub(crate) const NETCONFA_IFINDEX_ALL: i32 = -1;
}

/// Multicast groups (enum rtnetlink_groups in linux/rtnetlink.h).
pub(crate) mod group {
    pub(crate) const RTNLGRP_LINK: u32 = 1;
    pub(crate) const RTNLGRP_NEIGH: u32 = 3;
    pub(crate) const RTNLGRP_IPV4_IFADDR: u32 = 5;
    pub(crate) const RTNLGRP_IPV4_ROUTE: u32 = 7;
    pub(crate) const RTNLGRP_IPV4_RULE: u32 = 8;
    pub(crate) const RTNLGRP_IPV6_IFADDR: u32 = 9;
    pub(crate) const RTNLGRP_IPV6_ROUTE: u32 = 11;
    pub(crate) const RTNLGRP_IPV6_RULE: u32 = 19;
    pub(crate) const RTNLGRP_IPV4_NETCONF: u32 = 24;
    pub(crate) const RTNLGRP_IPV6_NETCONF: u32 = 25;
}

//! Terms to instructions and back.
//!
//! Each term has one form, none of which is the beginning of another's with
//! the same meaning, so what the kernel holds reads back as what was written.
//! The forms are those that the program `nft` makes of the same words: it
//! lists our tables in full, and both ways to write them come to the same.

use std::net::IpAddr;

use ipnet::IpNet;
use l2isolate_model::{
    IfName, Mac,
    filter::{Family, Name, Rule, Side, Term, Way},
};

use super::{
    expression::{Expression, REGISTER, REGISTER_16, REGISTER_24, base, ct, meta, op},
    uapi::{NF_ACCEPT, NF_DROP, NFPROTO_IPV4, NFPROTO_IPV6, NFT_JUMP},
};

/// NF_CT_STATE_BIT of established and related.
const KNOWN: u32 = 2 | 4;
/// IPS_CONFIRMED: a packet of the flow has left this host before. The state is
/// no help: it is new until somebody answers.
const CONFIRMED: u32 = 8;
/// ARPHRD_ETHER.
const ETHERNET: u16 = 1;
/// The sender's hardware address in an Ethernet header.
const ETHER_SOURCE: u32 = 6;
/// The sender's addresses in an ARP packet for IPv4 on Ethernet (RFC 826).
const ARP_MAC: u32 = 8;
const ARP_ADDRESS: u32 = 14;
/// `giaddr` of a DHCP message behind its UDP header (RFC 2131, section 2).
const GIADDR: u32 = 8 + 24;

fn address_field(family: Family, side: Side) -> (u32, u32) {
    match (family, side) {
        (Family::V4, Side::Source) => (12, 4),
        (Family::V4, Side::Destination) => (16, 4),
        (Family::V6, Side::Source) => (8, 16),
        (Family::V6, Side::Destination) => (24, 16),
    }
}

/// Instructions of a rule.
pub(crate) fn compile(rule: &[Term]) -> Vec<Expression> {
    let mut out = Vec::with_capacity(rule.len() * 3);
    for term in rule {
        one(term, &mut out);
    }
    out
}

fn payload(base: u32, offset: u32, length: u32) -> Expression {
    Expression::Payload {
        base,
        offset,
        length,
        register: REGISTER,
    }
}

/// A part of a key behind the device's name, which has the first sixteen bytes.
fn part(base: u32, (offset, length): (u32, u32), register: u32) -> Expression {
    Expression::Payload {
        base,
        offset,
        length,
        register,
    }
}

fn equal(data: &[u8]) -> Expression {
    Expression::Compare(op::EQ, data.to_vec())
}

fn device(way: Way) -> Expression {
    Expression::Meta(match way {
        Way::In => meta::IIFNAME,
        Way::Out => meta::OIFNAME,
    })
}

fn lookup(set: &Name, verdict: bool) -> Expression {
    Expression::Lookup {
        set: set.to_string(),
        verdict,
    }
}

fn one(term: &Term, out: &mut Vec<Expression>) {
    match term {
        Term::DevicePrefix(way, prefix) => {
            out.extend([device(*way), equal(prefix.as_str().as_bytes())]);
        }
        Term::Dispatch(way, map) => out.extend([device(*way), lookup(map, true)]),
        Term::DeviceIn(way, set) => out.extend([device(*way), lookup(set, false)]),
        Term::DestinationIn(family, set) => {
            let field = address_field(*family, Side::Destination);
            out.extend([
                device(Way::In),
                part(base::NETWORK, field, REGISTER_16),
                lookup(set, false),
            ]);
        }
        Term::SourceIn(family, set) => {
            let field = address_field(*family, Side::Source);
            out.extend([
                Expression::Meta(meta::IIFTYPE),
                equal(&ETHERNET.to_ne_bytes()),
                device(Way::In),
                part(base::LINK, (ETHER_SOURCE, 6), REGISTER_16),
                part(base::NETWORK, field, REGISTER_24),
                lookup(set, false),
            ]);
        }
        Term::ArpSourceIn(set) => out.extend([
            Expression::Meta(meta::IIFTYPE),
            equal(&ETHERNET.to_ne_bytes()),
            device(Way::In),
            part(base::LINK, (ETHER_SOURCE, 6), REGISTER_16),
            part(base::NETWORK, (ARP_ADDRESS, 4), REGISTER_24),
            lookup(set, false),
        ]),
        Term::ArpSenderIn(set) => out.extend([
            device(Way::In),
            part(base::NETWORK, (ARP_MAC, 6), REGISTER_16),
            part(base::NETWORK, (ARP_ADDRESS, 4), REGISTER_24),
            lookup(set, false),
        ]),
        Term::Family(family) => {
            let number = match family {
                Family::V4 => NFPROTO_IPV4,
                Family::V6 => NFPROTO_IPV6,
            };
            out.extend([Expression::Meta(meta::NFPROTO), equal(&[number])]);
        }
        Term::Protocol(number) => out.extend([Expression::Meta(meta::L4PROTO), equal(&[*number])]),
        Term::EtherSource(mac) => out.extend([
            Expression::Meta(meta::IIFTYPE),
            equal(&ETHERNET.to_ne_bytes()),
            payload(base::LINK, ETHER_SOURCE, 6),
            equal(&mac.bytes()),
        ]),
        Term::Address(side, net) => {
            let (offset, _) = address_field(Family::of(net.addr()), *side);
            prefix(offset, *net, out);
        }
        Term::AddressIn(side, family, set) => {
            let (offset, length) = address_field(*family, *side);
            out.extend([payload(base::NETWORK, offset, length), lookup(set, false)]);
        }
        Term::Ports(source, destination) => {
            let [a, b] = source.to_be_bytes();
            let [c, d] = destination.to_be_bytes();
            out.extend([payload(base::TRANSPORT, 0, 4), equal(&[a, b, c, d])]);
        }
        Term::Port(first, last) => {
            out.push(payload(base::TRANSPORT, 2, 2));
            if first == last {
                out.push(equal(&first.to_be_bytes()));
            } else {
                out.push(Expression::Compare(op::GTE, first.to_be_bytes().to_vec()));
                out.push(Expression::Compare(op::LTE, last.to_be_bytes().to_vec()));
            }
        }
        Term::PortIn(set) => out.extend([payload(base::TRANSPORT, 2, 2), lookup(set, false)]),
        Term::Relayed => out.extend([
            payload(base::TRANSPORT, GIADDR, 4),
            Expression::Compare(op::NEQ, vec![0; 4]),
        ]),
        Term::IcmpType(_, kind) => out.extend([payload(base::TRANSPORT, 0, 1), equal(&[*kind])]),
        Term::IcmpTypes(_, first, last) => out.extend([
            payload(base::TRANSPORT, 0, 1),
            Expression::Compare(op::GTE, vec![*first]),
            Expression::Compare(op::LTE, vec![*last]),
        ]),
        Term::IcmpCode(_, kind, code) => {
            out.extend([payload(base::TRANSPORT, 0, 2), equal(&[*kind, *code])]);
        }
        Term::Known => bits(ct::STATE, KNOWN, op::NEQ, out),
        Term::Unknown => bits(ct::STATE, KNOWN, op::EQ, out),
        Term::New => bits(ct::STATUS, CONFIRMED, op::EQ, out),
        Term::ArpMac(mac) => out.extend([payload(base::NETWORK, ARP_MAC, 6), equal(&mac.bytes())]),
        Term::ArpAddress(net) => prefix(ARP_ADDRESS, *net, out),
        Term::Count(name) => out.push(Expression::Counter(name.to_string())),
        Term::Log(group, prefix) => {
            out.push(Expression::Log {
                group: *group,
                prefix: prefix.to_string(),
            });
        }
        Term::Accept => out.push(Expression::Verdict(NF_ACCEPT, None)),
        Term::Drop => out.push(Expression::Verdict(NF_DROP, None)),
        Term::Jump(chain) => out.push(Expression::Verdict(NFT_JUMP, Some(chain.to_string()))),
    }
}

fn bits(key: u32, bits: u32, op: u32, out: &mut Vec<Expression>) {
    out.extend([
        Expression::Ct(key),
        Expression::Mask(bits.to_ne_bytes().to_vec()),
        Expression::Compare(op, vec![0; 4]),
    ]);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An address compared with a prefix: whole bytes alone where that does.
fn prefix(offset: u32, net: IpNet, out: &mut Vec<Expression>) {
    let bytes = octets(net.network());
    let length = usize::from(net.prefix_len());
    if length.is_multiple_of(8) && length > 0 {
        let whole: Vec<u8> = bytes.into_iter().take(length / 8).collect();
        let size = u32::try_from(whole.len()).unwrap_or(0);
        out.extend([payload(base::NETWORK, offset, size), equal(&whole)]);
    } else {
        let size = u32::try_from(bytes.len()).unwrap_or(0);
        let mask = octets(net.netmask());
        out.extend([
            payload(base::NETWORK, offset, size),
            Expression::Mask(mask),
            equal(&bytes),
        ]);
    }
}

/// Reads instructions as terms; `None` if they aren't what we write.
pub(crate) fn raise(expressions: &[Expression], arp: bool) -> Option<Rule> {
    let mut rule = Rule::new();
    let mut rest = expressions;
    let mut family = None;
    while !rest.is_empty() {
        let (term, used) = next(rest, family, arp)?;
        if let Term::Family(f) = term {
            family = Some(f);
        }
        rule.push(term);
        rest = rest.get(used..)?;
    }
    // One form for each: what is read must compile to what was there.
    (compile(&rule) == expressions).then_some(rule)
}

/// The first term, and how many instructions it took.
fn next(rest: &[Expression], family: Option<Family>, arp: bool) -> Option<(Term, usize)> {
    use Expression as E;
    let term = match rest {
        [
            E::Meta(meta::IIFTYPE),
            E::Compare(op::EQ, _),
            E::Meta(meta::IIFNAME),
            ..,
        ] => key(rest.get(2..)?, family, arp).map(|(term, used)| (term, used + 2))?,
        [
            E::Meta(meta::IIFNAME),
            E::Payload {
                register: REGISTER_16,
                ..
            },
            ..,
        ] => key(rest, family, arp)?,
        [
            E::Meta(meta::IIFTYPE),
            E::Compare(op::EQ, _),
            E::Payload {
                base: base::LINK, ..
            },
            E::Compare(op::EQ, mac),
            ..,
        ] => (Term::EtherSource(hardware(mac)?), 4),
        [E::Meta(key @ (meta::IIFNAME | meta::OIFNAME)), then, ..] => {
            let way = if *key == meta::IIFNAME {
                Way::In
            } else {
                Way::Out
            };
            match then {
                E::Compare(op::EQ, bytes) => {
                    let name: IfName = std::str::from_utf8(bytes).ok()?.parse().ok()?;
                    (Term::DevicePrefix(way, name), 2)
                }
                E::Lookup { set, verdict } => {
                    let set = set.as_str().into();
                    let term = if *verdict {
                        Term::Dispatch(way, set)
                    } else {
                        Term::DeviceIn(way, set)
                    };
                    (term, 2)
                }
                _ => return None,
            }
        }
        [E::Meta(meta::NFPROTO), E::Compare(op::EQ, number), ..] => match number.as_slice() {
            [NFPROTO_IPV4] => (Term::Family(Family::V4), 2),
            [NFPROTO_IPV6] => (Term::Family(Family::V6), 2),
            _ => return None,
        },
        [E::Meta(meta::L4PROTO), E::Compare(op::EQ, number), ..] => match number.as_slice() {
            [number] => (Term::Protocol(*number), 2),
            _ => return None,
        },
        [
            E::Payload {
                base: base::NETWORK,
                offset,
                register: REGISTER,
                ..
            },
            tail @ ..,
        ] => network(*offset, tail, family, arp)?,
        [
            E::Payload {
                base: base::TRANSPORT,
                offset,
                length,
                register: REGISTER,
            },
            tail @ ..,
        ] => transport(*offset, *length, tail, family)?,
        [E::Ct(key), E::Mask(bits), E::Compare(op, _), ..] => {
            let bits = bits.as_slice().try_into().ok().map(u32::from_ne_bytes)?;
            match (*key, bits, *op) {
                (ct::STATE, KNOWN, op::NEQ) => (Term::Known, 3),
                (ct::STATE, KNOWN, op::EQ) => (Term::Unknown, 3),
                (ct::STATUS, CONFIRMED, op::EQ) => (Term::New, 3),
                _ => return None,
            }
        }
        [E::Counter(name), ..] => (Term::Count(name.as_str().into()), 1),
        [E::Log { group, prefix }, ..] => (Term::Log(*group, prefix.as_str().into()), 1),
        [E::Verdict(NF_ACCEPT, None), ..] => (Term::Accept, 1),
        [E::Verdict(NF_DROP, None), ..] => (Term::Drop, 1),
        [E::Verdict(NFT_JUMP, Some(chain)), ..] => (Term::Jump(chain.as_str().into()), 1),
        _ => return None,
    };
    Some(term)
}

/// A key of several parts, which begins with the device's name.
fn key(rest: &[Expression], family: Option<Family>, arp: bool) -> Option<(Term, usize)> {
    use Expression as E;
    let [_, E::Payload { base: of, .. }, tail @ ..] = rest else {
        return None;
    };
    let name = |set: &String| set.as_str().into();
    match tail {
        [E::Lookup { set, .. }, ..] => Some((Term::DestinationIn(family?, name(set)), 3)),
        [E::Payload { .. }, E::Lookup { set, .. }, ..] => {
            let term = match (arp, *of) {
                (false, base::LINK) => Term::SourceIn(family?, name(set)),
                (true, base::LINK) => Term::ArpSourceIn(name(set)),
                (true, base::NETWORK) => Term::ArpSenderIn(name(set)),
                _ => return None,
            };
            Some((term, 4))
        }
        _ => None,
    }
}

fn hardware(bytes: &[u8]) -> Option<Mac> {
    Mac::new(bytes.try_into().ok()?).ok()
}

/// A field of the network header, behind its `payload`.
fn network(
    offset: u32,
    tail: &[Expression],
    family: Option<Family>,
    arp: bool,
) -> Option<(Term, usize)> {
    use Expression as E;
    if arp && offset == ARP_MAC {
        return match tail {
            [E::Compare(op::EQ, mac), ..] => Some((Term::ArpMac(hardware(mac)?), 2)),
            _ => None,
        };
    }
    let family = if arp { Family::V4 } else { family? };
    let side = [Side::Source, Side::Destination]
        .into_iter()
        .find(|side| address_field(family, *side).0 == offset);
    if let [
        E::Lookup {
            set,
            verdict: false,
        },
        ..,
    ] = tail
    {
        return Some((Term::AddressIn(side?, family, set.as_str().into()), 2));
    }
    let (bytes, length, used) = match tail {
        [E::Compare(op::EQ, bytes), ..] => (bytes, bytes.len() * 8, 2),
        [E::Mask(mask), E::Compare(op::EQ, bytes), ..] => (
            bytes,
            mask.iter().map(|byte| byte.leading_ones() as usize).sum(),
            3,
        ),
        _ => return None,
    };
    let mut bytes = bytes.clone();
    let address: IpAddr = match family {
        Family::V4 => {
            bytes.resize(4, 0);
            <[u8; 4]>::try_from(bytes).ok()?.into()
        }
        Family::V6 => {
            bytes.resize(16, 0);
            <[u8; 16]>::try_from(bytes).ok()?.into()
        }
    };
    let net = IpNet::new(address, u8::try_from(length).ok()?).ok()?;
    let term = if arp {
        Term::ArpAddress(net)
    } else {
        Term::Address(side?, net)
    };
    Some((term, used))
}

/// A field of the transport header, behind its `payload`.
fn transport(
    offset: u32,
    length: u32,
    tail: &[Expression],
    family: Option<Family>,
) -> Option<(Term, usize)> {
    use Expression as E;
    let port = |bytes: &[u8]| bytes.try_into().ok().map(u16::from_be_bytes);
    match (offset, length, tail) {
        (
            2,
            2,
            [
                E::Lookup {
                    set,
                    verdict: false,
                },
                ..,
            ],
        ) => Some((Term::PortIn(set.as_str().into()), 2)),
        (2, 2, [E::Compare(op::EQ, bytes), ..]) => {
            let port = port(bytes)?;
            Some((Term::Port(port, port), 2))
        }
        (2, 2, [E::Compare(op::GTE, first), E::Compare(op::LTE, last), ..]) => {
            Some((Term::Port(port(first)?, port(last)?), 3))
        }
        (0, 4, [E::Compare(op::EQ, bytes), ..]) => {
            let (source, destination) = bytes.split_at_checked(2)?;
            Some((Term::Ports(port(source)?, port(destination)?), 2))
        }
        (GIADDR, 4, [E::Compare(op::NEQ, none), ..]) if none.iter().all(|byte| *byte == 0) => {
            Some((Term::Relayed, 2))
        }
        (0, 1, [E::Compare(op::GTE, first), E::Compare(op::LTE, last), ..]) => {
            match (first.as_slice(), last.as_slice()) {
                ([first], [last]) => Some((Term::IcmpTypes(family?, *first, *last), 3)),
                _ => None,
            }
        }
        (0, 1 | 2, [E::Compare(op::EQ, bytes), ..]) => match bytes.as_slice() {
            [kind] => Some((Term::IcmpType(family?, *kind), 2)),
            [kind, code] => Some((Term::IcmpCode(family?, *kind, *code), 2)),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        nft::{attribute::Writer, uapi::NFTA_LIST_ELEM},
        wire::Attributes,
    };

    fn net(four: bool) -> impl Strategy<Value = IpNet> {
        (any::<u128>(), 1..=128_u8).prop_map(move |(bits, length)| {
            let (address, length) = if four {
                let [.., a, b, c, d] = bits.to_be_bytes();
                (IpAddr::from([a, b, c, d]), length % 32 + 1)
            } else {
                (IpAddr::from(bits.to_be_bytes()), length)
            };
            IpNet::new(address, length).unwrap().trunc()
        })
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
        let side = prop_oneof![Just(Side::Source), Just(Side::Destination)];
        let name = "[a-z][a-z0-9./_-]{0,40}".prop_map(|name| Name::from(name.as_str()));
        family.prop_flat_map(move |family| {
            let address = (side.clone(), net(family == Family::V4))
                .prop_map(|(side, net)| Term::Address(side, net));
            let term = prop_oneof![
                address,
                (side.clone(), name.clone())
                    .prop_map(move |(side, set)| Term::AddressIn(side, family, set)),
                any::<u8>().prop_map(Term::Protocol),
                any::<(u16, u16)>()
                    .prop_map(|(source, destination)| Term::Ports(source, destination)),
                any::<(u16, u16)>().prop_map(|(first, last)| Term::Port(first, last)),
                name.clone().prop_map(Term::PortIn),
                any::<u8>().prop_map(move |kind| Term::IcmpType(family, kind)),
                any::<(u8, u8)>().prop_map(move |(kind, code)| Term::IcmpCode(family, kind, code)),
                any::<(u8, u8)>()
                    .prop_map(move |(first, last)| Term::IcmpTypes(family, first, last)),
                name.clone().prop_map(|set| Term::DeviceIn(Way::Out, set)),
                name.clone()
                    .prop_map(move |set| Term::SourceIn(family, set)),
                name.clone()
                    .prop_map(move |set| Term::DestinationIn(family, set)),
                name.clone().prop_map(Term::Count),
                (any::<u16>(), name.clone()).prop_map(|(group, prefix)| Term::Log(group, prefix)),
                name.clone().prop_map(Term::Jump),
                name.clone().prop_map(|map| Term::Dispatch(Way::Out, map)),
                prop_oneof![
                    Just(Term::Relayed),
                    Just(Term::Known),
                    Just(Term::Unknown),
                    Just(Term::New),
                    Just(Term::Accept),
                    Just(Term::Drop)
                ],
                Just(Term::EtherSource("fa:16:3e:00:00:01".parse().unwrap())),
            ];
            prop::collection::vec(term, 0..8).prop_map(move |mut rule| {
                rule.insert(0, Term::Family(family));
                rule
            })
        })
    }

    proptest! {
        /// Every rule is read back from its bytes as what it was.
        #[test]
        fn rules_read_back(rule in rule()) {
            let mut writer = Writer::default();
            for expression in compile(&rule) {
                writer.nest(NFTA_LIST_ELEM, |to| expression.write(to));
            }
            let bytes = writer.finish();
            let read: Option<Vec<Expression>> =
                Attributes(&bytes).map(|(_, element)| Expression::read(element)).collect();
            prop_assert_eq!(raise(&read.unwrap(), false), Some(rule));
        }

        /// Bytes that we didn't write may be anything: they read as ours or not,
        /// and nothing else happens.
        #[test]
        fn any_bytes_end(rule in rule(), cut in any::<prop::sample::Index>(), with in any::<u8>(), arp in any::<bool>()) {
            let mut writer = Writer::default();
            for expression in compile(&rule) {
                writer.nest(NFTA_LIST_ELEM, |to| expression.write(to));
            }
            let mut bytes = writer.finish();
            let place = cut.index(bytes.len());
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= with;
            }
            for bytes in [bytes.as_slice(), bytes.get(..place).unwrap_or_default()] {
                let read: Option<Vec<Expression>> =
                    Attributes(bytes).map(|(_, element)| Expression::read(element)).collect();
                if let Some(read) = read
                    && let Some(rule) = raise(&read, arp)
                {
                    prop_assert_eq!(compile(&rule), read);
                }
            }
        }
    }
}

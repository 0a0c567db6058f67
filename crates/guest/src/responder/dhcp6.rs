//! DHCPv6 (RFC 8415), for one client whose answers are known: its port's
//! addresses are its own whatever it does, so there is nothing to lease, to
//! remember, or to be taken by somebody else.

use std::net::Ipv6Addr;

use l2isolate_model::guest::ipv6::{Answers, Dhcp};

use super::{
    Local,
    frame::{Address, Packet, SERVER, array, dhcpv6},
};

/// All relay agents and servers (RFC 8415, 7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Longest message, so that a packet fits IPv6's least MTU.
const LONGEST: usize = 1280 - 40 - 8;
/// Longest identifier of a client (RFC 8415, 11.1).
const DUID: usize = 130;
/// Identity associations that one message gets answers for.
const ASSOCIATIONS: usize = 8;

/// Message types (7.3).
mod message {
    pub(super) const SOLICIT: u8 = 1;
    pub(super) const ADVERTISE: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const CONFIRM: u8 = 4;
    pub(super) const RENEW: u8 = 5;
    pub(super) const REBIND: u8 = 6;
    pub(super) const REPLY: u8 = 7;
    pub(super) const RELEASE: u8 = 8;
    pub(super) const DECLINE: u8 = 9;
    pub(super) const INFORMATION_REQUEST: u8 = 11;
}

/// Options (21).
mod option {
    pub(super) const CLIENT_ID: u16 = 1;
    pub(super) const SERVER_ID: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const IA_TA: u16 = 4;
    pub(super) const IA_ADDRESS: u16 = 5;
    pub(super) const REQUESTED: u16 = 6;
    pub(super) const PREFERENCE: u16 = 7;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RAPID_COMMIT: u16 = 14;
    pub(super) const IA_PD: u16 = 25;
    pub(super) const REFRESH_TIME: u16 = 32;
    pub(super) const CLIENT_FQDN: u16 = 39;
}

/// Status codes (21.13).
mod status {
    pub(super) const SUCCESS: u16 = 0;
    pub(super) const NO_ADDRESSES: u16 = 2;
    pub(super) const NOT_ON_LINK: u16 = 4;
    pub(super) const NO_PREFIX: u16 = 6;
}

/// Options, one after the other.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let code = u16::from_be_bytes(array(self.0, 0)?);
        let length = usize::from(u16::from_be_bytes(array(self.0, 2)?));
        let content = self.0.get(4..4 + length)?;
        self.0 = self.0.get(4 + length..)?;
        Some((code, content))
    }
}

fn find(options: &[u8], code: u16) -> Option<&[u8]> {
    Options(options)
        .find(|(found, _)| *found == code)
        .map(|(_, content)| content)
}

/// An answer that is being written.
struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    /// An option, if there is room for it.
    fn put(&mut self, code: u16, content: &[u8]) {
        let Ok(length) = u16::try_from(content.len()) else {
            return;
        };
        if self.bytes.len() + 4 + content.len() <= LONGEST {
            self.bytes.extend(code.to_be_bytes());
            self.bytes.extend(length.to_be_bytes());
            self.bytes.extend(content);
        }
    }
}

/// An option by itself.
fn encoded(code: u16, content: &[u8]) -> Vec<u8> {
    let mut answer = Answer { bytes: Vec::new() };
    answer.put(code, content);
    answer.bytes
}

fn status(code: u16) -> Vec<u8> {
    encoded(option::STATUS, &code.to_be_bytes())
}

/// The answer to a client's message.
pub(super) fn answer(local: &Local, answers: &Answers, packet: &Packet<'_>) -> Option<Vec<u8>> {
    let dhcp = answers.dhcp.as_ref()?;
    // Only the port's own hardware address, and by multicast (18.4).
    let asked = packet.mac == answers.mac
        && packet.destination == SERVERS
        && packet.source.is_unicast_link_local();
    if !asked || u16::from_be_bytes(array(packet.payload, 2)?) != SERVER {
        return None;
    }
    let length = usize::from(u16::from_be_bytes(array(packet.payload, 4)?));
    let request = packet.payload.get(8..length)?;
    let message = reply(local, dhcp, request)?;
    let to = Address {
        mac: packet.mac.bytes(),
        ip: packet.source,
    };
    Some(dhcpv6(local.address(), to, &message))
}

fn reply(local: &Local, dhcp: &Dhcp, request: &[u8]) -> Option<Vec<u8>> {
    let [kind, transaction @ ..] = array::<4>(request, 0)?;
    let options = request.get(4..)?;
    let client = find(options, option::CLIENT_ID).filter(|id| (3..=DUID).contains(&id.len()));
    let server = find(options, option::SERVER_ID);
    // Who must be named and who mustn't (16.2 to 16.12).
    let addressed = match kind {
        message::SOLICIT | message::CONFIRM | message::REBIND => {
            server.is_none() && client.is_some()
        }
        message::REQUEST | message::RENEW | message::RELEASE | message::DECLINE => {
            server == Some(&local.duid()[..]) && client.is_some()
        }
        message::INFORMATION_REQUEST => server.is_none_or(|id| id == &local.duid()[..]),
        _ => false,
    };
    if !addressed {
        return None;
    }
    let rapid = find(options, option::RAPID_COMMIT).is_some();
    let answer_kind = match kind {
        message::SOLICIT if !rapid => message::ADVERTISE,
        _ => message::REPLY,
    };
    let mut answer = Answer {
        bytes: vec![answer_kind],
    };
    answer.bytes.extend(transaction);
    if let Some(client) = client {
        answer.put(option::CLIENT_ID, client);
    }
    answer.put(option::SERVER_ID, &local.duid());
    match kind {
        message::SOLICIT | message::REQUEST | message::RENEW | message::REBIND => {
            if kind == message::SOLICIT {
                // No other server is worth waiting for (21.8).
                answer.put(option::PREFERENCE, &[255]);
                if rapid {
                    answer.put(option::RAPID_COMMIT, &[]);
                }
            }
            associations(&mut answer, dhcp, options);
        }
        message::CONFIRM => {
            let ours = asked_addresses(options).map(|address| dhcp.addresses.contains(&address));
            let all: Vec<bool> = ours.collect();
            // Nothing asked, nothing to say (18.3.3).
            if all.is_empty() {
                return None;
            }
            let code = if all.iter().all(|ours| *ours) {
                status::SUCCESS
            } else {
                status::NOT_ON_LINK
            };
            answer.put(option::STATUS, &code.to_be_bytes());
        }
        message::RELEASE | message::DECLINE => {
            answer.put(option::STATUS, &status::SUCCESS.to_be_bytes());
        }
        _ => answer.put(option::REFRESH_TIME, &dhcp.lifetime.max(600).to_be_bytes()),
    }
    further(&mut answer, dhcp, options);
    Some(answer.bytes)
}

/// The addresses in a client's associations.
fn asked_addresses(options: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    let associations = Options(options).filter(|(code, _)| *code == option::IA_NA);
    associations.flat_map(|(_, content)| {
        let addresses = Options(content.get(12..).unwrap_or_default());
        addresses.filter_map(|(code, content)| {
            (code == option::IA_ADDRESS).then(|| array::<16>(content, 0).map(Ipv6Addr::from))?
        })
    })
}

/// An answer for each association: the first one of addresses has them all.
fn associations(answer: &mut Answer, dhcp: &Dhcp, options: &[u8]) {
    let mut given = false;
    for (code, content) in Options(options)
        .filter(|(code, _)| matches!(*code, option::IA_NA | option::IA_TA | option::IA_PD))
        .take(ASSOCIATIONS)
    {
        let Some(id) = array::<4>(content, 0) else {
            continue;
        };
        let mut association = id.to_vec();
        if code != option::IA_TA {
            // T1 and T2 (21.4): a half, and four fifths.
            association.extend((dhcp.lifetime / 2).to_be_bytes());
            association.extend((dhcp.lifetime / 5 * 4).to_be_bytes());
        }
        if code == option::IA_NA && !given && !dhcp.addresses.is_empty() {
            given = true;
            let mut put = |address: Ipv6Addr, lifetime: u32| {
                let mut content = address.octets().to_vec();
                content.extend(lifetime.to_be_bytes());
                content.extend(lifetime.to_be_bytes());
                association.extend(encoded(option::IA_ADDRESS, &content));
            };
            for address in &dhcp.addresses {
                put(*address, dhcp.lifetime);
            }
            // What it had and shall not have any more (18.3.4).
            let one = encoded(code, content);
            for other in asked_addresses(&one)
                .filter(|a| !dhcp.addresses.contains(a))
                .take(ASSOCIATIONS)
            {
                put(other, 0);
            }
        } else {
            let why = if code == option::IA_PD {
                status::NO_PREFIX
            } else {
                status::NO_ADDRESSES
            };
            association.extend(status(why));
        }
        answer.put(code, &association);
    }
}

/// What else the client wants to know: what it asks for, or all of it if it
/// doesn't say.
fn further(answer: &mut Answer, dhcp: &Dhcp, options: &[u8]) {
    let requested: Option<Vec<u16>> = find(options, option::REQUESTED).map(|content| {
        let codes = content.chunks_exact(2);
        codes
            .filter_map(|code| array(code, 0).map(u16::from_be_bytes))
            .collect()
    });
    let wanted = |code: u16| requested.as_ref().is_none_or(|codes| codes.contains(&code));
    for (code, content) in dhcp.options.iter().filter(|(code, _)| wanted(*code)) {
        answer.put(*code, content);
    }
    let asks = requested.is_some_and(|codes| codes.contains(&option::CLIENT_FQDN))
        || find(options, option::CLIENT_FQDN).is_some();
    if let Some(name) = dhcp.name.as_ref().filter(|_| asks) {
        // No flags: nobody updates DNS here (RFC 4704, 4.1).
        let mut content = vec![0];
        content.extend_from_slice(name);
        answer.put(option::CLIENT_FQDN, &content);
    }
}

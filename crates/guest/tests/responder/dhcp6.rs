//! DHCPv6: the exchanges of RFC 8415, section 18.

use super::{
    GUEST, HOST, LINK_LOCAL, OWN, answers, ask,
    frames::{frame, read},
    ip, local,
};
use l2isolate_guest::responder::respond;

const CLIENT: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 1, 1];
const OTHER: &str = "2001:db8:252::1:2";

fn server() -> Vec<u8> {
    [&[0, 3, 0, 1][..], &HOST].concat()
}

fn option(code: u16, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u16;
    [&code.to_be_bytes()[..], &length.to_be_bytes(), content].concat()
}

/// An association with addresses in it.
fn association(addresses: &[&str]) -> Vec<u8> {
    let mut content = vec![0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    for address in addresses {
        let inner = [&ip(address).octets()[..], &[0; 8]].concat();
        content.extend(option(5, &inner));
    }
    option(3, &content)
}

pub(crate) fn message(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    let mut datagram = vec![2, 0x22, 2, 0x23, 0, 0, 0, 0, kind, 1, 2, 3];
    datagram.extend(options.concat());
    let length = datagram.len() as u16;
    datagram[4..6].copy_from_slice(&length.to_be_bytes());
    frame(GUEST, ip(LINK_LOCAL), ip("ff02::1:2"), 17, 1, datagram, 6)
}

fn client() -> Vec<u8> {
    option(1, &CLIENT)
}

/// An answer's type, and its options one by one.
fn parsed(answer: &[u8]) -> (u8, Vec<(u16, Vec<u8>)>) {
    let answer = read(answer);
    assert_eq!((answer.to, answer.from), (GUEST, HOST));
    assert_eq!(answer.destination, ip(LINK_LOCAL));
    assert_eq!(answer.payload[..4], [2, 0x23, 2, 0x22], "ports");
    let dhcp = &answer.payload[8..];
    assert_eq!(dhcp[1..4], [1, 2, 3], "transaction");
    (dhcp[0], options(&dhcp[4..]))
}

fn options(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (code, length) = (number(0), usize::from(number(2)));
        found.push((code, bytes[4..4 + length].to_vec()));
        bytes = &bytes[4 + length..];
    }
    found
}

fn find(options: &[(u16, Vec<u8>)], code: u16) -> Option<Vec<u8>> {
    options
        .iter()
        .find(|(found, _)| *found == code)
        .map(|(_, content)| content.clone())
}

/// The addresses of an answer's association with their valid lifetimes.
fn given(options: &[(u16, Vec<u8>)]) -> Vec<(String, u32)> {
    let content = find(options, 3).unwrap();
    assert_eq!(content[..4], [0, 0, 0, 7], "whose association it is");
    let addresses = self::options(&content[12..])
        .into_iter()
        .filter(|(code, _)| *code == 5);
    addresses
        .map(|(_, content)| {
            let address = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&content[..16]).unwrap());
            assert_eq!(
                content[16..20],
                content[20..24],
                "preferred for as long as valid"
            );
            (
                address.to_string(),
                u32::from_be_bytes(content[20..24].try_into().unwrap()),
            )
        })
        .collect()
}

/// Solicit, request, renew, rebind: the port's address each time, for good.
#[test]
fn a_client_gets_its_ports_address() {
    let own = vec![(OWN.to_owned(), 86400)];
    let (kind, options) = parsed(&ask(&message(1, &[client(), association(&[])])).unwrap());
    assert_eq!((kind, given(&options)), (2, own.clone()));
    assert_eq!(find(&options, 1).unwrap(), CLIENT);
    assert_eq!(find(&options, 2).unwrap(), server());
    assert_eq!(find(&options, 7).unwrap(), [255]);
    // Without a list of what is wanted, all there is.
    assert_eq!(find(&options, 59).unwrap(), b"http://boot");
    let to_us = option(2, &server());
    for kind in [3, 5] {
        let frame = message(kind, &[client(), to_us.clone(), association(&[OWN])]);
        let (answer, options) = parsed(&ask(&frame).unwrap());
        assert_eq!((answer, given(&options)), (7, own.clone()), "{kind}");
    }
    let (kind, options) = parsed(&ask(&message(6, &[client(), association(&[OWN])])).unwrap());
    assert_eq!((kind, given(&options)), (7, own.clone()));
    // At once, if the client can do with it.
    let rapid = option(14, &[]);
    let (kind, options) = parsed(&ask(&message(1, &[client(), rapid, association(&[])])).unwrap());
    assert_eq!((kind, given(&options)), (7, own));
    assert!(find(&options, 14).is_some());
}

/// Another's address isn't given, whoever asks and how: what made dnsmasq's
/// DHCPv6 unusable for more than one tenant.
#[test]
fn anothers_address_is_taken_back() {
    for kind in [1, 6] {
        let frame = message(kind, &[client(), association(&[OTHER, "2001:db8:ffff::1"])]);
        let (_, options) = parsed(&ask(&frame).unwrap());
        let lifetimes = given(&options);
        assert_eq!(lifetimes[0], (OWN.to_owned(), 86400));
        assert!(
            lifetimes[1..].iter().all(|(_, lifetime)| *lifetime == 0),
            "{lifetimes:?}"
        );
    }
    // Is this where I am?
    let status = |addresses: &[&str]| {
        let (_, options) = parsed(&ask(&message(4, &[client(), association(addresses)])).unwrap());
        find(&options, 13).unwrap()
    };
    assert_eq!(status(&[OWN]), [0, 0]);
    assert_eq!(status(&[OWN, OTHER]), [0, 4]);
    assert_eq!(ask(&message(4, &[client(), association(&[])])), None);
    // Given back or declined, it stays the port's.
    for kind in [8, 9] {
        let frame = message(kind, &[client(), option(2, &server()), association(&[OWN])]);
        let (answer, options) = parsed(&ask(&frame).unwrap());
        assert_eq!((answer, find(&options, 13).unwrap()), (7, vec![0, 0]));
    }
}

/// A second association, temporary addresses, prefixes: there are none.
#[test]
fn there_is_one_association() {
    let second = option(3, &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let temporary = option(4, &[0, 0, 0, 9]);
    let prefix = option(25, &[0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
    let frame = message(1, &[client(), association(&[]), second, temporary, prefix]);
    let (_, options) = parsed(&ask(&frame).unwrap());
    assert_eq!(given(&options).len(), 1);
    let status = |content: &[u8], at: usize| self::options(&content[at..]);
    let others: Vec<(u16, Vec<u8>)> = options
        .into_iter()
        .filter(|(code, _)| matches!(code, 3 | 4 | 25))
        .skip(1)
        .collect();
    assert_eq!(status(&others[0].1, 12), [(13, vec![0, 2])]);
    assert_eq!(status(&others[1].1, 4), [(13, vec![0, 2])]);
    assert_eq!(status(&others[2].1, 12), [(13, vec![0, 6])]);
}

/// Stateless: no address, the rest as asked for; also without an identifier.
#[test]
fn only_information_is_given_where_that_is_asked() {
    let asked = option(6, &[0, 23, 0, 39]);
    let (kind, options) = parsed(&ask(&message(11, std::slice::from_ref(&asked))).unwrap());
    assert_eq!(kind, 7);
    assert_eq!(find(&options, 23).unwrap(), ip("2001:db8::53").octets());
    assert_eq!(
        find(&options, 39).unwrap(),
        b"\0\x05web-1\x07example\x03org\0"
    );
    assert_eq!(find(&options, 59), None);
    assert_eq!(find(&options, 3), None);
    let mut stateless = answers();
    stateless.dhcp.as_mut().unwrap().addresses.clear();
    let frame = message(1, &[client(), association(&[]), asked]);
    let (_, options) = parsed(&respond(&local(), &stateless, &frame).unwrap());
    assert_eq!(
        self::options(&find(&options, 3).unwrap()[12..]),
        [(13, vec![0, 2])]
    );
    stateless.dhcp = None;
    assert_eq!(respond(&local(), &stateless, &frame), None);
}

/// Messages that name the wrong server, or one where none may be named, or no
/// client, get no answer (16.2 to 16.12); nor do relays and answers.
#[test]
fn what_isnt_for_us_gets_no_answer() {
    let (us, them) = (
        option(2, &server()),
        option(2, &[0, 3, 0, 1, 1, 1, 1, 1, 1, 1]),
    );
    let ia = association(&[OWN]);
    let silent = [
        message(1, &[client(), us.clone(), ia.clone()]),
        message(1, std::slice::from_ref(&ia)),
        message(3, &[client(), ia.clone()]),
        message(3, &[client(), them.clone(), ia.clone()]),
        message(5, &[client(), them.clone(), ia.clone()]),
        message(6, &[client(), us.clone(), ia.clone()]),
        message(11, &[them]),
        message(2, &[client(), us.clone()]),
        message(7, &[client(), us]),
        message(12, &[client()]),
        message(1, &[option(1, &[0; 131]), ia.clone()]),
        message(1, &[option(1, &[0; 2]), ia]),
    ];
    for frame in silent {
        assert_eq!(ask(&frame), None, "{frame:02x?}");
    }
}

/// An answer fits IPv6's least MTU, whatever there is to say.
#[test]
fn an_answer_is_never_too_long() {
    let mut verbose = answers();
    let dhcp = verbose.dhcp.as_mut().unwrap();
    dhcp.options = (100..120).map(|code| (code, vec![7; 300].into())).collect();
    let addresses = [OTHER; 60];
    let frame = message(1, &[client(), association(&addresses)]);
    let answer = respond(&local(), &verbose, &frame).unwrap();
    assert!(answer.len() <= 14 + 1280, "{}", answer.len());
    let (_, options) = parsed(&answer);
    assert_eq!(given(&options)[0].0, OWN);
}

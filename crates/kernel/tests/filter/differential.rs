//! Every verdict of the real kernel equals the judge's.

use std::{cell::RefCell, collections::BTreeSet};

use l2isolate_kernel::testing::in_new_netns;
use proptest::{
    prelude::ProptestConfig,
    test_runner::{TestCaseError, TestRunner},
};

use crate::{
    cloud::{Cloud, UPLINK, address, cloud, mac},
    judge::{Wire, arrives},
    rig::Rig,
};

/// Clouds drawn unless more are asked for, with 60 packets and their answers.
const CASES: u32 = 80;

/// Groups, ports and packets at random: what arrives is what Neutron's
/// semantics say, no more and no less, at the right place.
#[test]
fn verdicts_equal_the_judges() {
    let cases = std::env::var("L2ISOLATE_FILTER_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(CASES);
    in_new_netns(|| {
        let rig = RefCell::new(Rig::new());
        let pairs = RefCell::new((0_usize, 0_usize));
        let config = ProptestConfig {
            cases,
            failure_persistence: None,
            max_shrink_iters: 400,
            ..ProptestConfig::default()
        };
        let result = TestRunner::new(config).run(&cloud(), |cloud| {
            let (all, passed) = check(&mut rig.borrow_mut(), &cloud)?;
            let mut pairs = pairs.borrow_mut();
            pairs.0 += all;
            pairs.1 += passed;
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{failure}");
        }
        let (all, passed) = pairs.into_inner();
        println!("{all} packets compared, {passed} of them arrived");
        assert!(
            cases < CASES || all >= 3000,
            "only {all} packets were compared"
        );
        assert!(
            passed * 10 > all,
            "too few arrive ({passed} of {all}) to tell anything"
        );
    });
}

/// Packets compared, and how many of them arrived.
fn check(rig: &mut Rig, cloud: &Cloud) -> Result<(usize, usize), TestCaseError> {
    rig.apply(cloud);
    let mut seen = BTreeSet::new();
    let mut packets: Vec<(u32, Wire)> = Vec::new();
    for (number, packet) in cloud.packets.iter().enumerate() {
        let number = u16::try_from(number).unwrap();
        let wire = Wire::new(packet, number);
        // Back to where it came from; and ICMP errors, which speak of other
        // packets, and neighbour discovery, which isn't passed on.
        let looping = wire.target() == wire.from;
        let special = wire.is_icmp()
            && [1, 2, 3, 4, 5, 11, 12, 133, 134, 135, 136, 137].contains(&wire.icmp.0);
        // Protocols whose ports aren't known to connection tracking have one
        // flow for each pair of addresses; DCCP is among them.
        let mut ends = [wire.source, wire.destination];
        ends.sort_unstable();
        let flows = wire.has_ports() && wire.protocol != 33;
        let again = !flows && !wire.is_icmp() && !seen.insert((ends, wire.protocol));
        if !looping && !special && !again {
            packets.push((number.into(), wire));
        }
    }
    let (mut all, mut passed) = compare(rig, cloud, &packets)?;
    // Answers to what has arrived, of protocols that have answers.
    let answers: Vec<(u32, Wire)> = packets
        .iter()
        .filter(|(number, wire)| cloud.packets[*number as usize].answer && arrives(cloud, wire))
        .filter_map(|(number, wire)| Some((number + 1000, answer(wire)?)))
        .collect();
    let (more, answered) = compare(rig, cloud, &answers)?;
    all += more;
    passed += answered;
    Ok((all, passed))
}

fn answer(wire: &Wire) -> Option<Wire> {
    let icmp = match (wire.protocol, wire.icmp) {
        (1, (8, 0)) => (0, 0),
        (58, (128, 0)) => (129, 0),
        (6 | 17, _) => (0, 0),
        _ => return None,
    };
    let from = wire.target();
    Some(Wire {
        from,
        mac: mac(from),
        source: wire.destination,
        destination: wire.source,
        source_port: if wire.is_icmp() {
            wire.source_port
        } else {
            wire.destination_port
        },
        destination_port: wire.source_port,
        protocol: wire.protocol,
        icmp,
        known: true,
    })
}

fn own_address(wire: &Wire) -> std::net::IpAddr {
    let place = u8::try_from(wire.from).unwrap();
    address(wire.source.is_ipv6(), place).parse().unwrap()
}

fn compare(
    rig: &mut Rig,
    cloud: &Cloud,
    packets: &[(u32, Wire)],
) -> Result<(usize, usize), TestCaseError> {
    let arrived = rig.send(packets);
    let mut passed = 0;
    for (number, wire) in packets {
        let expected: Vec<usize> = if arrives(cloud, wire) {
            vec![wire.target()]
        } else {
            Vec::new()
        };
        let found = arrived.get(number).cloned().unwrap_or_default();
        if found != expected {
            let reason =
                format!("packet {number} {wire:?}: expected at {expected:?}, seen at {found:?}");
            return Err(TestCaseError::fail(reason));
        }
        // What ends flows must judge as the kernel does. It knows no hardware
        // addresses, and nothing of flows between strangers.
        let own = wire.from != UPLINK && wire.source == own_address(wire);
        let flow = own || (wire.from == UPLINK && wire.target() != UPLINK);
        if flow
            && !wire.known
            && wire.mac == mac(wire.from)
            && rig.planned(wire) == expected.is_empty()
        {
            let reason =
                format!("packet {number} {wire:?}: the plan says otherwise than {expected:?}");
            return Err(TestCaseError::fail(reason));
        }
        passed += expected.len();
    }
    Ok((packets.len(), passed))
}

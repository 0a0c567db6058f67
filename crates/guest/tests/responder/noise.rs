//! Any bytes whatever: no panic, and an answer only in form.

use proptest::prelude::*;

use super::{
    GATEWAY, GUEST, HOST, LINK_LOCAL, OWN, ask,
    dhcp6::message,
    frames::read,
    ip,
    nd::{neighbour_solicitation, router_solicitation},
};

/// Frames that are answered, to be spoilt.
fn good() -> impl Strategy<Value = Vec<u8>> {
    let client = [&[0, 1, 0, 10][..], &[0, 3, 0, 1, 2, 0, 0, 0, 1, 1]].concat();
    let asks = vec![
        0, 3, 0, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 4, 0, 23, 0, 39,
    ];
    prop_oneof![
        Just(router_solicitation(GUEST, LINK_LOCAL)),
        Just(neighbour_solicitation(
            GUEST,
            LINK_LOCAL,
            "2001:db8:252::77"
        )),
        (1..13_u8).prop_map(move |kind| message(kind, &[client.clone(), asks.clone()])),
    ]
}

fn in_form(frame: &[u8]) {
    let Some(answer) = ask(frame) else { return };
    assert!(answer.len() <= 14 + 1280);
    let answer = read(&answer);
    assert_eq!(answer.from, HOST);
    assert!(answer.to == GUEST || answer.to == [0x33, 0x33, 0, 0, 0, 1]);
    if answer.protocol == 58 && answer.payload[0] == 136 {
        let target = &answer.payload[8..24];
        assert!(target != ip(OWN).octets() && target != ip(GATEWAY).octets());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn noise_is_no_question(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        in_form(&bytes);
    }

    #[test]
    fn a_spoilt_question_is_answered_in_form(
        frame in good(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut frame = frame;
        for (place, byte) in changes {
            let place = place.index(frame.len());
            frame[place] = byte;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        in_form(&frame);
    }
}

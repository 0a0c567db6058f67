//! The operators' page shows what the code writes.

use l2isolate_advertise::{Family, Handover, bird, frr};

#[test]
fn the_page_shows_what_the_code_writes() {
    let prefixes = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    let handover = Handover {
        protocol: 76,
        metric: 5,
        steps: 2,
        asn: 4_200_200_001,
        guests: prefixes(["10.252.0.0/16", "2001:db8:252::/64"]),
        loopbacks: prefixes(["10.255.0.0/16", "2001:db8:255::/48"]),
    };
    let page = include_str!("../../../docs/hand-over.md");
    for family in Family::ALL {
        let filter = bird::filter(&handover, family);
        assert!(page.contains(&filter), "docs/hand-over.md lacks:\n{filter}");
    }
    assert!(page.contains(bird::EXPORT));
    let policies = frr::policies(&handover);
    assert!(
        page.contains(&policies),
        "docs/hand-over.md lacks:\n{policies}"
    );
}

/// Without prefixes nothing gets out; a list that isn't there would let
/// everything.
#[test]
fn no_prefixes_let_nothing_out() {
    let handover = Handover {
        protocol: 76,
        metric: 5,
        steps: 2,
        asn: 4_200_200_001,
        guests: Vec::new(),
        loopbacks: Vec::new(),
    };
    let policies = frr::policies(&handover);
    assert!(policies.contains("ip prefix-list L2ISOLATE4 deny any"));
    assert!(policies.contains("ipv6 prefix-list L2ISOLATE6 deny any"));
    assert!(!bird::filter(&handover, Family::V4).contains("accept"));
}

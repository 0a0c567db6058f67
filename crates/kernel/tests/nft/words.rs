//! The two ways to write a firewall come to the same, and the kernel gives
//! back what it was told.

use l2isolate_kernel::{
    nft::{Nft, text},
    testing::in_new_netns,
};

use crate::common::{compare, everything, intent, nft, plan, put};

/// An operator who reads `nft list ruleset`, or saves and loads it, must see
/// what we meant: the encoder and `nft -f` of the same structure list the same.
#[test]
fn encoder_and_nft_list_the_same() {
    let objects = plan(&intent(&everything()));
    let encoded = in_new_netns(|| {
        put(&mut Nft::open().unwrap(), objects.clone());
        nft(&["list", "ruleset"], "")
    });
    let told = in_new_netns(|| {
        nft(&["-f", "-"], &text::render(&objects));
        nft(&["list", "ruleset"], "")
    });
    assert!(encoded.contains("jump group-g-one-in"), "{encoded}");
    for (one, other) in encoded.lines().zip(told.lines()) {
        assert_eq!(one, other, "encoder against nft -f");
    }
    assert_eq!(encoded, told);
    // What is listed can be loaded again: no line of it is only half a rule.
    let again = in_new_netns(|| {
        nft(&["-f", "-"], &encoded);
        nft(&["list", "ruleset"], "")
    });
    assert_eq!(again, encoded);
}

/// An agent that starts must recognise what its predecessor wrote, whoever of
/// the two ways wrote it: else it would write everything again.
#[test]
fn what_was_written_is_observed() {
    let objects = plan(&intent(&everything()));
    in_new_netns(|| {
        let mut kernel = Nft::open().unwrap();
        put(&mut kernel, objects.clone());
        compare(&kernel.observe().unwrap(), &objects);
    });
    in_new_netns(|| {
        nft(&["-f", "-"], &text::render(&objects));
        compare(&Nft::open().unwrap().observe().unwrap(), &objects);
    });
}

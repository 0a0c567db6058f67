//! Tables, chains, rules and sets as the kernel sends them.
#![no_main]

use l2isolate_kernel::testing::decoders;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    decoders::nftables(bytes);
});

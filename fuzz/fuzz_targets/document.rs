//! A document of intent, all the way to the plan: what a source brings must not
//! bring the agent down, and what can't be expressed must not open anything.
#![no_main]

use std::path::Path;

use l2isolate_model::{document, intent::Intent};
use l2isolate_plan::filter::{FilterConfig, Planner, base};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(document) = document::parse(text, Path::new("fuzz.json")) else {
        return;
    };
    let mut intent = Intent::default();
    let again = document.objects.clone();
    let outcome = intent.update(document.objects);
    let config = FilterConfig::default();
    let mut planner = Planner::new(config.clone());
    planner.update(&intent, &outcome);
    let whole = Planner::whole(config.clone(), &intent);
    assert!(!base(&config).is_empty());
    // Said twice it is the same.
    intent.update(again);
    assert_eq!(Planner::whole(config, &intent), whole);
    for problem in intent.problems().chain(planner.problems()) {
        let _ = problem.to_string();
    }
});

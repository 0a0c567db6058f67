//! `bench` prints what its readers expect. What it measures is never asserted.

use std::process::{Command, Stdio};

use serde_json::Value;

// Tables and later comparisons are made from this object; progress must not
// get into it, and a port that isn't wired must not look like a fast one.
#[test]
fn attach_prints_one_object() {
    let _room = l2isolate_lab::room::shared();
    let output = Command::new(env!("CARGO_BIN_EXE_l2isolate-lab"))
        .args(["bench", "attach", "--ports", "5", "--fabric", "bird"])
        .arg("--json")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for figure in ["/attach_ms/p50", "/attach_ms/p99", "/fabric_ms/bird/p50"] {
        let value = report.pointer(figure).and_then(Value::as_f64);
        assert!(value.is_some_and(|ms| ms > 0.0), "{figure} of {report}");
    }
    // Too few ports to tell.
    assert_eq!(report.get("growth"), Some(&Value::Null));
}

// The whole of a live migration, there and back, with a real guest in two QEMUs as
// well: connections live on, and the guest answers where it went.
#[test]
fn migrate_moves_a_real_guest() {
    let _room = l2isolate_lab::room::shared();
    let output = Command::new(env!("CARGO_BIN_EXE_l2isolate-lab"))
        .args(["bench", "migrate", "--qemu", "--fabric", "bird", "--json"])
        .args(["--migrations", "2", "--image"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/guest"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for figure in [
        "/bird/blackout_ms/p50",
        "/bird/sent",
        "/qemu/pause_ms",
        "/qemu/beyond_pause_ms/max",
        "/qemu/beyond_silence_ms/max",
    ] {
        let value = report.pointer(figure).and_then(Value::as_f64);
        assert!(
            value.is_some_and(|number| number >= 0.0),
            "{figure} of {report}"
        );
    }
    // Whoever hears nothing on the guest's taps says so instead.
    let silence = report.pointer("/qemu/silence_ms").and_then(Value::as_f64);
    assert!(silence.is_some_and(|ms| ms > 0.0), "{report}");
    assert_eq!(report.get("tcp_resets"), Some(&0.into()));
    let lost = report.pointer("/qemu/lost").and_then(Value::as_u64);
    let sent = report.pointer("/qemu/sent").and_then(Value::as_u64);
    assert!(lost < sent, "it never answered: {report}");
}

//! What `render` writes is what daemons take, in every combination.

use std::path::PathBuf;

use l2isolate_lab::{
    daemon,
    fabric::Fabric,
    lab::unique_name,
    render,
    topology::{Flavour, Mix, Options, Role, Shape, Topology},
};

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(unique_name("render"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fabric(mix: Mix, all_options: bool) -> Fabric {
    let mut topology = Topology::regular(Shape::default(), mix);
    topology.options = Options {
        bfd: all_options,
        tcp_auth: all_options.then(|| "s3cret".to_owned()),
        ..Options::default()
    };
    Fabric::new(&topology)
}

// The daemons' own parsers are the judges: of every role, with and without
// the options.
#[test]
fn daemons_take_what_is_rendered() {
    let scratch = Scratch::new();
    for mix in [Mix::Frr, Mix::Bird] {
        for all_options in [false, true] {
            let fabric = fabric(mix, all_options);
            for role in [Role::Spine, Role::Tor, Role::Hypervisor] {
                let node = fabric.role(role).next().unwrap();
                let directory = scratch.0.join(format!("{mix:?}-{all_options}-{role}"));
                std::fs::create_dir(&directory).unwrap();
                render::check(&fabric, node, &directory).unwrap();
                assert_knobs(&fabric, node.role, mix, &directory, all_options);
            }
        }
    }
}

/// The knobs that the issue names, in the daemons' words.
fn assert_knobs(fabric: &Fabric, role: Role, mix: Mix, directory: &std::path::Path, all: bool) {
    let (file, knobs, optional): (_, &[&str], &[&str]) = match mix {
        Mix::Bird => (
            "bird.conf",
            &[
                "extended next hop yes",
                "merge paths on",
                "import limit",
                "honour_gshut();",
                "graceful restart on",
                "long lived graceful restart on",
                "local role",
            ],
            &["protocol bfd", "  bfd ", "password \"s3cret\""],
        ),
        _ => (
            "bgpd.conf",
            &[
                "remote-as external",
                "multipath-relax",
                "maximum-prefix",
                "bgp graceful-restart",
                "bgp long-lived-graceful-restart",
                "local-role",
            ],
            &["bfd profile fabric", "password s3cret"],
        ),
    };
    let text = std::fs::read_to_string(directory.join(file)).unwrap();
    let asn = fabric.role(role).next().unwrap().asn.to_string();
    for knob in knobs.iter().copied().chain([asn.as_str()]) {
        assert!(text.contains(knob), "{role}: no `{knob}` in\n{text}");
    }
    for knob in optional {
        assert_eq!(text.contains(knob), all, "{role}: `{knob}` in\n{text}");
    }
}

// A parser that takes everything would prove nothing.
#[test]
fn daemons_refuse_what_is_wrong() {
    for (mix, flavour, file) in [
        (Mix::Frr, Flavour::Frr, "bgpd.conf"),
        (Mix::Bird, Flavour::Bird, "bird.conf"),
    ] {
        let scratch = Scratch::new();
        let fabric = fabric(mix, true);
        let tor = fabric.role(Role::Tor).next().unwrap();
        render::check(&fabric, tor, &scratch.0).unwrap();
        let path = scratch.0.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("graceful", "gracious")).unwrap();
        let program = daemon::programs(flavour, &fabric.options).last().unwrap();
        let error = render::parse(flavour, program, &scratch.0).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}

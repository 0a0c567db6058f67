//! A hypervisor with two ToRs is no way between them.

use std::{
    collections::BTreeSet,
    process::{Child, Stdio},
    time::Duration,
};

use l2isolate_lab::{
    fabric::Family,
    lab::Lab,
    netns, process, render, room,
    topology::{Mix, Role},
};

use super::{LIMIT, traffic, two_racks};

const STRANGE4: &str = "10.252.77.7/32";
const STRANGE6: &str = "2001:db8:252::77:7/128";

// The design's fourth invariant at its hardest moment: one ToR has lost its
// spines, and what it lacks the hypervisor knows from the other one. Even with
// routes in the hypervisor's kernel that are marked as a BGP daemon's, nothing
// goes up again.
fn nothing_learned_is_announced(mix: Mix) {
    let _room = room::shared();
    let lab = two_racks(mix, false);
    let hypervisor = lab.fabric().role(Role::Hypervisor).next().unwrap();
    for spine in ["spine1", "spine2"] {
        lab.set_link(spine, "tor1-1", false).unwrap();
    }
    // What is written into the kernel with other protocols than the agent's:
    // by a routing daemon (bgp), by hand, inside the guests' prefix.
    let lines = format!(
        "route add {STRANGE4} via inet6 {address} dev tor1-2 proto bgp metric 5\n\
         route add {STRANGE6} via {address} dev tor1-2 proto bgp metric 5\n",
        address = hypervisor.interfaces[1].peer_address
    );
    netns::batch(Some(&lab.namespace(&hypervisor.name)), &lines).unwrap();
    lab.until("tor1-1 is without default route", LIMIT, || {
        let learned = lab.learned("hv1-1", "tor1-1", Family::V4)?;
        Ok(learned.into_iter().filter(|p| p == "0.0.0.0/0").collect())
    })
    .unwrap();
    // Traffic of guests in the meantime takes the other ToR, not this way.
    let probe = traffic(&lab);
    process::sleep(Duration::from_secs(2)).unwrap();
    let report = probe.stop().unwrap();
    assert!(report.sent > 0 && report.lost == 0, "{report:?}");
    for family in Family::ALL {
        let own = lab.own_prefixes(hypervisor, family);
        for tor in ["tor1-1", "tor1-2"] {
            assert_eq!(
                lab.announced("hv1-1", tor, family).unwrap(),
                own,
                "to {tor}"
            );
            assert_eq!(lab.learned(tor, "hv1-1", family).unwrap(), own, "at {tor}");
        }
    }
    lab.down().unwrap();
}

#[test]
fn a_hypervisor_with_frr_is_no_transit() {
    nothing_learned_is_announced(Mix::Frr);
}

#[test]
fn a_hypervisor_with_bird_is_no_transit() {
    nothing_learned_is_announced(Mix::Bird);
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gobgp(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab
        .command("hv1-1", "gobgp")
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

// GoBGP with what is rendered for it, in the place of the hypervisor's FRR.
#[test]
fn a_hypervisor_with_gobgp_is_no_transit() {
    let _room = room::shared();
    let lab = two_racks(Mix::Frr, false);
    let node = lab.fabric().node("hv1-1").unwrap();
    lab.kill("hv1-1", "bgpd").unwrap();
    let file = lab.directory("hv1-1").join("gobgpd.toml");
    std::fs::write(&file, render::gobgp(lab.fabric(), node).unwrap()).unwrap();
    let mut command = lab.command("hv1-1", "gobgpd");
    command.arg("-f").arg(&file).stdout(Stdio::null());
    let _daemon = Daemon(command.spawn().unwrap());
    lab.until(
        "GoBGP's sessions and nothing learned from it",
        LIMIT,
        || {
            // It has what it could pass on: a default route from each ToR.
            let mut wrong = Vec::new();
            for (family, default) in [("ipv4", "0.0.0.0/0"), ("ipv6", "::/0")] {
                let rib = gobgp(&lab, &["global", "rib", "-a", family]);
                if rib.matches(default).count() < 2 {
                    wrong.push(format!("two ways to {default} in {rib}"));
                }
            }
            for tor in ["tor1-1", "tor1-2"] {
                for family in Family::ALL {
                    // Until the End-of-RIB also what FRR had announced.
                    let learned = lab.learned(tor, "hv1-1", family)?;
                    if !learned.is_empty() {
                        wrong.push(format!("{tor} learned {learned:?}"));
                    }
                }
            }
            Ok(wrong)
        },
    )
    .unwrap();
    // What came last would have been passed on by now.
    process::sleep(Duration::from_secs(2)).unwrap();
    for tor in ["tor1-1", "tor1-2"] {
        for family in Family::ALL {
            assert_eq!(lab.learned(tor, "hv1-1", family).unwrap(), BTreeSet::new());
        }
    }
    lab.down().unwrap();
}

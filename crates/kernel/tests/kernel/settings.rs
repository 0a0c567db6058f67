//! Settings below /proc/sys: read by netlink, written as files.

use l2isolate_kernel::testing::{in_new_netns, ip, set_sysctl, sysctl, tap};
use l2isolate_model::desired::{Key, Knob, Value};
use l2isolate_reconcile::Change;

use crate::common::{Host, name};

fn path(knob: Knob) -> String {
    let path = knob.path(knob.per_device().then(|| name("tap0")));
    path.trim_start_matches("net/").to_owned()
}

/// Each of a device's settings is read from the right place of netlink's
/// arrays: what the file says is what is observed, whichever one differs.
#[test]
fn every_device_setting_is_its_file() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        for knob in Knob::ALL.iter().filter(|knob| knob.per_device()) {
            let other = if sysctl(&path(*knob)) == "1" {
                "0"
            } else {
                "1"
            };
            set_sysctl(&path(*knob), other);
            let all = host.kernel.observe().unwrap().objects;
            let one = host.kernel.read_device(name("tap0"));
            for knob in Knob::ALL.iter().filter(|knob| knob.per_device()) {
                let key = Key::Sysctl(*knob, Some(name("tap0")));
                let value = Value::Number(sysctl(&path(*knob)).parse().unwrap());
                assert_eq!(all.get(&key), Some(&value), "{key}");
                assert!(one.contains(&(key, value)), "{key}");
            }
            set_sysctl(&path(*knob), if other == "1" { "0" } else { "1" });
        }
    });
}

/// Hundredths of a second in the file, milliseconds in netlink.
#[test]
fn proxy_delay_in_its_unit() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        for value in ["0", "80", "12", "100"] {
            set_sysctl("ipv4/neigh/tap0/proxy_delay", value);
            let host = Host::new();
            let key = Key::Sysctl(Knob::TapProxyDelay4, Some(name("tap0")));
            assert_eq!(host.objects[&key], Value::Number(value.parse().unwrap()));
        }
    });
}

/// Every setting there is can be written, in the namespace of the thread; what
/// a namespace doesn't have is observed as unavailable and refused as absent,
/// and what is the first one's to decide is observed as fixed and refused.
#[test]
fn writes_each_setting() {
    in_new_netns(|| {
        ip("link add tap0 type veth peer name vm0");
        let mut host = Host::new();
        let mut there = 0;
        for knob in Knob::ALL {
            let key = Key::Sysctl(*knob, knob.per_device().then(|| name("tap0")));
            let before = host.objects[&key];
            let value = Value::Number(i64::from(before == Value::Number(0)));
            let outcome = host.kernel.apply(&[Change::Set(key, value)]).remove(0);
            if before == Value::Unavailable {
                let error = outcome.unwrap_err();
                assert!(
                    matches!(error, l2isolate_kernel::ApplyError::Absent(_)),
                    "{error}"
                );
                continue;
            }
            if let Value::Fixed(number) = before {
                outcome.unwrap_err();
                assert_eq!(sysctl(&path(*knob)), number.to_string(), "{key}");
                continue;
            }
            outcome.unwrap();
            there += 1;
            assert_eq!(
                Value::Number(sysctl(&path(*knob)).parse().unwrap()),
                value,
                "{key}"
            );
            host.objects = host.kernel.observe().unwrap().objects;
            assert_eq!(host.objects[&key], value, "{key}");
        }
        assert!(there > 20);
    });
}

/// A larger value is somebody's choice.
#[test]
fn at_least() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        let key = Key::Sysctl(Knob::TapProxyDelay4, Some(name("tap0")));
        set_sysctl("ipv4/neigh/tap0/proxy_delay", "50");
        host.set([(key, Value::AtLeast(40))]);
        assert_eq!(sysctl("ipv4/neigh/tap0/proxy_delay"), "50");
        host.set([(key, Value::AtLeast(60))]);
        assert_eq!(sysctl("ipv4/neigh/tap0/proxy_delay"), "60");
    });
}

/// Device names with a dot are no path.
#[test]
fn names_with_dots() {
    in_new_netns(|| {
        tap("tap0.5", "vm0");
        let mut host = Host::new();
        let key = Key::Sysctl(Knob::TapProxyArp, Some(name("tap0.5")));
        host.set([(key, Value::Number(1))]);
        assert_eq!(sysctl("ipv4/conf/tap0.5/proxy_arp"), "1");
        host.settle();
        assert_eq!(host.objects[&key], Value::Number(1));
    });
}

/// The kernel announces some settings: a stranger's change is known at once.
#[test]
fn announced_changes() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        for path in [
            "ipv4/conf/tap0/forwarding",
            "ipv4/conf/tap0/proxy_arp",
            "ipv4/conf/tap0/rp_filter",
            "ipv6/conf/tap0/forwarding",
            "ipv4/ip_forward",
            "ipv6/conf/all/forwarding",
            "ipv4/conf/all/rp_filter",
            "ipv6/conf/all/ignore_routes_with_linkdown",
        ] {
            set_sysctl(path, if sysctl(path) == "1" { "0" } else { "1" });
            host.settle();
        }
    });
}

/// An MTU too small for IPv6 takes the device's IPv6 settings away, and a
/// larger one brings them back as they are for a new device.
#[test]
fn settings_that_come_and_go() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        let key = Key::Sysctl(Knob::TapAcceptRa, Some(name("tap0")));
        host.set([(key, Value::Number(0))]);
        host.drain();
        host.objects.insert(key, Value::Number(0));
        ip("link set tap0 mtu 1000");
        host.settle();
        assert_eq!(host.objects[&key], Value::Unavailable);
        ip("link set tap0 mtu 1500");
        host.settle();
        assert_eq!(host.objects[&key], Value::Number(1));
    });
}

/// IPv6 switched off by a stranger: nothing says so but its addresses' end.
#[test]
fn ipv6_switched_off() {
    in_new_netns(|| {
        tap("tap0", "vm0");
        let mut host = Host::new();
        host.set([crate::common::address("tap0", "fe80::1/64")]);
        host.settle();
        set_sysctl("ipv6/conf/tap0/disable_ipv6", "1");
        host.settle();
        let key = Key::Sysctl(Knob::TapDisable6, Some(name("tap0")));
        assert_eq!(host.objects[&key], Value::Number(1));
    });
}

//! A real guest: Debian's cloud kernel under QEMU, on a tap as Nova makes it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use l2isolate_lab::qemu;
use serde_json::json;

use super::Cloud;
use crate::harness::{Host, LINK_LOCAL, OUTSIDE4, OUTSIDE6};

/// Without KVM it takes two seconds to boot, on a machine that does nothing
/// else.
const BOOT: Duration = Duration::from_secs(90);

/// Where `scripts/guest-image` puts kernel and initramfs.
fn image(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(".tools/guest").join(name);
    assert!(
        path.exists(),
        "{}: run `make setup` or scripts/guest-image .tools/guest",
        path.display()
    );
    path
}

/// What the guest does: drivers, DHCP by udhcpc, IPv6 by its kernel; then it
/// prints what it has come to.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /usr/bin /sbin /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod /modules/$module.ko; done </modules/order
cat >/dhcp <<'SCRIPT'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip link set $interface mtu ${mtu:-1500}
ip route add $(echo $router | cut -d' ' -f1) dev $interface
ip route add default via $router
echo "GUEST lease $ip/$mask router $router dns $dns mtu $mtu hostname $hostname routes $staticroutes"
SCRIPT
chmod +x /dhcp
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -t 10 -T 1 -O mtu -O staticroutes -s /dhcp
for _ in 1 2 3 4 5 6 7 8 9 10; do
    ip -6 addr show dev eth0 scope global | grep inet6 | grep -qv tentative && break
    sleep 0.5
done
ip -6 addr show dev eth0 scope global | grep inet6 | sed 's/^ */GUEST address /'
ip -6 route | sed 's/^/GUEST route /'
for address in PING4; do ping -c 1 -W 3 $address >/dev/null && echo "GUEST reaches $address"; done
for address in PING6; do ping6 -c 1 -W 3 $address >/dev/null && echo "GUEST reaches $address"; done
ask() { printf "GET $2 HTTP/1.0\\r\\n\\r\\n" | nc $1 80; }
for address in 169.254.169.254 fe80::a9fe:a9fe%eth0; do
    echo "GUEST $address status $(ask $address /openstack/latest/meta_data.json | head -n 1)"
    ask $address /latest/meta-data/hostname | sed -n "\$s,^,GUEST $address hostname ,p"
    ask $address /openstack/latest/meta_data.json | tr ',' '\n' | sed -n "s,.*\"uuid\":,GUEST $address uuid ,p"
done
ask 169.254.169.254 /openstack/latest/user_data | sed '1,/^.$/d' >/tmp/user-data
sh /tmp/user-data
echo GUEST done
poweroff -f
"#;

/// Boots it; what its console shows until it ends.
fn boot(host: &Host, tap: &str, mac: &str, init: &str) -> String {
    let directory = host.path("qemu");
    fs::create_dir(&directory).unwrap();
    let console = directory.join("console");
    let initramfs = qemu::initramfs(&image("base.cpio"), &directory, init).unwrap();
    let boots = (image("vmlinuz"), initramfs);
    let mut child = qemu::command(&host.hv, (tap, mac), "256", (&boots.0, &boots.1), &console)
        .arg("-no-reboot")
        .spawn()
        .unwrap();
    let end = Instant::now() + BOOT;
    while child.try_wait().unwrap().is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    // It has ended, or never will.
    let _ = child.kill();
    let _ = child.wait();
    fs::read_to_string(console).unwrap_or_default()
}

/// What the guest is to run.
const USER_DATA: &str = "#!/bin/sh\necho GUEST runs what its user gave it\n";

/// The guest gets its addresses of both families, reaches the world, and gets
/// its metadata by both.
#[test]
fn a_real_guest_gets_addresses_and_metadata() {
    let mut cloud = Cloud::new("");
    cloud.subnet(
        json!({"id": "net6", "cidr": "2001:db8:252::/64", "gateway": "fe80::1",
        "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}),
    );
    let own = "2001:db8:252:0:0:ff:fe00:101";
    let port = Cloud::port(1, &[("10.252.1.10", "net4"), (own, "net6")])
        .with("mtu", 1450)
        .with("hostname", "real-1")
        .with("instance", "4ea1")
        .with("metadata", json!({"user_data": USER_DATA}));
    cloud.host.write(&port);
    cloud.start();
    cloud.host.until("the agent has made the port map", || {
        cloud.host.path("map").exists()
    });
    let _proxy = cloud.host.proxy("");
    // As libvirt makes it: persistent, up, and without carrier until QEMU
    // opens it.
    cloud
        .host
        .ip(&format!("tuntap add dev {} mode tap", port.tap()));
    cloud.host.ip(&format!("link set dev {} up", port.tap()));
    cloud.host.settled();
    let init = INIT
        .replace("PING4", &format!("10.252.0.1 {OUTSIDE4}"))
        .replace("PING6", &format!("{LINK_LOCAL}%eth0 {OUTSIDE6}"));
    let console = boot(&cloud.host, port.tap(), port.mac(), &init);
    let lines: Vec<&str> = console
        .lines()
        .filter_map(|line| Some(line.split_once("GUEST ")?.1.trim()))
        .collect();
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(lines.contains(&"done"), "{console}");
    let lease = "lease 10.252.1.10/16 router 10.252.0.1 dns 10.255.0.53 10.255.0.54 mtu 1450 hostname real-1 \
        routes 169.254.169.254/32 10.252.0.1 10.250.0.0/16 10.252.0.9 0.0.0.0/0 10.252.0.1";
    assert!(has(lease), "{console}");
    let own: std::net::Ipv6Addr = own.parse().unwrap();
    assert!(has(&format!("address inet6 {own}/64")), "{console}");
    assert!(
        !has("2001:db8:252::/64 dev eth0 proto kernel"),
        "the prefix is on-link\n{console}"
    );
    assert!(has("route default via fe80::1"), "{console}");
    for address in [
        "10.252.0.1",
        OUTSIDE4,
        &format!("{LINK_LOCAL}%eth0"),
        OUTSIDE6,
    ] {
        assert!(has(&format!("reaches {address}")), "{address}\n{console}");
    }
    for address in ["169.254.169.254", "fe80::a9fe:a9fe%eth0"] {
        for line in ["status HTTP/1.0 200 OK", "hostname real-1", "uuid \"4ea1\""] {
            assert!(
                has(&format!("{address} {line}")),
                "{address}: {line}\n{console}"
            );
        }
    }
    assert!(has("runs what its user gave it"), "{console}");
}

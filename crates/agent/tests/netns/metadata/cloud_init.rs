//! cloud-init itself, as on a real image, in a machine made of a namespace and
//! a root directory of its own.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio};

use l2isolate_lab::netns;
use serde_json::json;

use super::{listens, served};

/// Builds a root directory in memory, with the programs of this machine and a
/// copy of its /etc, and boots into it: what cloud-init changes is gone with it.
/// The network is the guest's; it is up already, as after DHCP.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir -p usr etc var/lib var/log var/tmp run root tmp home proc sys dev
for link in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$link" ]; then cp -a "/$link" .; fi
done
mount --bind /usr usr
mount -o remount,bind,ro usr
mount -t proc proc proc
mount --rbind /sys sys
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
cp -a /etc/. etc/
rm -rf etc/cloud/cloud-init.disabled etc/cloud/cloud.cfg.d
mkdir etc/cloud/cloud.cfg.d
: >etc/resolv.conf
echo localhost >etc/hostname
echo '127.0.0.1 localhost' >etc/hosts
cat >etc/cloud/cloud.cfg.d/99-test.cfg <<'END'
datasource_list: [ OpenStack ]
network: { config: disabled }
manage_etc_hosts: true
cloud_init_modules: [ seed_random, set_hostname, update_etc_hosts, users-groups, ssh ]
cloud_config_modules: [ runcmd ]
cloud_final_modules: [ scripts-vendor, scripts-user, final-message ]
ssh_genkeytypes: [ ed25519 ]
END
exec chroot . /bin/sh -c '
    cloud-init init && cloud-init modules --mode=config && cloud-init modules --mode=final
    echo "== status $?"
    echo "== hostname $(hostname)"
    echo "== instance $(cat /var/lib/cloud/data/instance-id)"
    echo "== source $(cat /run/cloud-init/cloud-id)"
    for home in /root /home/*; do
        if [ -f $home/.ssh/authorized_keys ]; then
            sed "s,^,== key $home ," $home/.ssh/authorized_keys
        fi
    done
    cat /result || cat /var/log/cloud-init.log
'
"#;

/// Host name, key and a script of user data, from the port's intent through the
/// proxy into the machine.
#[test]
fn a_machine_configures_itself() {
    let (host, [one], _proxy) = served("firewall = true", "");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPPkX1TnAvyYCkAbBq1rLWXl3dSxqPzKfPTqVJhUZ0uF me@example";
    let script = "#!/bin/sh\necho \"== script ran as $(id -un) on $(hostname)\" >>/result\n";
    let vendor = "#cloud-config\nruncmd:\n - echo '== vendor ran' >>/result\n";
    let port = one.port.with(
        "metadata",
        json!({
            "public_keys": {"me": key},
            "user_data": script,
            "vendor_data": {"cloud-init": vendor},
        }),
    );
    host.tell(&[&port]);
    listens(&host, &one);
    host.until("the map is read", || {
        super::get(&one, 4, "/openstack/latest/user_data").status == 200
    });
    let root = host.path("machine");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    let output = netns::command(&one.namespace, "unshare")
        .args([
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
        ])
        .args(["sh", "-c", BOOT, "boot"])
        .arg(&root)
        // By this cloud-init knows Nova's machines where there is no firmware.
        .env("product_name", "OpenStack Nova")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("== "))
        .collect();
    let user_key = lines
        .iter()
        .any(|line| line.starts_with("key /home/") && line.ends_with(key));
    assert!(
        user_key,
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in [
        "status 0",
        "hostname vm1",
        "instance i1",
        "source openstack",
        "script ran as root on vm1",
        "vendor ran",
    ] {
        assert!(lines.contains(&line), "{line} isn't in:\n{said}");
    }
}

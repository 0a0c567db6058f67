//! The ports of one hypervisor full: made in Neutron, their taps, until all are
//! ACTIVE. The same for our agent and for the one that it is compared with.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::Cloud;
use crate::{
    Error, Result,
    fabric::{GATEWAY4, GATEWAY6, VM_PREFIX4, VM_PREFIX6, Vm},
    lab::progress,
    netns,
    neutron::Rig,
    process,
};

/// How many ports one POST makes.
const AT_ONCE: usize = 20;
/// Longest wait: Neutron's linuxbridge agent takes four minutes.
pub(super) const LIMIT: Duration = Duration::from_secs(900);

/// A network with the VMs' subnets of both families.
pub(super) fn two_subnets(rig: &Rig, network: Value) -> Result<(Cloud<'_>, [String; 2])> {
    let mut cloud = Cloud {
        rig,
        network: String::new(),
        subnet: String::new(),
    };
    cloud.network = cloud.create("network", network)?;
    let subnet = |version, cidr: String, gateway: String| {
        json!({"network_id": cloud.network, "ip_version": version, "cidr": cidr,
               "gateway_ip": gateway})
    };
    let (prefix, length) = VM_PREFIX4;
    let four = subnet(4, format!("{prefix}/{length}"), GATEWAY4.to_string());
    let (prefix, length) = VM_PREFIX6;
    let six = subnet(6, format!("{prefix}/{length}"), GATEWAY6.to_string());
    let subnets = [cloud.create("subnet", four)?, cloud.create("subnet", six)?];
    Ok((cloud, subnets))
}

impl Cloud<'_> {
    /// Makes ports of VMs on a host, and learns the names of their taps.
    pub(super) fn make_ports(
        &self,
        vms: &mut [Vm],
        host: &str,
        subnets: &[String; 2],
        group: &str,
    ) -> Result<()> {
        let start = Instant::now();
        for some in vms.chunks_mut(AT_ONCE) {
            let ports: Vec<Value> = some
                .iter()
                .map(|vm| {
                    json!({
                        "network_id": self.network, "binding:host_id": host,
                        "device_owner": "compute:nova", "device_id": vm.port,
                        "mac_address": vm.mac, "security_groups": [group],
                        "fixed_ips": [
                            {"subnet_id": subnets[0], "ip_address": vm.address4},
                            {"subnet_id": subnets[1], "ip_address": vm.address6},
                        ],
                    })
                })
                .collect();
            let answer = self.ask("POST", "ports", &json!({ "ports": ports }))?;
            let made = answer.get("ports").and_then(Value::as_array);
            for port in made.into_iter().flatten() {
                let text = |key| port.get(key).and_then(Value::as_str).unwrap_or_default();
                let vm = some.iter_mut().find(|vm| vm.mac == text("mac_address"));
                if let (Some(vm), Some(short)) = (vm, text("id").get(..11)) {
                    vm.tap = format!("tap{short}");
                    text("id").clone_into(&mut vm.port);
                }
            }
        }
        progress(&format!(
            "  {} ports made in {:.1} s",
            vms.len(),
            start.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// How many ports are ACTIVE.
    pub(super) fn active(&self) -> Result<usize> {
        self.count("select count(*) from ports where status='ACTIVE'")
    }

    /// Waits until so many are; returns when that was.
    pub(super) fn all_active(&self, ports: usize) -> Result<Instant> {
        let end = Instant::now() + LIMIT;
        while self.active()? < ports {
            if Instant::now() > end {
                return Err(Error::Timeout {
                    what: "all ports being ACTIVE",
                    seconds: LIMIT.as_secs(),
                    missing: format!("{} are", self.active()?),
                });
            }
            process::sleep(Duration::from_millis(20))?;
        }
        Ok(Instant::now())
    }
}

/// Makes the VMs' taps in a namespace where nobody sees them. Returns the lines
/// for `ip` that give them to a hypervisor, switched on.
pub(super) fn hidden_taps(shed: &str, vms: &[Vm], hypervisor: &str) -> Result<String> {
    netns::create(&[shed.to_owned()])?;
    netns::sysctl(shed, &[("ipv6.conf.default.disable_ipv6", "1")])?;
    let mut make = String::new();
    let mut open = String::new();
    for Vm { tap, .. } in vms {
        let end = tap.replace("tap", "end");
        let _ = writeln!(
            make,
            "link add name {end} netns {shed} type veth peer name {tap} netns {shed}"
        );
        let _ = writeln!(open, "link set dev {tap} netns {hypervisor} up");
    }
    netns::batch(None, &make)?;
    Ok(open)
}

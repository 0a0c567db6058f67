//! Neutron's configuration files.

use super::{ADDRESS, API_PORT, Mechanism, NOVA_PORT, Rig};
use crate::{Result, state::replace};

/// What roles that nobody has here would be allowed to do: 29 lets only
/// services handle bindings, and in a lab the caller plays Nova.
const POLICY: &str = r#""create_port_binding": "@"
"get_port_binding": "@"
"delete_port_binding": "@"
"activate": "@"
"create_port:binding:profile": "@"
"update_port:binding:profile": "@"
"#;

/// Neutron reads the command line itself; gunicorn's is none of its business.
const WSGI: &str = "import sys

sys.argv = ['neutron-api']

from neutron.wsgi.api import application  # noqa: E402, F401
";

/// Names of the files that the servers are given.
pub(super) const FILES: [&str; 2] = ["neutron.conf", "ml2.ini"];

/// Writes them.
pub(super) fn write(rig: &Rig) -> Result<()> {
    for (name, text) in FILES.iter().zip([neutron(rig), ml2(rig.options.mechanism)]) {
        replace(&rig.directory.join(name), &text)?;
    }
    replace(&rig.directory.join("policy.yaml"), POLICY)?;
    replace(&rig.directory.join("lab_wsgi.py"), WSGI)
}

fn neutron(rig: &Rig) -> String {
    let below = |name: &str| rig.directory.join(name).display().to_string();
    let options = &rig.options;
    format!(
        "[DEFAULT]
host = neutron
auth_strategy = noauth
core_plugin = ml2
service_plugins = router,qos,segments
bind_host = {ADDRESS}
bind_port = {API_PORT}
api_workers = {api_workers}
rpc_workers = {rpc_workers}
rpc_state_report_workers = 0
agent_down_time = {down_time}
transport_url = {transport}
state_path = {state}
api_paste_config = {paste}
dns_domain = lab.example.
notify_nova_on_port_status_changes = true
notify_nova_on_port_data_changes = true
send_events_interval = 1
dhcp_agent_notification = false

[nova]
auth_type = none
endpoint = http://{ADDRESS}:{NOVA_PORT}/v2.1

[database]
connection = mysql+pymysql://root@localhost/neutron?unix_socket={socket}

[oslo_concurrency]
lock_path = {lock}

[oslo_policy]
policy_file = {policy}

[quotas]
quota_network = -1
quota_subnet = -1
quota_port = -1
quota_security_group = -1
quota_security_group_rule = -1
",
        api_workers = options.api_workers,
        rpc_workers = options.rpc_workers,
        down_time = options.agent_down_time,
        transport = rig.transport_url(),
        state = below("state"),
        paste = options.programs.paste().display(),
        socket = rig.database().socket().display(),
        lock = below("lock"),
        policy = below("policy.yaml"),
    )
}

fn ml2(mechanism: Mechanism) -> String {
    let own = match mechanism {
        // `local` stands for the networks of other drivers.
        Mechanism::L2isolate => {
            "type_drivers = routed,local
tenant_network_types = routed
mechanism_drivers = l2isolate
"
        }
        Mechanism::Linuxbridge => {
            "type_drivers = flat
tenant_network_types =
mechanism_drivers = linuxbridge

[ml2_type_flat]
flat_networks = physnet1

[experimental]
linuxbridge = true
"
        }
    };
    format!("[ml2]\nextension_drivers = port_security,dns,qos\n{own}")
}

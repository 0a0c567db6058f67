"""Writes the rules of Neutron's linuxbridge agent, for the ports on standard input, into
the network namespace that it runs in. `bench filter` compares with them.

It is the agent's own code (python3-neutron) that writes: the security group agent with
its iptables driver, and the protection against spoofing by ebtables, called in the
agent's order. Only the server is played: what it would answer by RPC comes from standard
input: {"ports": [{"device", "mac", "addresses"}], "rules": [Neutron's fields]}, with the
same rules for each port, in a group of its own."""

import json
import sys
import tempfile

from neutron import privileged
from neutron.agent import securitygroups_rpc
from neutron.conf.agent import common as agent_options
from neutron.conf.agent import securitygroups_rpc as group_options
from neutron.conf import common as core_options
from neutron.plugins.ml2.drivers.linuxbridge.agent import arp_protect
from neutron_lib import constants
from neutron_lib import context
from oslo_concurrency import lockutils
from oslo_config import cfg
from oslo_log import log

NETWORK = "44444444-0000-4000-8000-000000000004"


class Server:
    """What the agent asks the server for."""

    def __init__(self, document):
        self.rules = document["rules"]
        self.ports = {port["device"]: port for port in document["ports"]}

    @staticmethod
    def group(device):
        return "group-of-" + device

    def device(self, name):
        port = self.ports[name]
        return {
            "device": name,
            "id": name,
            "device_owner": constants.DEVICE_OWNER_COMPUTE_PREFIX + "nova",
            "network_id": NETWORK,
            "mac_address": port["mac"],
            "fixed_ips": port["addresses"],
            "allowed_address_pairs": [],
            "port_security_enabled": True,
            "security_groups": [self.group(name)],
            "security_group_source_groups": [],
            "security_group_rules": [],
        }

    def security_group_info_for_devices(self, _context, devices):
        return {
            "devices": {name: self.device(name) for name in devices},
            "security_groups": {self.group(name): self.rules for name in devices},
            "sg_member_ips": {},
        }


def main():
    # Chains are named after the program.
    sys.argv[0] = "neutron-linuxbridge-agent"
    log.register_options(cfg.CONF)
    core_options.register_core_common_config_opts()
    group_options.register_securitygroups_opts()
    agent_options.register_root_helper()
    agent_options.register_iptables_opts(cfg.CONF)
    cfg.CONF(["--config-file", "/dev/null"], project="neutron")
    cfg.CONF.set_override("firewall_driver", "iptables", "SECURITYGROUP")
    cfg.CONF.set_override("root_helper", "", "AGENT")
    # This process is root already: no helper daemons.
    for privileges in ("default", "conntrack_cmd", "namespace_cmd", "link_cmd"):
        getattr(privileged, privileges).set_client_mode(False)

    with tempfile.TemporaryDirectory() as locks:
        lockutils.set_defaults(locks)
        write(Server(json.load(sys.stdin)))


def write(server):
    agent = securitygroups_rpc.SecurityGroupAgentRpc(
        context.get_admin_context_without_session(), server
    )
    for name in server.ports:
        details = server.device(name)
        details["fixed_ips"] = [{"ip_address": ip} for ip in details["fixed_ips"]]
        arp_protect.setup_arp_spoofing_protection(name, details)
    agent.prepare_devices_filter(set(server.ports))


if __name__ == "__main__":
    main()

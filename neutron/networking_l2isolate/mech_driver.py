# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The mechanism driver "l2isolate".

Binds ports of routed networks to hosts on which an L2 isolate agent lives:
Nova then makes a tap, and the agent does everything else to it. Refuses what
routed networks can't do. Serves the agents' calls (module rpc) and
tells them what changes (casts).
"""

from neutron.plugins.ml2.drivers import mech_agent
from neutron.plugins.ml2 import managers
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import events
from neutron_lib.callbacks import registry
from neutron_lib.callbacks import resources
from neutron_lib.plugins import directory
from neutron_lib.plugins.ml2 import api
from oslo_config import cfg
from oslo_log import log
from sqlalchemy import orm

from networking_l2isolate import address_plan
from networking_l2isolate.casts import announcer
from networking_l2isolate.casts import changes
from networking_l2isolate import config
from networking_l2isolate import exceptions
from networking_l2isolate import rpc
from networking_l2isolate import support
import networking_l2isolate

LOG = log.getLogger(__name__)

#: Under this name the agents' RPC is found by Neutron's RPC workers.
RPC_ALIAS = 'L2ISOLATE'


class L2IsolateMechanismDriver(mech_agent.SimpleAgentMechanismDriverBase):
    """For ports whose host routes to them."""

    def __init__(self):
        config.register()
        details = {
            # The agent filters: Nova is to leave the tap alone.
            portbindings.CAP_PORT_FILTER: True,
            # Nova gives this address to the host side of the tap.
            'mac_address': cfg.CONF.l2isolate.tap_mac,
        }
        super().__init__(networking_l2isolate.AGENT_TYPE,
                         portbindings.VIF_TYPE_TAP, details,
                         supported_vnic_types=[portbindings.VNIC_NORMAL])

    @property
    def connectivity(self):
        return portbindings.CONNECTIVITY_L3

    def initialize(self):
        super().initialize()
        # Neutron reads Port.port_forwardings, which is there only once the
        # mappers are configured: a worker whose first request is to show a port
        # answers 500 otherwise. Workers are forked after this.
        orm.configure_mappers()
        # The directory holds a weak reference only.
        self.agent_rpc = rpc.AgentRpc()
        directory.add_plugin(RPC_ALIAS, self.agent_rpc)
        if cfg.CONF.l2isolate.casts:
            changes.watch(announcer.Announcer().tell)
        for resource, hook in ((resources.TRUNK, self._trunk_precommit),
                               (resources.SUBPORTS, self._subports_precommit)):
            registry.subscribe(hook, resource, events.PRECOMMIT_CREATE)

    # Binding.

    def get_allowed_network_types(self, agent=None):
        return [networking_l2isolate.NETWORK_TYPE]

    def get_mappings(self, agent):
        return {}

    # Networks.

    def create_network_precommit(self, context):
        if support.is_routed(context.network_segments):
            support.check_network(context.network_segments, context.current)

    def update_network_precommit(self, context):
        # A segment that is added or removed comes as an update as well.
        segments = context.network_segments
        support.check_segment(segments)
        if support.is_routed(segments):
            support.check_network(segments, context.current, context.original)

    def check_vlan_transparency(self, context):
        return self._no_vlans(context)

    def check_vlan_qinq(self, context):
        return self._no_vlans(context)

    @staticmethod
    def _no_vlans(context):
        """False where the network is routed, else no opinion."""
        if support.is_routed(context.network_segments):
            return False
        # Until Neutron asked for an opinion in three states, None was a no.
        three_states = hasattr(managers.MechanismManager,
                               '_mech_driver_tri_state_check')
        return None if three_states else True

    # Subnets.

    def create_subnet_precommit(self, context):
        if support.is_routed(context.network.network_segments):
            support.check_subnet(context.current)
            address_plan.claim(_plugin_context(context), context.current)

    def update_subnet_precommit(self, context):
        if support.is_routed(context.network.network_segments):
            support.check_subnet(context.current, context.original)

    # Ports.

    def create_port_precommit(self, context):
        self._check_port(context, None)
        super().create_port_precommit(context)

    def update_port_precommit(self, context):
        self._check_port(context, context.original)
        super().update_port_precommit(context)

    @staticmethod
    def _check_port(context, original):
        """Refuses what a routed network can't do.

        The network is looked at last: Neutron reads it anew for each update,
        which took more than a third of the time of a port's becoming ACTIVE.
        """
        try:
            support.check_port(context.current, original)
        except exceptions.UnsupportedOnRouted:
            if support.is_routed(context.network.network_segments):
                raise

    # Trunks.

    def _trunk_precommit(self, resource, event, trigger, payload):
        trunk = payload.desired_state
        self._check_trunk_port(payload.context, trunk.port_id, 'parent')
        for subport in trunk.sub_ports:
            self._check_trunk_port(payload.context, subport.port_id, 'subport')

    def _subports_precommit(self, resource, event, trigger, payload):
        for subport in payload.metadata['subports']:
            self._check_trunk_port(payload.context, subport.port_id, 'subport')

    @staticmethod
    def _check_trunk_port(context, port_id, role):
        plugin = directory.get_plugin()
        admin = context.elevated()
        network_id = plugin.get_port(admin, port_id)['network_id']
        network = plugin.get_network(admin, network_id)
        # Several segments come as a list, and are never of a routed network.
        kind = network.get('provider:network_type')
        support.check_trunk_port([{api.NETWORK_TYPE: kind}], role)


def _plugin_context(context):
    """The request context of a driver context, on every release."""
    try:
        return context.plugin_context
    except AttributeError:
        return context._plugin_context

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Where ports are bound, how, and how they become active."""

import unittest
import uuid

from tests.rig import cloud


class BindingTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.network = cloud.network()
        cloud.subnet(cls.network)
        cls.nova = cloud.Nova()

    @classmethod
    def tearDownClass(cls):
        cls.nova.stop()

    def test_a_tenants_network_is_routed(self):
        network = cloud.show('network', self.network)
        self.assertEqual(('routed', None, None, 1500), (
            network['provider:network_type'],
            network['provider:physical_network'],
            network['provider:segmentation_id'], network['mtu']))

    def test_a_provider_network_can_be_routed(self):
        network = cloud.network(**{'provider:network_type': 'routed'})
        self.assertEqual('routed', cloud.show(
            'network', network)['provider:network_type'])

    def test_a_port_from_bound_to_active(self):
        agent = cloud.living_agent()
        port = cloud.port(self.network, agent.host)
        self.assertEqual(('tap', 'DOWN'),
                         (port['binding:vif_type'], port['status']))
        details = port['binding:vif_details']
        self.assertEqual(('l3', True, '02:4c:32:49:53:4f'), (
            details['connectivity'], details['port_filter'],
            details['mac_address']))
        agent.up(port['id'])
        self.assertEqual('ACTIVE', cloud.show('port', port['id'])['status'])
        self.nova.wait_for(port['id'], 'network-vif-plugged')

    def test_without_a_living_agent_there_is_no_binding(self):
        nowhere = 'hv-%s' % uuid.uuid4().hex[:8]
        port = cloud.port(self.network, nowhere)
        self.assertEqual('binding_failed', port['binding:vif_type'])

    def test_networks_of_other_types_are_left_alone(self):
        agent = cloud.living_agent()
        network = cloud.network(**{'provider:network_type': 'local'})
        cloud.subnet(network)
        port = cloud.port(network, agent.host)
        self.assertEqual('binding_failed', port['binding:vif_type'])
        self.assertEqual({}, cloud.changed(agent.sync()))

    def test_a_binding_that_failed_is_healed_by_sync(self):
        agent = cloud.Agent()
        port = cloud.port(self.network, agent.host)
        self.assertEqual('binding_failed', port['binding:vif_type'])
        # While Neutron doesn't know the agent, sync can't help either.
        self.assertEqual({}, cloud.changed(agent.sync()))
        agent.report()
        self.assertEqual([port['id']], cloud.changed(agent.sync())['ports'])
        self.assertEqual('tap', cloud.show(
            'port', port['id'])['binding:vif_type'])
        agent.up(port['id'])
        self.assertEqual('ACTIVE', cloud.show('port', port['id'])['status'])

    def test_operators_see_the_agent(self):
        agent = cloud.living_agent(underlay_address='10.255.16.1')
        found, = cloud.ask('GET', 'agents?host=%s' % agent.host)['agents']
        self.assertTrue(found['alive'])
        self.assertEqual(
            ('L2 isolate agent', '10.255.16.1'),
            (found['agent_type'], found['configurations']['underlay_address']))


if __name__ == '__main__':
    unittest.main()

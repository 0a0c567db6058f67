# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The two drivers by themselves, on the base classes of this release."""

from importlib import metadata
import unittest
from unittest import mock

from neutron_lib.callbacks import events
from neutron_lib.callbacks import registry
from neutron_lib.callbacks import resources
from neutron_lib import exceptions as neutron_exceptions
from oslo_config import cfg

from networking_l2isolate import config
from networking_l2isolate import exceptions
from networking_l2isolate import mech_driver
from networking_l2isolate import rpc
from networking_l2isolate import type_driver
from tests.unit import database

ROUTED = {'network_type': 'routed', 'id': 's1', 'network_id': 'n'}
VLAN = {'network_type': 'vlan', 'id': 's2', 'network_id': 'n'}


class TypeDriverTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        database.set_up()

    def setUp(self):
        self.driver = type_driver.RoutedTypeDriver()

    def test_segments_have_neither_wire_nor_number(self):
        self.assertEqual('routed', self.driver.get_type())
        self.assertIs(False, self.driver.is_partial_segment(ROUTED))
        asked = {'network_type': 'routed', 'physical_network': None,
                 'segmentation_id': None}
        self.driver.validate_provider_segment(asked)
        for segment in (self.driver.reserve_provider_segment(None, asked),
                        self.driver.allocate_tenant_segment(None)):
            self.assertEqual(('routed', None, None, 1500), (
                segment['network_type'], segment['physical_network'],
                segment['segmentation_id'], segment['mtu']))
        self.driver.release_segment(None, segment)

    def test_wires_and_numbers_are_refused(self):
        for key, value in (('physical_network', 'physnet1'),
                           ('segmentation_id', 0), ('segmentation_id', 7)):
            with self.assertRaisesRegex(neutron_exceptions.InvalidInput, key):
                self.driver.validate_provider_segment(
                    {'network_type': 'routed', key: value})

    def test_every_releases_way_of_calling_it(self):
        self.driver.initialize()
        self.driver.initialize_network_segment_range_support()
        self.driver.initialize_network_segment_range_support('now')
        self.driver.update_network_segment_range_allocations()


class MechanismDriverTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        database.set_up()

    def setUp(self):
        self.driver = mech_driver.L2IsolateMechanismDriver()

    def network(self, *segments, original=None, **current):
        return mock.Mock(network_segments=list(segments), current=current,
                         original=original or {})

    def test_what_a_port_is_bound_with(self):
        self.assertEqual('tap', self.driver.vif_type)
        self.assertEqual({'port_filter': True, 'connectivity': 'l3',
                          'mac_address': '02:4c:32:49:53:4f'},
                         self.driver.vif_details)
        self.assertEqual(['normal'], self.driver.supported_vnic_types)

    def test_only_routed_segments_and_our_agents(self):
        agent = {'agent_type': 'L2 isolate agent', 'host': 'hv1',
                 'configurations': {}}
        ovs = dict(agent, agent_type='Open vSwitch agent')
        check = self.driver.check_segment_for_agent
        self.assertTrue(check(ROUTED, agent))
        self.assertFalse(check(VLAN, agent))
        self.assertFalse(check(ROUTED, ovs))

    def test_vlan_transparency(self):
        routed, vlan = self.network(ROUTED), self.network(VLAN)
        for check in (self.driver.check_vlan_transparency,
                      self.driver.check_vlan_qinq):
            self.assertIs(False, check(routed))
            # Whatever this release takes as no objection to others' networks.
            self.assertIn(check(vlan), (None, True))

    def test_others_networks_are_none_of_its_business(self):
        network = self.network(VLAN, VLAN, qos_policy_id='q',
                               **{'router:external': True})
        self.driver.create_network_precommit(network)
        self.driver.update_network_precommit(network)
        subnet = mock.Mock(network=network, current={'gateway_ip': '8.8.8.8'})
        self.driver.create_subnet_precommit(subnet)
        self.driver.update_subnet_precommit(subnet)

    def refused(self, what, call, *arguments):
        with self.assertRaises(exceptions.UnsupportedOnRouted) as caught:
            call(*arguments)
        self.assertIn(what, str(caught.exception))
        self.assertIn('routed', str(caught.exception))

    def test_networks_that_can_not_be(self):
        create = self.driver.create_network_precommit
        update = self.driver.update_network_precommit
        self.refused('segment', create, self.network(ROUTED, VLAN))
        self.refused('segment', update, self.network(VLAN, ROUTED))
        self.refused('external', create,
                     self.network(ROUTED, **{'router:external': True}))
        self.refused('QoS', create, self.network(ROUTED, qos_policy_id='q'))
        self.refused('QoS', update, self.network(ROUTED, qos_policy_id='q'))
        # What is there already doesn't stand in the way of other changes.
        update(self.network(ROUTED, qos_policy_id='q',
                            original={'qos_policy_id': 'q'}))
        create(self.network(ROUTED, qos_policy_id=None,
                            **{'router:external': False}))

    def subnet(self, original=None, **current):
        current.setdefault('cidr', '10.0.0.0/24')
        return mock.Mock(network=self.network(ROUTED), current=current,
                         original=original or {})

    def test_subnets_that_can_not_be(self):
        create = self.driver.create_subnet_precommit
        update = self.driver.update_subnet_precommit
        self.refused('Prefix delegation', create,
                     self.subnet(subnetpool_id='prefix_delegation'))
        outside = {'gateway_ip': '10.0.1.1'}
        self.refused('Gateway 10.0.1.1', create, self.subnet(**outside))
        self.refused('Gateway 10.0.1.1', update, self.subnet(**outside))
        update(self.subnet(original=outside, **outside))
        for cidr, gateway in (('10.0.0.0/24', '10.0.0.1'),
                              ('10.0.0.0/24', None),
                              ('2001:db8::/64', '2001:db8::1'),
                              ('2001:db8::/64', 'fe80::1')):
            update(self.subnet(cidr=cidr, gateway_ip=gateway))

    def port(self, original=None, segment=ROUTED, **current):
        current.setdefault('device_owner', '')
        return mock.Mock(network=self.network(segment), current=current,
                         original=original or {}, host='',
                         original_host='')

    def test_ports_that_can_not_be(self):
        create = self.driver.create_port_precommit
        update = self.driver.update_port_precommit
        for owner, what in (('network:router_interface', 'routers'),
                            ('network:router_gateway', 'routers'),
                            ('network:floatingip', 'floating IPs'),
                            ('network:dhcp', 'DHCP agent'),
                            ('trunk:subport', 'trunk')):
            port = self.port(device_owner=owner)
            self.refused(what, create, port)
            self.refused(what, update, port)
            update(self.port(device_owner=owner,
                             original={'device_owner': owner}))
        self.refused('"direct"', create,
                     self.port(**{'binding:vnic_type': 'direct'}))
        self.refused('QoS', update, self.port(qos_policy_id='q'))
        for owner in ('', 'compute:nova', 'baremetal:none'):
            create(self.port(device_owner=owner,
                             **{'binding:vnic_type': 'normal'}))
        create(self.port(segment=VLAN, device_owner='network:dhcp'))
        update(self.port(segment=VLAN, device_owner='network:dhcp'))

    def test_a_ports_status_costs_no_look_at_its_network(self):
        port = {'device_owner': 'compute:nova', 'qos_policy_id': 'q',
                'status': 'ACTIVE'}
        context = mock.Mock(spec=['current', 'original', 'host',
                                  'original_host'], current=port,
                            original=dict(port, status='DOWN'), host='hv1',
                            original_host='hv1')
        self.driver.update_port_precommit(context)

    def test_trunks(self):
        self.addCleanup(self.unsubscribe)
        with mock.patch.object(mech_driver.directory, 'add_plugin'):
            self.driver.initialize()
        plugin = mock.Mock()
        plugin.get_port.side_effect = lambda context, port_id: {
            'network_id': port_id}
        plugin.get_network.side_effect = lambda context, network_id: {
            'provider:network_type': network_id}
        subport = mock.Mock(port_id='routed')

        def publish(resource, **payload):
            registry.publish(
                resource, events.PRECOMMIT_CREATE, self,
                payload=events.DBEventPayload(mock.Mock(), **payload))

        def fails(role, resource, **payload):
            with self.assertRaisesRegex(Exception, "trunk's %s" % role):
                publish(resource, **payload)

        with mock.patch.object(mech_driver.directory, 'get_plugin',
                               return_value=plugin):
            fails('parent', resources.TRUNK, desired_state=mock.Mock(
                port_id='routed', sub_ports=[]))
            fails('subport', resources.TRUNK, desired_state=mock.Mock(
                port_id='vlan', sub_ports=[subport]))
            fails('subport', resources.SUBPORTS,
                  metadata={'subports': [subport]})
            publish(resources.TRUNK, desired_state=mock.Mock(
                port_id='vlan', sub_ports=[mock.Mock(port_id='vlan')]))

    def unsubscribe(self):
        for hook in (self.driver._trunk_precommit,
                     self.driver._subports_precommit):
            registry.unsubscribe_all(hook)

    def test_the_rpc_is_found_by_neutrons_workers(self):
        self.addCleanup(self.unsubscribe)
        self.driver.initialize()
        plugin = mech_driver.directory.get_plugin(mech_driver.RPC_ALIAS)
        connection = mock.Mock()
        with mock.patch.object(rpc.rpc, 'Connection',
                               return_value=connection):
            servers = plugin.start_rpc_listeners()
        self.assertIs(connection.consume_in_threads.return_value, servers)
        (topic, endpoints), _ = connection.create_consumer.call_args
        self.assertEqual('l2isolate', topic)
        self.assertIsInstance(endpoints[0], rpc.Endpoint)


class ConfigTest(unittest.TestCase):

    def test_the_taps_address_is_one_that_an_interface_can_have(self):
        conf = cfg.ConfigOpts()
        config.register(conf)
        conf([])
        for bad in ('ff:ff:ff:ff:ff:ff', '00:00:00:00:00:00', 'x',
                    '02:4c:32:49:53'):
            with self.assertRaises(ValueError):
                conf.set_override('tap_mac', bad, config.GROUP)
        conf.set_override('tap_mac', '02:4C:32:49:53:50', config.GROUP)
        self.assertEqual('02:4c:32:49:53:50', conf.l2isolate.tap_mac)

    def test_options_are_offered_to_the_sample_generator(self):
        (group, options), = config.list_opts()
        self.assertEqual('l2isolate', group)
        self.assertTrue(all(option.help for option in options))


class PackageTest(unittest.TestCase):
    """What pip installed: scripts/neutron-env puts it into PYTHONPATH."""

    def test_entry_points(self):
        points = metadata.distribution('networking-l2isolate').entry_points
        found = {(p.group, p.name): p.load() for p in points}
        self.assertEqual({
            ('neutron.ml2.type_drivers', 'routed'):
                type_driver.RoutedTypeDriver,
            ('neutron.ml2.mechanism_drivers', 'l2isolate'):
                mech_driver.L2IsolateMechanismDriver,
            ('oslo.config.opts', 'networking_l2isolate'): config.list_opts,
        }, found)

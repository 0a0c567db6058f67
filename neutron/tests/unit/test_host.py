# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The intent of a host, read from Neutron's own tables."""

import json
import pathlib
import unittest

from networking_l2isolate.intent import host as host_intent
from networking_l2isolate.intent import objects
from networking_l2isolate.intent import query
from tests.unit import database

try:
    import jsonschema
except ImportError:
    jsonschema = None

HERE = ('hv1', 'ACTIVE', 'tap')
SCHEMA = pathlib.Path(__file__).parents[3] / 'docs' / 'intent.schema.json'


class HostTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.db = database.set_up()

    def setUp(self):
        self.addCleanup(self.db.clear)

    def read(self, host='hv1'):
        with self.db.reading() as session:
            return host_intent.read(session, host)

    def test_a_port_with_everything(self):
        network = self.db.network(mtu=1450)
        subnet4 = self.db.subnet(network, '10.252.0.0/16', '10.252.0.1')
        subnet6 = self.db.subnet(network, '2001:db8:252::/64', 'fe80::1',
                                 ipv6_ra_mode='dhcpv6-stateful',
                                 ipv6_address_mode='dhcpv6-stateful')
        group = self.db.group()
        port = self.db.port(
            network, [('10.252.1.10', subnet4), ('2001:db8:252::1', subnet6)],
            [group], [HERE], name='not a host name', device_id='vm-1',
            mac_address='fa:16:3e:5a:10:01', revision=7)
        self.db.add(query.Pair, port_id=port, ip_address='10.252.9.0/28',
                    mac_address='fa:16:3e:5a:10:02')
        self.db.add(query.dhcp_models.ExtraDhcpOpt, id='o', port_id=port,
                    opt_name='bootfile-name', opt_value='pxelinux.0',
                    ip_version=4)
        self.db.add(query.dns_models.PortDNS, port_id=port, dns_name='web-1',
                    current_dns_name='', current_dns_domain='',
                    previous_dns_name='', previous_dns_domain='',
                    dns_domain='')
        snapshot = self.read()
        found = dict(snapshot.objects['ports'][port])
        self.assertRegex(found.pop('digest'), '^[0-9a-f]{32}$')
        self.assertEqual(snapshot.read_at, found.pop('read_at'))
        self.assertEqual({
            'id': port, 'revision': 7, 'created': '2026-11-24T16:30:12Z',
            'mac': 'fa:16:3e:5a:10:01', 'mtu': 1450, 'admin_state_up': True,
            'addresses': [{'address': '10.252.1.10', 'subnet': subnet4},
                          {'address': '2001:db8:252::1', 'subnet': subnet6}],
            'project': 'p', 'instance': 'vm-1', 'hostname': 'web-1',
            'port_security': True, 'groups': [group],
            'allowed_address_pairs': [{'address': '10.252.9.0/28',
                                       'mac': 'fa:16:3e:5a:10:02'}],
            'dhcp_options': [{'name': 'bootfile-name', 'value': 'pxelinux.0',
                              'ip_version': 4}],
            'binding': {'state': 'active'}, 'status': 'DOWN'}, found)
        self.assertEqual({port: 'DOWN'}, snapshot.statuses)
        self.assertEqual({subnet4, subnet6}, set(snapshot.objects['subnets']))
        self.assertRegex(snapshot.read_at,
                         r'^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$')

    def test_without_port_security_there_are_no_groups_and_pairs(self):
        network = self.db.network()
        group = self.db.group()
        port = self.db.port(network, groups=[group], bindings=[HERE])
        self.db.add(query.port_security_models.PortSecurityBinding,
                    port_id=port, port_security_enabled=False)
        snapshot = self.read()
        found = snapshot.objects['ports'][port]
        self.assertIs(False, found['port_security'])
        self.assertNotIn('groups', found)
        self.assertEqual({}, snapshot.objects['groups'])

    def test_only_compute_ports_have_an_instance(self):
        network = self.db.network()
        for owner, instance in (('compute:az', 'vm'), ('', None),
                                ('baremetal:none', None)):
            port = self.db.port(network, bindings=[HERE], device_owner=owner)
            found = self.read().objects['ports'][port]
            self.assertEqual(instance, found.get('instance'), owner)

    def test_only_this_hosts_ports_of_routed_networks(self):
        routed, vlan = self.db.network(), self.db.network('vlan')
        mine = self.db.port(routed, bindings=[HERE])
        self.db.port(vlan, bindings=[HERE])
        self.db.port(routed, bindings=[('hv2', 'ACTIVE', 'tap')])
        self.db.port(routed, bindings=[('', 'ACTIVE', 'unbound')])
        self.assertEqual([mine], list(self.read().objects['ports']))

    def test_ports_that_wait_for_their_binding_are_named(self):
        network = self.db.network()
        failed = self.db.port(
            network, bindings=[('hv1', 'ACTIVE', 'binding_failed')])
        fresh = self.db.port(network, bindings=[('hv1', 'ACTIVE', 'unbound')])
        self.db.port(network, bindings=[HERE])
        self.db.port(network, bindings=[('hv1', 'INACTIVE', 'unbound')])
        snapshot = self.read()
        self.assertEqual({failed, fresh}, set(snapshot.unbound))
        self.assertNotIn(failed, snapshot.objects['ports'])
        self.assertIn(fresh, snapshot.objects['ports'])

    def test_subnet(self):
        network = self.db.network()
        subnet = self.db.subnet(network, '10.252.0.0/16', '10.252.0.1',
                                enable_dhcp=False, revision=2)
        self.db.port(network, [('10.252.0.9', subnet)], bindings=[HERE])
        servers = query.models_v2.DNSNameServer
        for order, address in enumerate(('9.9.9.9', '1.1.1.1', '8.8.8.8')):
            self.db.add(servers, subnet_id=subnet, address=address,
                        order=order)
        self.db.add(query.models_v2.SubnetRoute, subnet_id=subnet,
                    destination='10.250.0.0/16', nexthop='10.252.0.1')
        found = dict(self.read().objects['subnets'][subnet])
        del found['digest'], found['read_at']
        self.assertEqual({
            'id': subnet, 'revision': 2, 'cidr': '10.252.0.0/16',
            'gateway': '10.252.0.1', 'dhcp': False,
            'dns': ['9.9.9.9', '1.1.1.1', '8.8.8.8'],
            'host_routes': [{'destination': '10.250.0.0/16',
                             'nexthop': '10.252.0.1'}]}, found)

    def test_groups_are_followed_one_step_and_members_are_cloud_wide(self):
        network, elsewhere = self.db.network(), self.db.network('vlan')
        subnet = self.db.subnet(network, '10.252.0.0/16')
        other = self.db.subnet(elsewhere, '192.0.2.0/24')
        used, named, beyond, idle = (self.db.group() for _ in range(4))
        addresses = self.db.address_group('198.51.100.0/24', '2001:db8::/32')
        unread = self.db.address_group('203.0.113.0/24')
        rule = self.db.rule(used, protocol='tcp', port_range_min=443,
                            port_range_max=443, remote_group_id=named)
        self.db.rule(used, ethertype='IPv6', direction='egress',
                     remote_address_group_id=addresses)
        self.db.rule(used, remote_ip_prefix='203.0.113.77/24')
        self.db.rule(named, remote_group_id=beyond)
        self.db.rule(named, remote_address_group_id=unread)
        self.db.rule(idle, remote_group_id=used)
        self.db.port(network, [('10.252.0.9', subnet)], [used], [HERE])
        far = self.db.port(elsewhere, [('192.0.2.5', other)], [named],
                           [('hv9', 'ACTIVE', 'ovs')])
        self.db.add(query.Pair, port_id=far, ip_address='192.0.2.77',
                    mac_address='fa:16:3e:00:00:77')
        self.db.port(elsewhere, [('192.0.2.6', other)], [named])
        snapshot = self.read()
        groups = snapshot.objects['groups']
        self.assertEqual({used, named}, set(groups))
        self.assertEqual([{'address': '10.252.0.9'}], groups[used]['members'])
        self.assertEqual(
            [{'address': '192.0.2.5'}, {'address': '192.0.2.6'},
             {'address': '192.0.2.77', 'mac': 'fa:16:3e:00:00:77'}],
            groups[named]['members'])
        self.assertIn({'id': rule, 'direction': 'ingress', 'protocol': 'tcp',
                       'ethertype': 'IPv4', 'port_range_min': 443,
                       'port_range_max': 443, 'remote_group': named},
                      groups[used]['rules'])
        self.assertEqual(3, len(groups[used]['rules']))
        self.assertEqual(2, len(groups[named]['rules']))
        self.assertEqual({addresses}, set(snapshot.objects['address_groups']))
        self.assertEqual(
            ['198.51.100.0/24', '2001:db8::/32'],
            snapshot.objects['address_groups'][addresses]['addresses'])

    def test_a_group_is_the_same_for_every_host(self):
        network = self.db.network()
        used, named = self.db.group(stateful=False), self.db.group()
        self.db.rule(used, remote_group_id=named)
        self.db.rule(named, remote_group_id=used)
        self.db.port(network, groups=[used], bindings=[HERE])
        self.db.port(network, groups=[named],
                     bindings=[('hv2', 'ACTIVE', 'tap')])
        one, two = (self.read(host).objects['groups']
                    for host in ('hv1', 'hv2'))
        for group in (used, named):
            self.assertEqual(one[group]['digest'], two[group]['digest'])
        self.assertIs(False, one[used]['stateful'])

    def test_the_digest_is_of_content_alone(self):
        network = self.db.network()
        port = self.db.port(network, bindings=[HERE])
        first = self.read().objects['ports'][port]
        self.change(query.Port, port, status='ACTIVE')
        with self.db.engine.begin() as connection:
            connection.execute(query.Attributes.__table__.update().values(
                revision_number=99))
        second = self.read().objects['ports'][port]
        self.assertEqual(('ACTIVE', 99),
                         (second['status'], second['revision']))
        self.assertEqual(first['digest'], second['digest'])
        self.change(query.Port, port, name='web-2')
        self.assertNotEqual(first['digest'],
                            self.read().objects['ports'][port]['digest'])

    def change(self, model, thing_id, **values):
        with self.db.engine.begin() as connection:
            connection.execute(model.__table__.update().where(
                model.__table__.c.id == thing_id), values)

    def test_both_ends_of_a_migration_and_their_addresses(self):
        network = self.db.network()
        port = self.db.port(network, bindings=[
            ('hv1', 'ACTIVE', 'tap'), ('hv2', 'INACTIVE', 'tap')])
        self.db.agent('hv1', '{"underlay_address": "10.255.16.1"}')
        self.db.agent('hv2', '{"underlay_address": "2001:db8:255:2::2"}')
        self.db.agent('hv2', '{"underlay_address": "192.0.2.1"}',
                      agent_type='Open vSwitch agent')
        self.assertEqual({'state': 'outgoing', 'peer': '2001:db8:255:2::2'},
                         self.read('hv1').objects['ports'][port]['binding'])
        self.assertEqual({'state': 'incoming', 'peer': '10.255.16.1'},
                         self.read('hv2').objects['ports'][port]['binding'])

    def test_reports_that_make_no_sense_are_no_peer(self):
        network = self.db.network()
        port = self.db.port(network, bindings=[
            ('hv1', 'ACTIVE', 'tap'), ('hv2', 'INACTIVE', 'tap')])
        for report in ('{"underlay_address": "hv2.example"}', '[1]', '{"und',
                       '{"underlay_address": null}', ''):
            self.db.agent('hv2', report)
            self.assertEqual({'state': 'outgoing'},
                             self.read().objects['ports'][port]['binding'])
            with self.db.engine.begin() as connection:
                connection.execute(query.Agent.__table__.delete())

    def test_what_the_own_agent_reported(self):
        self.db.agent('hv1', '{"process": "abc"}')
        self.assertEqual({'process': 'abc'}, self.read().reported)
        self.assertEqual({}, self.read('hv2').reported)

    def fill(self, ports):
        """A host on which every query has something to find."""
        network = self.db.network()
        subnet = self.db.subnet(network, '10.252.0.0/16')
        self.db.agent('hv2', '{"underlay_address": "10.255.16.2"}')
        for number in range(ports):
            used, named = self.db.group(), self.db.group()
            self.db.rule(used, remote_group_id=named)
            self.db.rule(used, remote_address_group_id=self.db.address_group(
                '198.51.100.0/24'))
            port = self.db.port(
                network, [('10.252.0.%d' % (number + 2), subnet)],
                [used], [HERE, ('hv2', 'INACTIVE', 'tap')])
            self.db.add(query.Pair, port_id=port, ip_address='10.252.9.0/28',
                        mac_address='fa:16:3e:5a:10:02')

    def test_the_number_of_queries_does_not_depend_on_the_number_of_ports(
            self):
        counts = []
        for ports in (1, 30):
            self.fill(ports)
            with self.db.counting() as statements:
                snapshot = self.read()
            self.assertEqual(ports, len(snapshot.objects['ports']))
            counts.append(len(statements))
            self.db.clear()
        self.assertEqual([19, 19], counts)

    @unittest.skipIf(jsonschema is None, 'jsonschema is not installed')
    def test_the_objects_keep_the_schema_of_intent(self):
        self.fill(3)
        found = {kind: list(things.values())
                 for kind, things in self.read().objects.items()}
        self.assertTrue(all(found.values()))
        jsonschema.validate(dict(found, version=1),
                            json.loads(SCHEMA.read_text()))

    def test_nothing_of_an_unknown_host(self):
        snapshot = self.read('nowhere')
        self.assertEqual({kind: {} for kind in objects.KINDS},
                         snapshot.objects)

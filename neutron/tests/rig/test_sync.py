# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What an agent is told, and when: through RabbitMQ, from a real database.

Every step changes something by REST and then syncs: the reply must bring
that change, and nothing else.
"""

import unittest
import uuid

from tests.rig import cloud
from tests.rig.cloud import changed
from tests.rig.cloud import gone


class SyncTest(unittest.TestCase):

    maxDiff = None

    def setUp(self):
        self.agent = cloud.living_agent(underlay_address='10.255.16.1')
        self.network = cloud.network()
        self.subnet = cloud.subnet(self.network)

    def expect(self, expected, tombstones=None):
        """Syncs, and again: what was told is not told again."""
        reply = self.agent.sync()
        self.assertEqual(
            (expected, tombstones or {}), (changed(reply), gone(reply)))
        again = self.agent.sync()
        self.assertEqual(({}, {}, False), (
            changed(again), gone(again), again['more']))
        return reply

    def group(self):
        return cloud.create('security_group', name='g')

    def rule(self, group, **fields):
        return cloud.create(
            'security_group_rule', security_group_id=group,
            **dict({'direction': 'ingress', 'ethertype': 'IPv4'}, **fields))

    def test_a_ports_life(self):
        group = self.group()
        self.expect({})
        port = cloud.port(
            self.network, self.agent.host, name='web 1', dns_name='web-1',
            security_groups=[group['id']], allowed_address_pairs=[
                {'ip_address': '203.0.113.0/28'}],
            extra_dhcp_opts=[{'opt_name': 'bootfile-name',
                              'opt_value': 'pxelinux.0'}])
        reply = self.expect({'ports': [port['id']],
                             'subnets': [self.subnet['id']],
                             'groups': [group['id']]})
        told, = reply['ports']
        port = cloud.show('port', port['id'])
        address = port['fixed_ips'][0]['ip_address']
        self.assertEqual({
            'id': port['id'], 'revision': port['revision_number'],
            'created': port['created_at'], 'mac': port['mac_address'],
            'mtu': 1500, 'admin_state_up': True, 'port_security': True,
            'addresses': [{'address': address, 'subnet': self.subnet['id']}],
            'project': port['project_id'], 'instance': port['device_id'],
            'hostname': 'web-1', 'groups': [group['id']],
            'allowed_address_pairs': [{'address': '203.0.113.0/28',
                                       'mac': port['mac_address']}],
            'dhcp_options': [{'name': 'bootfile-name', 'value': 'pxelinux.0',
                              'ip_version': 4}],
            'binding': {'state': 'active'}, 'status': 'DOWN',
            'read_at': reply['read_at'], 'digest': told['digest']}, told)
        self.assertEqual({port['id']: 'DOWN'}, reply['statuses'])

        # Status is told without the port: it isn't of its content, nor is the
        # revision, which grows with it.
        self.agent.up(port['id'])
        reply = self.agent.sync()
        self.assertEqual(({}, {port['id']: 'ACTIVE'}),
                         (changed(reply), reply['statuses']))

        for fields, field, value in (
                ({'admin_state_up': False}, 'admin_state_up', False),
                ({'extra_dhcp_opts': [{'opt_name': 'bootfile-name',
                                       'opt_value': None}]},
                 'dhcp_options', None),
                ({'dns_name': 'web-2'}, 'hostname', 'web-2'),
                ({'dns_name': '', 'name': 'db-1'}, 'hostname', 'db-1'),
                ({'device_id': 'another'}, 'instance', 'another')):
            cloud.update('port', port['id'], **fields)
            told, = self.expect({'ports': [port['id']]})['ports']
            self.assertEqual(value, told.get(field), field)

        # What is a member's is its group's as well.
        cloud.update('port', port['id'], allowed_address_pairs=[])
        reply = self.expect({'ports': [port['id']], 'groups': [group['id']]})
        self.assertNotIn('allowed_address_pairs', reply['ports'][0])
        cloud.update('port', port['id'], fixed_ips=[
            {'subnet_id': self.subnet['id']},
            {'subnet_id': self.subnet['id']}])
        reply = self.expect({'ports': [port['id']], 'groups': [group['id']]})
        self.assertEqual(2, len(reply['ports'][0]['addresses']))
        self.assertEqual(
            [ip['address'] for ip in reply['ports'][0]['addresses']],
            [member['address'] for member in reply['groups'][0]['members']])

        cloud.update('port', port['id'], security_groups=[],
                     port_security_enabled=False)
        told, = self.expect({'ports': [port['id']]},
                            {'groups': [group['id']]})['ports']
        self.assertEqual((False, None),
                         (told['port_security'], told.get('groups')))

        cloud.delete('port', port['id'])
        reply = self.expect({}, {'ports': [port['id']],
                                 'subnets': [self.subnet['id']]})
        self.assertEqual({'id': port['id'], 'read_at': reply['read_at']},
                         reply['gone']['ports'][0])

    def test_a_port_that_moves_to_another_host(self):
        other = cloud.living_agent()
        port = cloud.port(self.network, self.agent.host, security_groups=[])
        self.expect({'ports': [port['id']], 'subnets': [self.subnet['id']]})
        cloud.update('port', port['id'], **{'binding:host_id': other.host})
        self.expect({}, {'ports': [port['id']],
                         'subnets': [self.subnet['id']]})
        self.assertEqual([port['id']], changed(other.sync())['ports'])
        cloud.update('port', port['id'], **{'binding:host_id': ''})
        self.assertEqual([port['id']], gone(other.sync())['ports'])

    def test_subnets_and_networks(self):
        port = cloud.port(self.network, self.agent.host, security_groups=[])
        self.expect({'ports': [port['id']], 'subnets': [self.subnet['id']]})
        gateway = self.subnet['gateway_ip']
        for fields, expected in (
                ({'dns_nameservers': ['192.0.2.2', '192.0.2.1']},
                 {'dns': ['192.0.2.2', '192.0.2.1']}),
                ({'dns_nameservers': ['192.0.2.1', '192.0.2.2']},
                 {'dns': ['192.0.2.1', '192.0.2.2']}),
                ({'host_routes': [{'destination': '198.51.100.0/24',
                                   'nexthop': gateway}]},
                 {'host_routes': [{'destination': '198.51.100.0/24',
                                   'nexthop': gateway}]}),
                ({'enable_dhcp': False}, {'dhcp': False}),
                ({'gateway_ip': None}, {'gateway': None})):
            cloud.update('subnet', self.subnet['id'], **fields)
            told, = self.expect({'subnets': [self.subnet['id']]})['subnets']
            for field, value in expected.items():
                self.assertEqual(value, told.get(field), field)
        # What guests and agents don't see is nobody's business.
        cloud.update('subnet', self.subnet['id'], name='another')
        self.expect({})
        cloud.update('network', self.network, mtu=1400)
        told, = self.expect({'ports': [port['id']]})['ports']
        self.assertEqual(1400, told['mtu'])

    def test_ipv6(self):
        subnet = cloud.subnet(
            self.network, cloud.prefix6(), gateway_ip='fe80::1',
            ipv6_ra_mode='slaac', ipv6_address_mode='slaac')
        port = cloud.port(self.network, self.agent.host, security_groups=[])
        reply = self.expect({'ports': [port['id']], 'subnets': sorted(
            [subnet['id'], self.subnet['id']])})
        told = self.agent.has['subnets'][subnet['id']]
        self.assertEqual(
            ('fe80::1', 'slaac', 'slaac', True),
            (told['gateway'], told['ipv6_ra_mode'],
             told['ipv6_address_mode'], told['dhcp']))
        self.assertEqual(sorted(ip['ip_address'] for ip in port['fixed_ips']),
                         [ip['address'] for ip in
                          reply['ports'][0]['addresses']])

    def test_groups_rules_and_members(self):
        web, db = self.group()['id'], self.group()['id']
        port = cloud.port(self.network, self.agent.host,
                          security_groups=[web])
        self.expect({'ports': [port['id']], 'subnets': [self.subnet['id']],
                     'groups': [web]})
        rule = self.rule(web, protocol='tcp', port_range_min=443,
                         port_range_max=444,
                         remote_ip_prefix='203.0.113.77/24')
        told, = self.expect({'groups': [web]})['groups']
        self.assertIn({
            'id': rule['id'], 'direction': 'ingress', 'ethertype': 'IPv4',
            'protocol': 'tcp', 'port_range_min': 443, 'port_range_max': 444,
            'remote_ip_prefix': '203.0.113.77/24'}, told['rules'])
        cloud.delete('security_group_rule', rule['id'])
        told, = self.expect({'groups': [web]})['groups']
        self.assertNotIn(rule['id'], [r['id'] for r in told['rules']])

        # A remote group: known with its members from the moment it is named.
        far = cloud.port(self.network, security_groups=[db])
        self.expect({})
        rule = self.rule(web, remote_group_id=db)
        self.expect({'groups': sorted([web, db])})
        self.assertEqual(
            [{'address': far['fixed_ips'][0]['ip_address']}],
            self.agent.has['groups'][db]['members'])

        # Its members come and go on any host; pairs count as well, though
        # Neutron itself tells nobody.
        cloud.update('port', far['id'], allowed_address_pairs=[
            {'ip_address': '192.0.2.9', 'mac_address': 'fa:16:3e:00:00:09'}])
        told, = self.expect({'groups': [db]})['groups']
        self.assertIn({'address': '192.0.2.9', 'mac': 'fa:16:3e:00:00:09'},
                      told['members'])
        cloud.delete('port', far['id'])
        told, = self.expect({'groups': [db]})['groups']
        self.assertEqual([], told['members'])

        cloud.delete('security_group_rule', rule['id'])
        self.expect({'groups': [web]}, {'groups': [db]})
        self.assertLess(self.agent.has['ports'][port['id']]['read_at'],
                        self.agent.has['groups'][web]['read_at'])

    def test_stateless_groups(self):
        group = cloud.create('security_group', name='g', stateful=False)['id']
        cloud.port(self.network, self.agent.host, security_groups=[group])
        self.agent.sync()
        self.assertIs(False, self.agent.has['groups'][group]['stateful'])

    def test_address_groups(self):
        addresses = cloud.create('address_group', name='a',
                                 addresses=['198.51.100.0/24'])['id']
        group = self.group()['id']
        cloud.port(self.network, self.agent.host, security_groups=[group])
        self.agent.sync()
        rule = self.rule(group, remote_address_group_id=addresses)
        reply = self.expect({'groups': [group], 'address_groups': [addresses]})
        self.assertEqual(['198.51.100.0/24'],
                         reply['address_groups'][0]['addresses'])
        for action, expected in (
                ('add_addresses', ['198.51.100.0/24', '2001:db8::/32']),
                ('remove_addresses', ['198.51.100.0/24'])):
            cloud.ask('PUT', 'address-groups/%s/%s' % (addresses, action),
                      {'addresses': ['2001:db8::/32']})
            reply = self.expect({'address_groups': [addresses]})
            self.assertEqual(expected,
                             reply['address_groups'][0]['addresses'])
        cloud.delete('security_group_rule', rule['id'])
        self.expect({'groups': [group]}, {'address_groups': [addresses]})

    def test_every_worker_says_the_same(self):
        """Calls go to all RPC workers by turns: their digests must agree."""
        group = self.group()['id']
        self.rule(group, remote_group_id=group)
        for _ in range(5):
            cloud.port(self.network, self.agent.host, security_groups=[group])
        self.agent.sync()
        for _ in range(8):
            reply = self.agent.sync()
            self.assertEqual(({}, {}), (changed(reply), gone(reply)))

    def test_time_goes_on(self):
        times = [self.agent.sync()['read_at'] for _ in range(8)]
        self.assertEqual(sorted(set(times)), times)

    def test_two_agents_under_one_name(self):
        self.agent.report(process='first')
        self.assertNotIn('other_agent', self.agent.sync(process='first'))
        self.assertEqual('first', self.agent.sync(
            process='second')['other_agent'])

    def test_requests_that_make_no_sense_have_an_answer(self):
        call = self.agent.call
        for arguments, what in (
                ({'host': '', 'digests': {}}, 'ValueError'),
                ({'host': self.agent.host, 'digests': ['x']}, 'ValueError'),
                ({'host': self.agent.host}, 'TypeError')):
            with self.assertRaises(Exception) as caught:
                call('l2isolate', '1.0', 'sync', **arguments)
            self.assertIn(what, type(caught.exception).__name__ +
                          str(caught.exception))
        for version, method in (('1.0', 'start_rpc_listeners'),
                                ('1.0', 'no_such_method'), ('9.0', 'sync')):
            with self.assertRaises(Exception) as caught:
                call('l2isolate', version, method)
            self.assertRegex(type(caught.exception).__name__ +
                             str(caught.exception),
                             'NoSuchMethod|UnsupportedVersion|Endpoint does')
        self.assertEqual({}, changed(self.agent.sync()))

    def test_a_context_is_not_needed(self):
        port = cloud.port(self.network, self.agent.host, security_groups=[])
        target = cloud.oslo_messaging.Target(topic='l2isolate')
        get_client = getattr(cloud.oslo_messaging, 'get_rpc_client',
                             cloud.oslo_messaging.RPCClient)
        client = get_client(cloud.Agent._transport, target, timeout=60)
        reply = client.call({}, 'sync', host=self.agent.host, digests={})
        self.assertEqual([port['id']], changed(reply)['ports'])

    def test_of_what_nobody_knows_there_is_a_tombstone(self):
        stranger = str(uuid.uuid4())
        self.agent.has['ports'][stranger] = {'digest': ''}
        self.expect({}, {'ports': [stranger]})


if __name__ == '__main__':
    unittest.main()

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Whatever is changed by REST reaches an agent that only listens."""

import concurrent.futures
import unittest

from tests.rig import cloud
from tests.rig import follower


class CastsTest(unittest.TestCase):

    maxDiff = None

    def setUp(self):
        self.agent = self.follow(underlay_address='10.255.16.1')
        self.network = cloud.network()
        self.subnet = cloud.subnet(self.network, gateway_ip=None)
        self.group = cloud.create('security_group', name='g')['id']
        self.agent.bind('l2isolate-group.' + self.group)

    def follow(self, **configurations):
        agent = follower.Follower(**configurations)
        self.addCleanup(agent.stop)
        agent.report()
        return agent

    def caught_up(self, what, agent=None):
        agent = agent or self.agent
        try:
            cloud.wait_for(lambda: agent.differs() == ({}, {}), what)
        except AssertionError as error:
            raise AssertionError('%s: a sync would bring %s after %s' % (
                error, agent.differs(), agent.news[-3:])) from None

    def boot(self, **fields):
        port = cloud.port(self.network, self.agent.host,
                          security_groups=[self.group], **fields)['id']
        return port

    def ready(self):
        """A port whose groups the agent has."""
        port = self.boot()
        self.agent.sync()
        self.caught_up('the first port')
        return port

    def test_a_boot_is_told_to_its_host_and_its_group(self):
        self.ready()
        other = self.follow()
        uninvolved = self.follow()
        cloud.port(self.network, other.host, security_groups=[self.group])
        other.bind('l2isolate-group.' + self.group)
        other.sync()
        del self.agent.news[:], other.news[:]
        port = self.boot()
        self.caught_up('the port')
        self.caught_up('the member', other)
        keys = [news['key'] for news in self.agent.news]
        host = 'l2isolate-agent.' + self.agent.host
        self.assertEqual(1, keys.count(host), keys)
        self.assertEqual(2, len(keys), keys)
        told, = [news for news in self.agent.news if news['key'] == host]
        self.assertEqual([(port, 'DOWN')], [
            (p['id'], p['status']) for p in told['ports']])
        self.assertEqual([self.subnet['id']],
                         [s['id'] for s in told['subnets']])
        self.assertEqual(['l2isolate-group.' + self.group],
                         [news['key'] for news in other.news])
        self.assertEqual([], uninvolved.news)
        # That it is up is the agent's own word.
        self.agent.up(port)
        cloud.wait_for(lambda: cloud.show('port', port)['status'] == 'ACTIVE',
                       'the port')
        # What is told next comes next: nothing was told in between.
        cloud.update('port', port, name='after')
        self.caught_up('the name')
        self.assertEqual(3, len(self.agent.news))

    def test_everything_of_a_port(self):
        port = self.ready()
        for fields in (
                {'admin_state_up': False}, {'name': 'db-1'},
                {'dns_name': 'web-1'}, {'device_id': 'another'},
                {'extra_dhcp_opts': [{'opt_name': 'bootfile-name',
                                      'opt_value': 'pxelinux.0'}]},
                {'allowed_address_pairs': [{'ip_address': '203.0.113.0/28'}]},
                {'fixed_ips': [{'subnet_id': self.subnet['id']}] * 2},
                {'allowed_address_pairs': []},
                {'security_groups': [], 'port_security_enabled': False},
                {'binding:profile': {'any': 'thing'}},
                {'port_security_enabled': True,
                 'security_groups': [self.group]}):
            cloud.update('port', port, **fields)
            self.forget_groups()
            self.caught_up(fields)

    def forget_groups(self):
        """Groups without ports end by sync, not by casts."""
        reply = self.agent.call('l2isolate', '1.0', 'sync',
                                host=self.agent.host,
                                digests=self.agent.digests())
        for kind in ('groups', 'address_groups', 'subnets'):
            for tombstone in reply['gone'][kind]:
                self.agent.has[kind].pop(tombstone['id'], None)
            for thing in reply[kind]:
                self.agent.has[kind].setdefault(thing['id'], thing)

    def test_hosts_and_deletion(self):
        port = self.ready()
        other = self.follow()
        cloud.update('port', port, **{'binding:host_id': other.host})
        cloud.wait_for(lambda: not self.agent.has['ports'], 'the move')
        cloud.wait_for(lambda: port in other.has['ports'], 'the arrival')
        cloud.update('port', port, **{'binding:host_id': ''})
        cloud.wait_for(lambda: not other.has['ports'], 'the unbinding')
        cloud.update('port', port, **{'binding:host_id': other.host})
        cloud.wait_for(lambda: port in other.has['ports'], 'the return')
        # Neutron lets a port have another MAC only while it has no host.
        cloud.update('port', port, **{'binding:host_id': ''})
        cloud.update('port', port, mac_address='fa:17:3e:00:00:01')
        cloud.update('port', port, **{'binding:host_id': other.host})
        cloud.wait_for(lambda: other.has['ports'].get(port, {}).get('mac') ==
                       'fa:17:3e:00:00:01', 'another MAC')
        cloud.delete('port', port)
        cloud.wait_for(lambda: not other.has['ports'], 'the deletion')

    def test_a_live_migration(self):
        port = self.ready()
        self.agent.up(port)
        other = self.follow(underlay_address='10.255.16.2')
        source = self.agent

        def states(*expected):
            has = [agent.has['ports'].get(port) for agent in (source, other)]
            return expected == tuple(p and p['binding']['state'] for p in has)

        def becomes(*expected):
            cloud.wait_for(lambda: states(*expected), expected)

        path = 'ports/%s/bindings' % port
        cloud.ask('POST', path, {'binding': {'host': other.host}})
        becomes('outgoing', 'incoming')
        self.assertEqual('10.255.16.1',
                         other.has['ports'][port]['binding']['peer'])
        cloud.update('port', port, **{'binding:profile': {
            'migrating_to': other.host}})
        cloud.wait_for(lambda: source.has['ports'][port]['status'] == 'DOWN',
                       'the source hears that Neutron unbound it')
        source.up(port)
        cloud.ask('PUT', '%s/%s/activate' % (path, other.host))
        becomes('outgoing', 'active')
        cloud.ask('DELETE', '%s/%s' % (path, source.host))
        becomes(None, 'active')
        # And one that is called off.
        cloud.ask('POST', path, {'binding': {'host': source.host}})
        becomes('incoming', 'outgoing')
        cloud.ask('DELETE', '%s/%s' % (path, source.host))
        becomes(None, 'active')

    def test_subnets_and_networks(self):
        self.ready()
        subnet = self.subnet['id']
        for fields in ({'dns_nameservers': ['192.0.2.53', '192.0.2.54']},
                       {'dns_nameservers': ['192.0.2.54']},
                       {'host_routes': [{'destination': '192.0.2.0/24',
                                         'nexthop': '10.0.0.9'}]},
                       {'enable_dhcp': False}):
            cloud.update('subnet', subnet, **fields)
            self.caught_up(fields)
        cloud.update('network', self.network, mtu=1400)
        self.caught_up('the MTU')
        # Ports get addresses of it by themselves.
        slaac = cloud.subnet(self.network, cloud.prefix6(),
                             ipv6_ra_mode='slaac', ipv6_address_mode='slaac')
        self.caught_up('a subnet that gives addresses')
        # And lose them: nobody asks for the ports.
        cloud.delete('subnet', slaac['id'])
        self.forget_groups()
        self.caught_up('a subnet that takes its addresses along')

    def test_groups_and_address_groups(self):
        self.ready()
        addresses = cloud.create(
            'address_group', name='a', addresses=['192.0.2.0/24'])['id']
        remote = cloud.create('security_group', name='r')['id']
        self.agent.bind('l2isolate-group.' + remote,
                        'l2isolate-address-group.' + addresses)
        fields = {'security_group_id': self.group, 'direction': 'ingress',
                  'ethertype': 'IPv4'}
        tcp = cloud.create('security_group_rule', protocol='tcp',
                           port_range_min=22, port_range_max=22, **fields)
        self.caught_up('a rule')
        cloud.ask('POST', 'security-group-rules', {'security_group_rules': [
            dict(fields, remote_group_id=remote),
            dict(fields, remote_address_group_id=addresses)]})
        # What the rules name is new to the agent.
        cloud.wait_for(lambda: len(self.agent.has['groups'][self.group][
            'rules']) >= 3, 'rules at once')
        self.agent.sync()
        cloud.delete('security_group_rule', tcp['id'])
        self.caught_up('a rule less')
        cloud.update('security_group', self.group, stateful=True, name='x')
        self.caught_up('a name, which is nothing to agents')
        for what in ('add_addresses', 'remove_addresses'):
            cloud.ask('PUT', 'address-groups/%s/%s' % (addresses, what),
                      {'addresses': ['198.51.100.0/24']})
            self.caught_up(what)
        member = cloud.port(self.network, security_groups=[remote])['id']
        self.caught_up('a member of the remote group')
        cloud.update('port', member, allowed_address_pairs=[
            {'ip_address': '203.0.113.9'}])
        self.caught_up("a member's pair")
        cloud.delete('port', member)
        self.caught_up('a member less')
        # Neutron deletes the rules that name it with it.
        cloud.delete('security_group', remote)
        cloud.wait_for(lambda: remote not in str(
            self.agent.has['groups'][self.group]), 'the rule of a group that went')
        cloud.wait_for(lambda: remote not in self.agent.has['groups'],
                       'the end of a group')
        self.caught_up('a group less')

    def test_bulk_and_several_workers_at_once(self):
        self.ready()
        bulk = cloud.ask('POST', 'ports', {'ports': [
            {'network_id': self.network, 'device_owner': 'compute:nova',
             'device_id': 'vm%d' % n, 'binding:host_id': self.agent.host,
             'security_groups': [self.group],
             'allowed_address_pairs': [{'ip_address': '203.0.113.%d' % n}]}
            for n in range(4)]})['ports']
        self.caught_up('ports at once')
        self.assertEqual(5, len(self.agent.has['ports']))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            new = list(pool.map(lambda _: self.boot(), range(12)))
            list(pool.map(lambda port: cloud.delete('port', port),
                          [port['id'] for port in bulk] + new[:4]))
        cloud.wait_for(lambda: len(self.agent.has['ports']) == 9, 'the ports')
        senders = {news['sender'] for news in self.agent.news}
        self.assertLess(1, len(senders))
        self.caught_up('all of it')

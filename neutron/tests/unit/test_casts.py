# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What is told of changes, and to whom."""

import random
import threading
import unittest
from unittest import mock

from neutron_lib.db import api as db_api

from networking_l2isolate.casts import announcer
from networking_l2isolate.casts import changes
from networking_l2isolate.intent import host as host_intent
from networking_l2isolate.intent import objects
from networking_l2isolate.intent import query
from tests.unit import database

HERE = ('hv1', 'ACTIVE', 'tap')


class CastsTest(unittest.TestCase):
    """Rows are written as Neutron does, by objects in sessions."""

    @classmethod
    def setUpClass(cls):
        cls.db = database.set_up()
        cls.noted = []
        cls.tell = cls.noted.append
        changes.watch(lambda noted: cls.tell(noted))
        cls.addClassCleanup(db_api.sqla_remove_all)

    def setUp(self):
        self.addCleanup(self.db.clear)
        self.messages = []
        self.announcer = announcer.Announcer(self.messages.append)
        self.network = self.db.network()
        self.subnet = self.db.subnet(self.network, '10.252.0.0/16')
        self.group = self.db.group()

    def port(self, address, *bindings, groups=None):
        return self.db.port(
            self.network, [(address, self.subnet)],
            [self.group] if groups is None else groups, bindings or [HERE])

    def get(self, session, model, **columns):
        return session.query(model).filter_by(**columns).one()

    def told(self, write):
        """What agents are told of what is written: {key: [news]}."""
        del self.noted[:]
        del self.messages[:]
        with self.db.writing() as session:
            write(session)
        for noted in self.noted:
            self.announcer.announce(noted)
            self.announcer._groups_at = 0.0
        told = {}
        for message in self.messages:
            told.setdefault(message.key, []).append(message.news)
        return told

    def synced(self, host='hv1'):
        with self.db.reading() as session:
            return host_intent.read(session, host).objects

    def test_a_port_that_is_changed(self):
        port = self.port('10.252.0.5')
        self.port('10.252.0.6', ('hv2', 'ACTIVE', 'tap'))

        def write(session):
            self.get(session, query.Port, id=port).admin_state_up = False

        told = self.told(write)
        self.assertEqual(['l2isolate-agent.hv1'], list(told))
        [news] = told['l2isolate-agent.hv1']
        synced = self.synced()
        self.assertEqual(
            synced['ports'][port]['digest'], news['ports'][0]['digest'])
        self.assertFalse(news['ports'][0]['admin_state_up'])
        self.assertEqual([synced['subnets'][self.subnet]['digest']],
                         [subnet['digest'] for subnet in news['subnets']])
        self.assertEqual((1, 1, self.announcer.sender, {'ports': []}),
                         (news['version'], news['number'], news['sender'],
                          news['gone']))

    def test_what_nobody_needs_to_know_is_not_told(self):
        port = self.port('10.252.0.5')

        def write(session):
            row = self.get(session, query.Port, id=port)
            row.status = 'ACTIVE'
            row.device_id = row.device_id
            self.get(session, query.models_v2.Network,
                     id=self.network).name = 'another'

        self.assertEqual({}, self.told(write))

    def test_a_port_that_fell_is_told(self):
        port = self.port('10.252.0.5')
        with self.db.writing() as session:
            self.get(session, query.Port, id=port).status = 'ACTIVE'

        def write(session):
            self.get(session, query.Port, id=port).status = 'DOWN'

        [news] = self.told(write)['l2isolate-agent.hv1']
        self.assertEqual('DOWN', news['ports'][0]['status'])

    def test_what_is_rolled_back_is_not_told(self):
        port = self.port('10.252.0.5')

        def write(session):
            self.get(session, query.Port, id=port).name = 'x'
            session.flush()
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            self.told(write)
        self.assertEqual([], self.noted)

    def test_a_savepoint_that_is_given_up_takes_nothing_along(self):
        port = self.port('10.252.0.5')

        def write(session):
            self.get(session, query.Port, id=port).name = 'web'
            session.flush()
            try:
                with session.begin_nested():
                    self.get(session, query.Port, id=port).name = 'other'
                    session.flush()
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass

        [news] = self.told(write)['l2isolate-agent.hv1']
        self.assertEqual('web', news['ports'][0]['hostname'])

    def test_bindings_of_a_live_migration(self):
        port = self.port('10.252.0.5')

        def post(session):
            session.add(query.Binding(
                port_id=port, host='hv2', status='INACTIVE', vif_type='tap',
                vnic_type='normal', profile='', vif_details=''))

        told = self.told(post)
        states = {key: news[0]['ports'][0]['binding']['state']
                  for key, news in told.items()}
        self.assertEqual({'l2isolate-agent.hv1': 'outgoing',
                          'l2isolate-agent.hv2': 'incoming'}, states)

        def remove(session):
            session.delete(self.get(session, query.Binding, port_id=port,
                                    host='hv2'))

        told = self.told(remove)
        self.assertEqual([port], [gone['id'] for gone in told[
            'l2isolate-agent.hv2'][0]['gone']['ports']])
        self.assertEqual('active', told['l2isolate-agent.hv1'][0]['ports'][0][
            'binding']['state'])

    def test_what_is_about_to_be_bound_is_told_once_it_is(self):
        port = self.port('10.252.0.5')
        rows = {}

        def bind(vif_type):
            def write(session):
                rows['binding'] = self.get(session, query.Binding,
                                           port_id=port)
                rows['binding'].vif_type = vif_type
            return self.told(write)

        self.assertEqual({}, bind('unbound'))
        [news] = bind('tap')['l2isolate-agent.hv1']
        self.assertEqual('active', news['ports'][0]['binding']['state'])
        [news] = bind('binding_failed')['l2isolate-agent.hv1']
        self.assertEqual([port], [g['id'] for g in news['gone']['ports']])

    def test_a_port_that_is_deleted_and_its_members(self):
        port = self.port('10.252.0.5')
        self.db.add(query.Pair, port_id=port, ip_address='10.252.9.9',
                    mac_address='fa:16:3e:5a:10:02')
        self.port('10.252.0.6', ('hv2', 'ACTIVE', 'tap'))

        def write(session):
            session.delete(self.get(session, query.Port, id=port))

        told = self.told(write)
        self.assertEqual({'l2isolate-agent.hv1',
                          'l2isolate-group.' + self.group}, set(told))
        [news] = told['l2isolate-agent.hv1']
        self.assertEqual([port], [gone['id'] for gone in
                                  news['gone']['ports']])
        [changed] = told['l2isolate-group.' + self.group][0]['changed'][
            'groups']
        self.assertNotIn('rules', changed)
        self.assertEqual([], changed['added'])
        self.assertEqual(
            [{'address': '10.252.0.5'},
             {'address': '10.252.9.9', 'mac': 'fa:16:3e:5a:10:02'}],
            changed['removed'])
        group = self.synced('hv2')['groups'][self.group]
        self.assertEqual(group['digest'], changed['digest'])

    def test_an_address_that_another_member_has_too_stays(self):
        pair = {'ip_address': '10.252.9.9', 'mac_address': '00:00:5e:00:01:01'}
        ports = [self.port('10.252.0.5'), self.port('10.252.0.6')]
        for port in ports:
            self.db.add(query.Pair, port_id=port, **pair)

        def write(session):
            session.delete(self.get(session, query.Pair, port_id=ports[0]))

        [news] = self.told(write)['l2isolate-group.' + self.group]
        [changed] = news['changed']['groups']
        self.assertEqual(([], 1), (changed['removed'],
                                   len(changed['added'])))

    def test_ports_that_join_and_leave(self):
        port = self.port('10.252.0.5', groups=[])

        def join(session):
            session.add(query.GroupPort(port_id=port,
                                        security_group_id=self.group))

        def leave(session):
            session.delete(self.get(session, query.GroupPort, port_id=port))

        for write, field in ((join, 'added'), (leave, 'removed')):
            told = self.told(write)
            self.assertIn('l2isolate-agent.hv1', told)
            [news] = told['l2isolate-group.' + self.group]
            self.assertEqual([{'address': '10.252.0.5'}],
                             news['changed']['groups'][0][field])

    def test_rules_of_a_group_are_told_whole(self):
        self.port('10.252.0.5')
        rule = self.db.rule(self.group, protocol='tcp')

        def change(session):
            session.delete(self.get(session, query.Rule, id=rule))
            session.add(query.Rule(security_group_id=self.group,
                                   direction='ingress', ethertype='IPv4',
                                   protocol='icmp', project_id='p'))

        told = self.told(change)
        self.assertEqual(['l2isolate-group.' + self.group], list(told))
        [news] = told['l2isolate-group.' + self.group]
        [changed] = news['changed']['groups']
        synced = self.synced()['groups'][self.group]
        self.assertEqual(synced['rules'], changed['rules'])
        self.assertTrue(changed['whole'])
        self.assertEqual(synced['digest'], changed['digest'])

    def test_groups_that_are_deleted(self):
        address_group = self.db.address_group('192.0.2.0/24')

        def write(session):
            session.delete(self.get(session, query.Group, id=self.group))
            session.delete(self.get(session, query.AddressGroup,
                                    id=address_group))

        told = self.told(write)
        self.assertEqual(
            [self.group], [gone['id'] for gone in told[
                'l2isolate-group.' + self.group][0]['gone']['groups']])
        key = 'l2isolate-address-group.' + address_group
        self.assertEqual([address_group], [
            gone['id'] for gone in told[key][0]['gone']['address_groups']])

    def test_addresses_of_an_address_group(self):
        group = self.db.address_group('192.0.2.0/24', '198.51.100.0/24')

        def write(session):
            session.delete(self.get(session, query.Association,
                                    address='192.0.2.0/24'))
            session.add(query.Association(address_group_id=group,
                                          address='203.0.113.0/24'))

        [news] = self.told(write)['l2isolate-address-group.' + group]
        [changed] = news['changed']['address_groups']
        self.assertEqual((['203.0.113.0/24'], ['192.0.2.0/24']),
                         (changed['added'], changed['removed']))

    def test_a_subnet_to_hosts_that_have_ports_in_it(self):
        self.port('10.252.0.5')
        self.port('10.252.0.6')
        other = self.db.network()
        self.db.port(other, [('10.9.0.5', self.db.subnet(
            other, '10.9.0.0/24'))], bindings=[('hv2', 'ACTIVE', 'tap')])

        def write(session):
            session.add(query.models_v2.DNSNameServer(
                subnet_id=self.subnet, address='192.0.2.53', order=0))

        told = self.told(write)
        self.assertEqual(['l2isolate-agent.hv1'], list(told))
        [news] = told['l2isolate-agent.hv1']
        self.assertEqual((['192.0.2.53'], []),
                         (news['subnets'][0]['dns'], news['ports']))

    def test_the_mtu_of_a_network_to_all_of_its_ports(self):
        ports = {self.port('10.252.0.5'), self.port('10.252.0.6')}

        def write(session):
            self.get(session, query.models_v2.Network,
                     id=self.network).mtu = 9000

        [news] = self.told(write)['l2isolate-agent.hv1']
        self.assertEqual({(port, 9000) for port in ports},
                         {(port['id'], port['mtu']) for port in
                          news['ports']})

    def test_many_changes_at_once_are_told_once(self):
        ports = [self.port('10.252.1.%d' % n) for n in range(1, 40)]
        del self.noted[:]
        for port in ports:
            with self.db.writing() as session:
                session.add(query.Pair(port_id=port, ip_address='10.252.9.9',
                                       mac_address='00:00:5e:00:01:01'))
        self.assertEqual(39, len(self.noted))
        done = threading.Event()

        def send(message):
            self.messages.append(message)
            if len(self.messages) == 2:
                done.set()

        teller = announcer.Announcer(send)
        for noted in self.noted:
            teller.tell(noted)
        self.assertTrue(done.wait(60))
        keys = [message.key for message in self.messages]
        self.assertEqual(['l2isolate-agent.hv1',
                          'l2isolate-group.' + self.group], keys)
        self.assertEqual(39, len(self.messages[0].news['ports']))

    def test_a_request_does_not_fail_for_what_can_not_be_told(self):
        port = self.port('10.252.0.5')
        self.addCleanup(setattr, type(self), 'tell', self.noted.append)
        # As a thread that can't be started.
        type(self).tell = mock.Mock(side_effect=RuntimeError)
        with self.assertLogs(changes.__name__, 'ERROR'), \
                self.db.writing() as session:
            self.get(session, query.Port, id=port).name = 'other'
        type(self).tell.assert_called_once()
        with self.db.reading() as session:
            self.assertEqual(
                'other', self.get(session, query.Port, id=port).name)

    def test_one_that_can_not_be_told_takes_no_other_along(self):
        for host in ('hv1', 'hv2'):
            self.db.port(self.network, [], [], [(host,) + HERE[1:]])
        del self.noted[:]
        numbers = []

        def send(message):
            if message.key.endswith('hv1') and not numbers:
                numbers.append(None)
                raise RuntimeError
            numbers.append((message.key, message.news['number']))

        def change():
            with self.db.writing() as session:
                for port in session.query(query.Port):
                    port.name += 'x'
            teller.announce(self.noted.pop())

        teller = announcer.Announcer(send)
        with self.assertLogs(announcer.__name__, 'ERROR'):
            change()
        change()
        self.assertEqual([None, ('l2isolate-agent.hv2', 1),
                          ('l2isolate-agent.hv1', 2),
                          ('l2isolate-agent.hv2', 2)], numbers)

    def test_messages_of_a_key_are_numbered(self):
        port = self.port('10.252.0.5')
        numbers = []
        for name in ('a', 'b', 'c'):
            def write(session):
                self.get(session, query.Port, id=port).name = name
            numbers += [news['number'] for news in
                        self.told(write)['l2isolate-agent.hv1']]
        self.assertEqual([1, 2, 3], numbers)


class DigestTest(unittest.TestCase):
    """Who follows a group's differences ends at its digest."""

    def digest(self, members):
        group = {'id': 'g', 'rules': [], 'members': list(members)}
        return objects.seal('groups', group, 'now')['digest']

    def test_the_order_of_members_means_nothing(self):
        members = [{'address': '10.0.0.%d' % n} for n in range(20)]
        members.append({'address': '10.0.0.1', 'mac': 'fa:16:3e:00:00:01'})
        digest = self.digest(members)
        random.shuffle(members)
        self.assertEqual(digest, self.digest(members))
        self.assertNotEqual(digest, self.digest(members[1:]))

    def test_the_sum_of_the_documentation(self):
        head, total = self.digest([
            {'address': '10.252.1.10'},
            {'address': '10.252.9.100', 'mac': 'fa:16:3e:5a:10:01'},
        ]).split('-')
        self.assertEqual(16, len(head))
        self.assertEqual('9af225c5150d19c662c48e7bcae51c84', total)

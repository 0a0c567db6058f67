# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What agents are answered."""

import unittest
from unittest import mock

from networking_l2isolate.intent import host as host_intent
from networking_l2isolate.intent import objects
from networking_l2isolate import rpc
from tests.unit import database

NONE = {kind: {} for kind in objects.KINDS}
LIMIT = 1 << 20


def snapshot(**kinds):
    """One with objects of these ids: {kind: {id: size of its content}}."""
    things = {kind: {} for kind in objects.KINDS}
    for kind, sizes in kinds.items():
        for thing_id, size in sizes.items():
            things[kind][thing_id] = objects.seal(
                kind, {'id': thing_id, 'filler': 'x' * size}, 'now')
    return host_intent.Snapshot(read_at='now', reported={}, objects=things,
                                statuses={'p1': 'DOWN'}, unbound=[])


def ids(reply):
    return {kind: [thing['id'] for thing in reply[kind]]
            for kind in objects.KINDS if reply[kind]}


class AnswerTest(unittest.TestCase):

    def test_all_to_an_agent_that_has_nothing(self):
        reply = rpc.answer(snapshot(ports={'p1': 0}, groups={'g': 0}), NONE,
                           LIMIT)
        self.assertEqual({'ports': ['p1'], 'groups': ['g']}, ids(reply))
        self.assertEqual({'ports': [], 'subnets': [], 'groups': [],
                          'address_groups': []}, reply['gone'])
        self.assertEqual((1, 'now', False, {'p1': 'DOWN'}),
                         (reply['version'], reply['read_at'], reply['more'],
                          reply['statuses']))

    def test_only_what_differs_and_what_is_gone(self):
        state = snapshot(ports={'p1': 0, 'p2': 0, 'p3': 0})
        same = state.objects['ports']['p1']['digest']
        known = dict(NONE, ports={'p1': same, 'p2': 'another', 'p3': '',
                                  'p9': same},
                     subnets={'s9': ''})
        reply = rpc.answer(state, known, LIMIT)
        self.assertEqual({'ports': ['p2', 'p3']}, ids(reply))
        self.assertEqual([{'id': 'p9', 'read_at': 'now'}],
                         reply['gone']['ports'])
        self.assertEqual([{'id': 's9', 'read_at': 'now'}],
                         reply['gone']['subnets'])

    def test_in_parts_until_an_agent_has_everything(self):
        state = snapshot(
            ports={'p%d' % n: 400 for n in range(9)},
            groups={'big': 5000, 'small': 10}, subnets={'s': 10},
            address_groups={'a': 10})
        known = dict(NONE, ports={'old': 'x'})
        replies = []
        for _ in range(20):
            reply = rpc.answer(state, known, 1000)
            replies.append(reply)
            known = {kind: dict(known[kind], **{
                thing['id']: thing['digest'] for thing in reply[kind]})
                for kind in objects.KINDS}
            if not reply['more']:
                break
            # Something comes each time, and nothing goes before all is there.
            self.assertTrue(ids(reply))
            self.assertEqual([], reply['gone']['ports'])
        self.assertEqual([{'id': 'old', 'read_at': 'now'}],
                         replies[-1]['gone']['ports'])
        self.assertLess(3, len(replies))
        sent = [kind for reply in replies for kind in objects.KINDS
                for _ in reply[kind]]
        self.assertEqual(sorted(sent, key=objects.KINDS.index), sent)
        self.assertEqual(13, len(sent))
        self.assertEqual({}, ids(rpc.answer(state, known, 1000)))


class SyncTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.db = database.set_up()

    def setUp(self):
        self.addCleanup(self.db.clear)
        self.endpoint = rpc.Endpoint()

    def sync(self, host='hv1', digests=None, **kwargs):
        return self.endpoint.sync(None, host, digests or {}, **kwargs)

    def test_a_port_comes_stays_and_goes(self):
        network = self.db.network()
        port = self.db.port(network, bindings=[('hv1', 'ACTIVE', 'tap')])
        first = self.sync()
        self.assertEqual({'ports': [port]}, ids(first))
        has = {'ports': {port: first['ports'][0]['digest']}}
        self.assertEqual({}, ids(self.sync(digests=has)))
        self.db.clear()
        last = self.sync(digests=has)
        self.assertEqual([port], [t['id'] for t in last['gone']['ports']])
        self.assertLess(first['read_at'], last['read_at'])

    def test_requests_that_make_no_sense(self):
        for host, digests, what in (
                ('', {}, 'host'), (None, {}, 'host'), (['hv1'], {}, 'host'),
                ('hv1', [], 'digests is list'),
                ('hv1', 'x', 'digests is str'),
                ('hv1', {'ports': ['p1']}, 'digests.ports is list')):
            with self.assertRaisesRegex(ValueError, what):
                self.endpoint.sync(None, host, digests)

    def test_kinds_of_a_later_version_are_ignored(self):
        self.assertEqual({}, ids(self.sync(
            digests={'routers': {'r': 'x'}, 'ports': None})))

    def test_two_agents_under_one_name(self):
        self.db.agent('hv1', '{"process": "first"}')
        self.assertNotIn('other_agent', self.sync(process='first'))
        self.assertNotIn('other_agent', self.sync())
        with self.assertLogs('networking_l2isolate.rpc', 'WARNING') as logs:
            self.assertEqual('first',
                             self.sync(process='second')['other_agent'])
        self.assertIn('hv1', logs.output[0])

    def test_ports_that_wait_for_their_binding_are_bound(self):
        network = self.db.network()
        port = self.db.port(
            network, bindings=[('hv1', 'ACTIVE', 'binding_failed')])
        plugin = mock.Mock()
        plugin.get_agents.return_value = [{'alive': False}]

        def bind(context, port_ids, host):
            self.assertTrue(context.is_admin)
            with self.db.engine.begin() as connection:
                connection.exec_driver_sql(
                    "update ml2_port_bindings set vif_type = 'tap'")

        plugin.get_bound_ports_contexts.side_effect = bind
        with mock.patch.object(rpc.directory, 'get_plugin',
                               return_value=plugin):
            # Binding would fail again, and take its time.
            with self.assertLogs('networking_l2isolate.rpc', 'WARNING'):
                self.assertEqual({}, ids(self.sync()))
            plugin.get_bound_ports_contexts.assert_not_called()
            plugin.get_agents.return_value = [{'alive': True}]
            self.assertEqual({'ports': [port]}, ids(self.sync()))
            plugin.get_bound_ports_contexts.assert_called_once_with(
                mock.ANY, [port], 'hv1')
            self.sync()
        self.assertEqual(1, plugin.get_bound_ports_contexts.call_count)

    def test_only_calls_that_are_meant_for_agents_can_be_called(self):
        public = [name for name in dir(self.endpoint)
                  if not name.startswith('_')]
        self.assertEqual(['sync', 'target'], public)

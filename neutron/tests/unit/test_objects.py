# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What becomes of single rows."""

import collections
import json
import unittest

from networking_l2isolate.intent import objects

Other = collections.namedtuple('Other', 'host status vif_type')


class BindingTest(unittest.TestCase):
    """The table of docs/neutron-wire.md, and what else Neutron may hold."""

    def check(self, expected, status, vif_type, *others):
        self.assertEqual(expected, objects.binding(
            status, vif_type, [Other(*other) for other in others]))

    def test_alone(self):
        self.check(('active', None), 'ACTIVE', 'tap')
        # While Neutron binds it, also anew, it stays where it is.
        self.check(('active', None), 'ACTIVE', 'unbound')
        for vif_type in ('binding_failed', 'ovs', 'bridge'):
            self.check(None, 'ACTIVE', vif_type)

    def test_before_the_activation(self):
        self.check(('outgoing', 'b'), 'ACTIVE', 'tap', ('b', 'INACTIVE',
                                                        'tap'))
        self.check(('incoming', 'a'), 'INACTIVE', 'tap', ('a', 'ACTIVE',
                                                          'tap'))
        # Neutron unbinds the source in between (contract with Nova).
        self.check(('incoming', 'a'), 'INACTIVE', 'tap', ('a', 'ACTIVE',
                                                          'unbound'))

    def test_a_destination_that_could_not_be_bound_is_none(self):
        for vif_type in ('binding_failed', 'unbound'):
            self.check(('active', None), 'ACTIVE', 'tap',
                       ('b', 'INACTIVE', vif_type))
        self.check(None, 'INACTIVE', 'binding_failed', ('a', 'ACTIVE', 'tap'))

    def test_after_the_activation(self):
        self.check(('active', None), 'ACTIVE', 'tap',
                   ('a', 'INACTIVE', 'unbound'))
        self.check(('outgoing', 'b'), 'INACTIVE', 'unbound',
                   ('b', 'ACTIVE', 'tap'))

    def test_what_is_left_of_an_old_binding_is_nothing(self):
        self.check(None, 'INACTIVE', 'unbound')
        self.check(None, 'INACTIVE', 'unbound', ('b', 'ACTIVE',
                                                 'binding_failed'))


class HostNameTest(unittest.TestCase):

    def test_only_what_a_resolver_would_take(self):
        for name in ('web-1', 'a', '9', 'Web.Example.org', 'x' * 63):
            self.assertEqual(name, objects.host_name(name))
        self.assertEqual('web.example.org',
                         objects.host_name('web.example.org.'))
        for name in (None, '', 'my port', '-a', 'a-', 'a..b', 'x' * 64,
                     'a_b', 'gr\u00fcn', 'web\n', '.'.join(['x' * 60] * 5)):
            self.assertIsNone(objects.host_name(name), name)


class SealTest(unittest.TestCase):

    def test_order_of_fields_means_nothing(self):
        one = objects.seal('ports', {'id': 'x', 'mtu': 1500}, 'now')
        two = objects.seal('ports', {'mtu': 1500, 'id': 'x'}, 'later')
        self.assertEqual(one['digest'], two['digest'])
        self.assertEqual('later', two['read_at'])

    def test_sealing_again_changes_nothing(self):
        once = objects.seal('ports', {'id': 'x', 'status': 'DOWN'}, 'now')
        twice = objects.seal('ports', json.loads(json.dumps(once)), 'now')
        self.assertEqual(once, twice)


class InstantTest(unittest.TestCase):

    def test_every_databases_way_of_writing_it(self):
        for text in ('2026-11-24 16:37:00.120000', '2026-11-24 16:37:00.12'):
            self.assertEqual('2026-11-24T16:37:00.120000Z',
                             objects.instant(text))
        self.assertEqual('2026-11-24T16:37:00.000000Z',
                         objects.instant('2026-11-24 16:37:00'))


class RowOrderTest(unittest.TestCase):
    """A database may return rows in any order; the object is the same."""

    Ip = collections.namedtuple('Ip', 'ip_address subnet_id')
    Pair = collections.namedtuple('Pair', 'ip_address mac_address')
    Row = collections.namedtuple('Row', 'id revision_number stateful')

    def test_members(self):
        row = self.Row('g', 1, None)
        addresses = [self.Ip('10.0.0.%d' % n, 's') for n in range(20)]
        pairs = [self.Pair('10.0.0.3', 'fa:16:3e:00:00:01'),
                 self.Pair('10.0.0.3', 'fa:16:3e:00:00:00')]
        one = objects.group(row, [], addresses, pairs)
        two = objects.group(row, [], addresses[::-1] + addresses, pairs[::-1])
        self.assertEqual(one, two)
        self.assertEqual(22, len(one['members']))
        self.assertIs(True, one['stateful'])

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A live migration as Nova drives it by REST, seen from both hosts."""

import unittest

from tests.rig import cloud
from tests.rig.cloud import changed
from tests.rig.cloud import gone


class MigrationTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.network = cloud.network()
        cloud.subnet(cls.network)
        cls.nova = cloud.Nova()

    @classmethod
    def tearDownClass(cls):
        cls.nova.stop()

    def setUp(self):
        self.source = cloud.living_agent(underlay_address='10.255.16.1')
        self.destination = cloud.living_agent(underlay_address='10.255.16.2')
        self.port = cloud.port(self.network, self.source.host)['id']
        self.source.sync()
        self.source.up(self.port)
        self.assertEqual('ACTIVE', self.status())
        self.nova.wait_for(self.port, 'network-vif-plugged')

    def status(self):
        return cloud.show('port', self.port)['status']

    def announce(self):
        """conductor: a second, inactive binding."""
        binding = cloud.ask('POST', 'ports/%s/bindings' % self.port, {
            'binding': {'host': self.destination.host}})['binding']
        self.assertEqual(('INACTIVE', 'tap'),
                         (binding['status'], binding['vif_type']))

    def set_profile(self, **profile):
        cloud.update('port', self.port, **{'binding:profile': profile})

    def activate(self, agent):
        cloud.ask('PUT', 'ports/%s/bindings/%s/activate'
                  % (self.port, agent.host))

    def delete_binding(self, agent):
        cloud.ask('DELETE', 'ports/%s/bindings/%s' % (self.port, agent.host))

    def expect(self, source, destination):
        """What both hosts have after a sync."""
        for agent, expected in ((self.source, source),
                                (self.destination, destination)):
            agent.sync()
            port = agent.has['ports'].get(self.port)
            self.assertEqual(expected, port and port['binding'])

    def test_there(self):
        self.announce()
        outgoing = {'state': 'outgoing', 'peer': '10.255.16.2'}
        self.expect(outgoing, {'state': 'incoming', 'peer': '10.255.16.1'})
        # The destination is wired before it is the port's host: Nova is told.
        self.assertEqual('ACTIVE', self.status())
        self.destination.up_here(self.port)
        self.nova.wait_for(self.port, 'network-vif-plugged', 2)
        self.assertEqual('ACTIVE', self.status())
        # This unbinds and binds the source: it stays where it is, and is to
        # be reported again.
        self.set_profile(migrating_to=self.destination.host)
        self.expect(outgoing, {'state': 'incoming', 'peer': '10.255.16.1'})
        self.assertEqual('DOWN', self.status())
        self.assertEqual('DOWN', self.source.sync()['statuses'][self.port])
        self.source.up(self.port)
        self.assertEqual('ACTIVE', self.status())

        self.activate(self.destination)
        self.expect(outgoing, {'state': 'active'})
        self.assertEqual('DOWN', self.status())
        self.destination.up(self.port)
        self.assertEqual('ACTIVE', self.status())
        self.delete_binding(self.source)
        self.assertEqual([self.port], gone(self.source.sync())['ports'])
        self.expect(None, {'state': 'active'})

        # And back at once.
        self.source, self.destination = self.destination, self.source
        self.announce()
        self.expect({'state': 'outgoing', 'peer': '10.255.16.1'},
                    {'state': 'incoming', 'peer': '10.255.16.2'})

    def test_called_off(self):
        self.announce()
        self.set_profile(migrating_to=self.destination.host)
        self.source.up(self.port)
        self.expect({'state': 'outgoing', 'peer': '10.255.16.2'},
                    {'state': 'incoming', 'peer': '10.255.16.1'})
        self.set_profile()
        self.delete_binding(self.destination)
        self.expect({'state': 'active'}, None)
        self.source.up(self.port)
        self.assertEqual('ACTIVE', self.status())

    def test_to_a_host_without_agent(self):
        nowhere = cloud.Agent()
        with self.assertRaises(cloud.Refused):
            cloud.ask('POST', 'ports/%s/bindings' % self.port, {
                'binding': {'host': nowhere.host}})
        self.assertEqual({}, changed(nowhere.sync()))
        self.expect({'state': 'active'}, None)

    def test_the_address_of_a_host_that_reports_none(self):
        self.destination.configurations = {}
        self.destination.report()
        self.announce()
        self.expect({'state': 'outgoing'},
                    {'state': 'incoming', 'peer': '10.255.16.1'})


if __name__ == '__main__':
    unittest.main()

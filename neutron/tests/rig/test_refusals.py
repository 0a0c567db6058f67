# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What can't be had on routed networks: refused with the reason, by the API."""

import concurrent.futures
import unittest

from tests.rig import cloud

#: So many requests at once, to several API workers.
AT_ONCE = 6


class RefusalTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.network = cloud.network()
        cls.subnet = cloud.subnet(cls.network)

    def refused(self, status, what, call, *arguments, **fields):
        with self.assertRaises(cloud.Refused) as caught:
            call(*arguments, **fields)
        self.assertIn(what, caught.exception.text)
        self.assertEqual(status, caught.exception.status,
                         caught.exception.text)

    def test_wires_and_numbers(self):
        for key, value in (('physical_network', 'physnet1'),
                           ('segmentation_id', 7)):
            self.refused(400, key, cloud.network, **{
                'provider:network_type': 'routed', 'provider:' + key: value})

    def test_further_segments(self):
        self.refused(400, 'second segment', cloud.network, segments=[
            {'provider:network_type': 'routed'},
            {'provider:network_type': 'local'}])
        self.refused(400, 'second segment', cloud.create, 'segment',
                     network_id=self.network, network_type='local')
        other = cloud.network(**{'provider:network_type': 'local'})
        self.refused(400, 'second segment', cloud.create, 'segment',
                     network_id=other, network_type='routed')
        for network, count in ((self.network, 1), (other, 1)):
            segments = cloud.ask('GET', 'segments?network_id=%s' % network)
            self.assertEqual(count, len(segments['segments']))

    def test_external_networks(self):
        self.refused(400, 'router:external', cloud.network,
                     **{'router:external': True})
        self.refused(400, 'router:external', cloud.update, 'network',
                     self.network, **{'router:external': True})

    def test_routers(self):
        router = cloud.create('router')['id']
        path = 'routers/%s/add_router_interface' % router
        self.refused(400, 'device_owner', cloud.ask, 'PUT', path,
                     {'subnet_id': self.subnet['id']})
        port = cloud.port(self.network, device_owner='', device_id='')
        self.refused(400, 'device_owner', cloud.ask, 'PUT', path,
                     {'port_id': port['id']})
        ports = cloud.ask('GET', 'ports?device_id=%s' % router)['ports']
        self.assertEqual([], ports)

    def test_ports_of_neutrons_own_services(self):
        for owner in ('network:dhcp', 'network:distributed', 'trunk:subport'):
            self.refused(400, 'routed', cloud.port, self.network,
                         device_owner=owner)

    def test_other_kinds_of_interfaces(self):
        self.refused(400, 'vnic_type', cloud.port, self.network,
                     **{'binding:vnic_type': 'direct'})

    def test_qos(self):
        policy = cloud.create('policy', name='slow')['id']
        self.refused(400, 'QoS', cloud.network, qos_policy_id=policy)
        self.refused(400, 'QoS', cloud.update, 'network', self.network,
                     qos_policy_id=policy)
        self.refused(400, 'QoS', cloud.port, self.network,
                     qos_policy_id=policy)
        port = cloud.port(self.network)
        self.refused(400, 'QoS', cloud.update, 'port', port['id'],
                     qos_policy_id=policy)

    def test_gateways_outside_of_the_subnet(self):
        self.refused(400, 'Gateway 192.0.2.1', cloud.subnet, self.network,
                     gateway_ip='192.0.2.1')
        self.refused(400, 'Gateway 192.0.2.1', cloud.update, 'subnet',
                     self.subnet['id'], gateway_ip='192.0.2.1')
        cloud.subnet(self.network, cloud.prefix6(), gateway_ip='fe80::1')

    def test_prefix_delegation(self):
        self.refused(400, 'Prefix delegation', cloud.create, 'subnet',
                     network_id=cloud.network(), ip_version=6,
                     subnetpool_id='prefix_delegation',
                     ipv6_ra_mode='slaac', ipv6_address_mode='slaac')


class OverlapTest(unittest.TestCase):

    def test_routed_networks_share_one_address_space(self):
        first = cloud.subnet(cloud.network())
        for cidr in (first['cidr'], first['cidr'].replace('.0/24', '.128/25')):
            with self.assertRaises(cloud.Refused) as caught:
                cloud.subnet(cloud.network(), cidr)
            self.assertEqual(409, caught.exception.status)
            for part in (cidr, first['cidr'], first['id'],
                         'share one address space'):
                self.assertIn(part, caught.exception.text)

    def test_both_families_and_in_bulk(self):
        cidr = cloud.prefix6()
        cloud.subnet(cloud.network(), cidr)
        fresh, network = cloud.prefix4(), cloud.network()
        with self.assertRaises(cloud.Refused) as caught:
            cloud.ask('POST', 'subnets', {'subnets': [
                {'network_id': network, 'cidr': fresh, 'ip_version': 4},
                {'network_id': network, 'cidr': cidr, 'ip_version': 6}]})
        self.assertEqual(409, caught.exception.status)
        # All or nothing: the good one of the two isn't there either.
        cloud.subnet(cloud.network(), fresh)

    def test_others_networks_may_overlap(self):
        first = cloud.subnet(cloud.network())
        local = cloud.network(**{'provider:network_type': 'local'})
        cloud.subnet(local, first['cidr'])

    def test_what_is_deleted_is_free_again(self):
        first = cloud.subnet(cloud.network())
        cloud.delete('subnet', first['id'])
        cloud.subnet(cloud.network(), first['cidr'])

    def at_once(self, calls):
        """Makes calls at the same time; returns what each came to."""
        def outcome(call):
            try:
                return call()
            except cloud.Refused as refused:
                return refused

        with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(outcome, calls))

    def test_of_those_that_overlap_at_once_one_is_made(self):
        """Two workers that both look first and write then must not both pass.

        The networks are made anew and so are of the same age; which worker
        gets which request is up to the kernel.
        """
        for _ in range(4):
            networks = [cloud.network() for _ in range(AT_ONCE)]
            cidr = cloud.prefix4()
            results = self.at_once([
                lambda network=network: cloud.subnet(network, cidr)
                for network in networks])
            made = [r for r in results if isinstance(r, dict)]
            refused = [r for r in results if isinstance(r, cloud.Refused)]
            self.assertEqual([409] * (AT_ONCE - 1),
                             [r.status for r in refused], results)
            self.assertEqual(1, len(made))
            there = cloud.ask('GET', 'subnets?cidr=%s' % cidr)['subnets']
            self.assertEqual([made[0]['id']], [s['id'] for s in there])

    def test_of_those_that_do_not_overlap_at_once_all_are_made(self):
        networks = [cloud.network() for _ in range(AT_ONCE)]
        cidrs = [cloud.prefix4() for _ in networks]
        results = self.at_once([
            lambda network=network, cidr=cidr: cloud.subnet(network, cidr)
            for network, cidr in zip(networks, cidrs)])
        self.assertEqual(cidrs, [result['cidr'] for result in results])


if __name__ == '__main__':
    unittest.main()

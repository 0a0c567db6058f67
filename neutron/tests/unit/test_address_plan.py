# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Overlap, and the row that lets one transaction pass at a time.

That two real transactions can't both pass is shown against MariaDB, by
tests/rig.
"""

import unittest

from neutron_lib import context as neutron_context
from oslo_db import exception as db_exc
import sqlalchemy as sa

from networking_l2isolate import address_plan
from networking_l2isolate import exceptions
from networking_l2isolate.intent import query
from tests.unit import database


class OverlapTest(unittest.TestCase):

    def test_what_has_an_address_in_common(self):
        for one, two in (('10.0.0.0/8', '10.1.0.0/16'),
                         ('10.1.0.0/16', '10.0.0.0/8'),
                         ('10.0.0.0/24', '10.0.0.0/24'),
                         ('0.0.0.0/0', '192.0.2.1/32'),
                         ('2001:db8::/32', '2001:db8:1::/64')):
            self.assertEqual((two, 'x'), address_plan.overlapping(
                one, [('fc00::/7', 'y'), (two, 'x')]))

    def test_what_has_none(self):
        for one, two in (('10.0.0.0/24', '10.0.1.0/24'),
                         ('10.0.0.0/24', '::/0'), ('::/0', '10.0.0.0/24'),
                         ('2001:db8::/64', '2001:db8:0:1::/64')):
            self.assertIsNone(address_plan.overlapping(one, [(two,)]))


class ClaimTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.db = database.set_up()

    def setUp(self):
        self.addCleanup(self.db.clear)
        self.one, self.two = self.db.network(), self.db.network()

    def claim(self, cidr, network=None, admin=True, project='p'):
        subnet = self.db.subnet(network or self.two, cidr)
        with self.db.writing() as session:
            context = neutron_context.Context(
                project_id=project, is_admin=admin)
            context._session = session
            address_plan.claim(context, {
                'id': subnet, 'cidr': cidr,
                'ip_version': 6 if ':' in cidr else 4})

    def test_the_error_names_the_other_subnet(self):
        other = self.db.subnet(self.one, '10.1.0.0/16')
        with self.assertRaises(exceptions.RoutedSubnetOverlap) as caught:
            self.claim('10.0.0.0/8')
        text = str(caught.exception)
        for part in ('10.0.0.0/8', '10.1.0.0/16', other, 'one address space'):
            self.assertIn(part, text)

    def test_a_tenant_is_not_told_whose_the_other_subnet_is(self):
        other = self.db.subnet(self.one, '10.1.0.0/16')
        for project, named in (('p', True), ('q', False)):
            with self.assertRaises(exceptions.RoutedSubnetOverlap) as caught:
                self.claim('10.0.0.0/8', admin=False, project=project)
            self.assertEqual(named, other in str(caught.exception))
            with self.db.engine.begin() as connection:
                table = query.Subnet.__table__
                connection.execute(
                    table.delete().where(table.c.id != other))

    def test_only_routed_networks_share_addresses(self):
        self.db.subnet(self.db.network('vlan'), '10.1.0.0/16')
        self.claim('10.0.0.0/8')
        self.claim('2001:db8::/64')

    def revision(self):
        """Of the routed segment that was made first."""
        with self.db.reading() as session:
            return (session.query(query.Attributes.revision_number)
                    .join(query.Segment, query.Segment.standard_attr_id ==
                          query.Attributes.id)
                    .order_by(query.Attributes.id).first()[0])

    def test_each_claim_counts_up_the_first_segment(self):
        before = self.revision()
        self.claim('10.0.0.0/8', self.two)
        self.claim('192.0.2.0/24', self.one)
        self.assertEqual(before + 2, self.revision())

    def test_a_claim_on_an_old_snapshot_starts_over(self):
        """The count is compared with what the snapshot showed."""
        with self.db.writing() as session:
            execute = session.execute

            def others_were_first(statement, *args, **kwargs):
                if isinstance(statement, sa.sql.dml.Update):
                    execute(query.Attributes.__table__.update().values(
                        revision_number=99))
                return execute(statement, *args, **kwargs)

            session.execute = others_were_first
            with self.assertRaises(db_exc.DBDeadlock):
                address_plan.count_up(session)

    def test_a_network_that_is_gone_meanwhile(self):
        self.db.clear()
        with self.db.writing() as session:
            with self.assertRaises(db_exc.DBDeadlock):
                address_plan.count_up(session)

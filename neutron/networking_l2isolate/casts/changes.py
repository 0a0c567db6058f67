# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What transactions have touched, by the rows that they wrote.

Neutron has many ways to change a port: its own calls, bindings, subnets that
give addresses, plugins' hooks and bulk calls of each; some come with no event
at all (bindings that are made and deleted), others with events that differ
from release to release. All of them write rows through SQLAlchemy's sessions,
so that is where they are noted: one way for everything. Nothing is read here,
and nothing is sent before a transaction is committed.

What can break it: another schema (see intent.query), and statements that
write without objects. Neutron has none for these tables.
"""

import collections
import functools

from neutron_lib import constants
from neutron_lib.db import api as db_api
from oslo_log import log
import sqlalchemy as sa
from sqlalchemy import orm

from networking_l2isolate.intent import query

LOG = log.getLogger(__name__)

_KEY = 'l2isolate_changes'
_COMMITTED = 'l2isolate_committed'

#: Columns of a port that agents are told.
_PORT = ('mac_address', 'admin_state_up', 'device_id', 'device_owner', 'name')

#: Columns of a binding that say what a host has to do with a port.
_BINDING = ('host', 'status', 'vif_type')


class Changes:
    """What has been touched; says nothing of how it is now."""

    def __init__(self):
        #: Ports, each with hosts that had or have a binding of it which was
        #: touched: more may be concerned.
        self.ports = collections.defaultdict(set)
        self.subnets = set()
        #: Networks of which each port is another one now.
        self.networks = set()
        #: Security groups whose own fields or rules were touched.
        self.groups = set()
        #: Groups that ports joined or left: {port: {group}}.
        self.memberships = collections.defaultdict(set)
        #: Addresses that ports got or lost: {port: {(address, mac or None)}}.
        self.addresses = collections.defaultdict(set)
        #: Address groups, each with addresses that were put in or taken out.
        self.address_groups = collections.defaultdict(set)

    def __bool__(self):
        return any(vars(self).values())

    def merge(self, other):
        """Adds what others touched."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if isinstance(mine, set):
                mine |= theirs
                continue
            for key, values in theirs.items():
                mine[key] |= values

    def note(self, thing, everything):
        """Takes in a row.

        :param thing: a SQLAlchemy object
        :param everything: whether it is new or deleted; else it was written
        """
        note = _NOTES.get(type(thing))
        if note is not None:
            note(self, thing, everything)

    # By table.

    def _port(self, port, everything):
        if everything or _changed(port, *_PORT) or _fell(port):
            for port_id in _values(port, 'id'):
                self.ports[port_id].update()

    def _binding(self, binding, everything):
        if everything or _changed(binding, *_BINDING):
            for port_id in _values(binding, 'port_id'):
                self.ports[port_id] |= _values(binding, 'host') - {''}

    def _of_port(self, row, everything):
        for port_id in _values(row, 'port_id'):
            self.ports[port_id].update()

    def _allocation(self, row, everything):
        self._of_port(row, everything)
        for port_id in _values(row, 'port_id'):
            self.addresses[port_id] |= {
                (address, None) for address in _values(row, 'ip_address')}

    def _pair(self, row, everything):
        self._of_port(row, everything)
        for port_id in _values(row, 'port_id'):
            self.addresses[port_id] |= {
                (address, mac) for address in _values(row, 'ip_address')
                for mac in _values(row, 'mac_address')}

    def _membership(self, row, everything):
        self._of_port(row, everything)
        for port_id in _values(row, 'port_id'):
            self.memberships[port_id] |= _values(row, 'security_group_id')

    def _subnet(self, row, everything):
        self.subnets |= _values(row, 'id')

    def _of_subnet(self, row, everything):
        self.subnets |= _values(row, 'subnet_id')

    def _network(self, network, everything):
        # A network that is made or deleted has no ports.
        if not everything and _changed(network, 'mtu'):
            self.networks |= _values(network, 'id')

    def _group(self, row, everything):
        if everything or _changed(row, 'stateful'):
            self.groups |= _values(row, 'id')

    def _rule(self, row, everything):
        self.groups |= _values(row, 'security_group_id')

    def _address_group(self, row, everything):
        for group_id in _values(row, 'id') if everything else ():
            self.address_groups[group_id].update()

    def _association(self, row, everything):
        for group_id in _values(row, 'address_group_id'):
            self.address_groups[group_id] |= _values(row, 'address')


_NOTES = {
    query.Port: Changes._port,
    query.Binding: Changes._binding,
    query.models_v2.IPAllocation: Changes._allocation,
    query.Pair: Changes._pair,
    query.GroupPort: Changes._membership,
    query.dhcp_models.ExtraDhcpOpt: Changes._of_port,
    query.dns_models.PortDNS: Changes._of_port,
    query.port_security_models.PortSecurityBinding: Changes._of_port,
    query.Subnet: Changes._subnet,
    query.models_v2.DNSNameServer: Changes._of_subnet,
    query.models_v2.SubnetRoute: Changes._of_subnet,
    query.models_v2.Network: Changes._network,
    query.Group: Changes._group,
    query.Rule: Changes._rule,
    query.AddressGroup: Changes._address_group,
    query.Association: Changes._association,
}


def watch(tell):
    """Begins to note what this process writes.

    :param tell: called with the Changes of each transaction, once it is
                 committed and its connection is given back
    """

    def after_flush(session, flush_context):
        changes = session.info.get(_KEY) or Changes()
        for things, everything in ((session.new, True), (session.deleted, True),
                                   (session.dirty, False)):
            for thing in things:
                changes.note(thing, everything)
        if changes:
            session.info[_KEY] = changes

    def after_commit(session):
        # What is noted of a savepoint that was given up does no harm.
        if not session.in_nested_transaction() and _KEY in session.info:
            session.info[_COMMITTED] = session.info.pop(_KEY)

    def after_transaction_end(session, transaction):
        if transaction.parent is None:
            session.info.pop(_KEY, None)
            changes = session.info.pop(_COMMITTED, None)
            if changes is not None:
                tell(changes)

    for event, hook in (('after_flush', after_flush),
                        ('after_commit', after_commit),
                        ('after_transaction_end', after_transaction_end)):
        db_api.sqla_listen(orm.session.Session, event, _harmless(hook))


def _harmless(hook):
    """A hook whose failure is nobody's request's."""
    @functools.wraps(hook)
    def run(*args):
        try:
            hook(*args)
        except Exception:
            LOG.exception('A change is not told; agents learn of it by their '
                          'next sync')
    return run


def _values(thing, column):
    """What a column holds, and what it held before."""
    history = sa.inspect(thing).attrs[column].history
    values = set()
    for some in history:
        values.update(some or ())
    return values - {None}


def _changed(thing, *columns):
    attributes = sa.inspect(thing).attrs
    return any(attributes[column].history.has_changes() for column in columns)


def _fell(port):
    """Whether Neutron thinks otherwise of a port than its agent told it.

    It becomes ACTIVE by the agent's own word only.
    """
    history = sa.inspect(port).attrs['status'].history
    return bool(history.added) and history.added[0] != constants.ACTIVE

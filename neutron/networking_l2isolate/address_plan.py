# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""No two subnets of routed networks overlap.

Hypervisors and switches route by guest address alone, so all routed networks
share one address space. Nothing in Neutron's schema says so, and two API
workers that look first and write then can both find no overlap. Therefore a
row stands for the address plan: the one of the routed segment that was made
first. Whoever adds a subnet counts up that row's revision, provided that it
is still what the transaction's own snapshot shows. If it is, no subnet has
been added since the snapshot, and what the snapshot shows of subnets is all
there is. If it isn't, the request starts over with a new snapshot, which
Neutron does by itself for deadlocks.

It is a write and not a SELECT ... FOR UPDATE, as a Galera cluster knows
nothing of locks on its other nodes, but lets only one of two writes of the
same row pass. The row's only reader is the API's revision of that segment.
"""

import ipaddress

from neutron.db.models import segment as segment_models
from neutron.db import models_v2
from neutron_lib.db import standard_attr
from oslo_db import exception as db_exc
import sqlalchemy as sa

from networking_l2isolate import exceptions
import networking_l2isolate


def overlapping(cidr, others):
    """The first of others that has an address in common with cidr, or None.

    :param cidr: a prefix as text
    :param others: an iterable of tuples that start with a prefix
    """
    net = ipaddress.ip_network(cidr)
    for other in others:
        candidate = ipaddress.ip_network(other[0], strict=False)
        if candidate.version == net.version and candidate.overlaps(net):
            return other
    return None


def claim(context, subnet):
    """Takes a new subnet into the plan, or refuses it.

    To be called inside the transaction that adds the subnet.

    :param context: Neutron's request context
    :param subnet: the subnet as the API shows it
    :raises: RoutedSubnetOverlap; DBDeadlock if another subnet was added
             meanwhile, then the request is to be tried again
    """
    count_up(context.session)
    other = overlapping(subnet['cidr'], _others(context.session, subnet))
    if other is None:
        return
    cidr, subnet_id, project_id = other
    name = cidr
    # A tenant learns that the addresses are taken, not by whom.
    if context.is_admin or project_id == context.project_id:
        name = '%s of subnet %s' % (cidr, subnet_id)
    raise exceptions.RoutedSubnetOverlap(cidr=subnet['cidr'], other=name)


def count_up(session):
    """Makes the transaction the only one that changes the plan."""
    attributes = standard_attr.StandardAttribute
    segments = segment_models.NetworkSegment
    row = (session.query(attributes.id, attributes.revision_number)
           .join(segments, segments.standard_attr_id == attributes.id)
           .filter(segments.network_type == networking_l2isolate.NETWORK_TYPE)
           .order_by(attributes.id).first())
    if row is None:
        # The subnet's own network has been deleted meanwhile.
        raise db_exc.DBDeadlock()
    table = attributes.__table__
    update = (sa.update(table)
              .where(table.c.id == row.id)
              .where(table.c.revision_number == row.revision_number)
              .values(revision_number=row.revision_number + 1))
    if session.execute(update).rowcount != 1:
        raise db_exc.DBDeadlock()


def _others(session, subnet):
    subnets = models_v2.Subnet
    segments = segment_models.NetworkSegment
    return (session.query(subnets.cidr, subnets.id, subnets.project_id)
            .join(segments, segments.network_id == subnets.network_id)
            .filter(segments.network_type == networking_l2isolate.NETWORK_TYPE)
            .filter(subnets.ip_version == subnet['ip_version'])
            .filter(subnets.id != subnet['id'])
            .order_by(subnets.id))

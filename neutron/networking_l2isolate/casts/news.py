# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Who is to be told what of changes: docs/neutron-wire.md says it field by
field.

Everything is read again, so that what agents hear is what a sync would have
told them: a change only says where to look.
"""

import collections

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings

from networking_l2isolate.intent import host as host_intent
from networking_l2isolate.intent import objects
from networking_l2isolate.intent import query

#: Of how many ports one message tells.
PORTS_AT_ONCE = 100

#: Topics to which agents listen; a host's name or a group's id follows.
TOPIC = 'l2isolate-agent'
GROUP = 'l2isolate-group'
ADDRESS_GROUP = 'l2isolate-address-group'

#: A message: key is what it is routed by.
Message = collections.namedtuple('Message', 'key news')


def of_hosts(session, changes):
    """Messages to single hosts: their ports and subnets.

    :param session: inside a transaction in which nothing has been read
    :param changes: a changes.Changes
    """
    if not (changes.ports or changes.networks or changes.subnets):
        return
    read_at = objects.instant(query.clock(session, '').now)
    ports = {port_id: set(hosts) for port_id, hosts in changes.ports.items()}
    if changes.networks:
        for row in query.network_ports(session, changes.networks):
            ports.setdefault(row.id, set())
    if ports:
        for row in query.hosts_of_ports(session, list(ports)):
            ports[row.port_id].add(row.host)
    by_host = collections.defaultdict(set)
    for port_id, hosts in ports.items():
        for host in hosts:
            by_host[host].add(port_id)
    subnets_of = collections.defaultdict(set)
    subnets = {}
    if changes.subnets:
        subnets = host_intent.read_subnets(session, changes.subnets)
        for row in query.hosts_of_subnets(session, list(subnets)):
            subnets_of[row.host].add(row.subnet_id)
    for host in sorted(by_host.keys() | subnets_of.keys()):
        wanted = sorted(by_host[host])
        more = {subnet_id: subnets[subnet_id]
                for subnet_id in subnets_of[host]}
        if not wanted:
            yield _to_host(host, read_at, {}, more, ())
        for start in range(0, len(wanted), PORTS_AT_ONCE):
            some = wanted[start:start + PORTS_AT_ONCE]
            found, gone = _ports(session, host, some)
            needed = {address['subnet'] for port in found.values()
                      for address in port.get('addresses', ())} - set(more)
            more.update(host_intent.read_subnets(session, needed))
            if found or gone or more:
                yield _to_host(host, read_at, found, more, gone)
            more = {}


def _ports(session, host, ids):
    """Ports as a host sees them, and ids of those that it has no more."""
    rows = query.bindings(session, host, ids)
    # What Neutron is about to bind comes once more when it is bound.
    underway = {row.id for row in rows
                if row.binding_status == constants.ACTIVE and
                row.vif_type == portbindings.VIF_TYPE_UNBOUND}
    found = host_intent.read_ports(
        session, host, [row for row in rows if row.id not in underway])
    return found, [port_id for port_id in ids
                   if port_id not in found and port_id not in underway]


def _to_host(host, read_at, ports, subnets, gone):
    return Message('%s.%s' % (TOPIC, host), {
        'read_at': read_at,
        'ports': _sealed('ports', ports, read_at),
        'subnets': _sealed('subnets', subnets, read_at),
        'gone': {'ports': [{'id': port_id, 'read_at': read_at}
                           for port_id in gone]},
    })


def _sealed(kind, things, read_at):
    return [objects.seal(kind, dict(thing), read_at)
            for _, thing in sorted(things.items())]


def of_groups(session, changes):
    """Messages to whoever uses a group: rules whole, members as differences.

    :param session: inside a transaction in which nothing has been read
    :param changes: a changes.Changes
    """
    read_at = objects.instant(query.clock(session, '').now)
    touched = _members(session, changes)
    ids = changes.groups | touched.keys()
    if ids:
        rules = host_intent.read_rules(session, ids)
        found = host_intent.read_groups(session, ids, rules)
        for group_id in sorted(ids):
            group = found.get(group_id)
            whole = group_id in changes.groups
            if group is None:
                # Made and deleted at once, or with its last port.
                if whole:
                    yield _gone(GROUP, 'groups', group_id, read_at)
                continue
            yield _difference(GROUP, 'groups', group, touched[group_id],
                              whole, read_at)
    found = host_intent.read_address_groups(session, changes.address_groups)
    for group_id, addresses in sorted(changes.address_groups.items()):
        if group_id in found:
            yield _difference(ADDRESS_GROUP, 'address_groups',
                              found[group_id], addresses, True, read_at)
        else:
            yield _gone(ADDRESS_GROUP, 'address_groups', group_id, read_at)


def _members(session, changes):
    """Members of groups that may have come or gone: {group: {member}}."""
    ports = changes.memberships.keys() | changes.addresses.keys()
    groups = {port_id: set(changes.memberships.get(port_id, ()))
              for port_id in ports}
    members = {port_id: set(changes.addresses.get(port_id, ()))
               for port_id in ports}
    touched = collections.defaultdict(set)
    if ports:
        for row in query.port_groups(session, ports):
            groups[row.port_id].add(row.security_group_id)
    if changes.memberships:
        joined = list(changes.memberships)
        for row in query.fixed_ips(session, joined):
            members[row.port_id].add((row.ip_address, None))
        for row in query.address_pairs(session, joined):
            members[row.port_id].add((row.ip_address, row.mac_address))
    for port_id in ports:
        for group_id in groups[port_id] if members[port_id] else ():
            touched[group_id] |= members[port_id]
    return touched


def _difference(topic, kind, group, touched, whole, read_at):
    """What is to be said of a group.

    :param touched: elements that may have come or gone
    :param whole: whether its other fields are to be told
    """
    elements = objects.ELEMENTS[kind]
    group = objects.seal(kind, group, read_at)
    now = {objects.element(e): e for e in group.pop(elements)}
    then = {objects.element(e): e for e in map(objects.thaw, touched)}
    fields = ('id', 'revision', 'read_at', 'digest')
    told = group if whole else {field: group[field] for field in fields}
    told['added'] = [now[text] for text in sorted(then) if text in now]
    told['removed'] = [then[text] for text in sorted(then) if text not in now]
    if whole:
        told['whole'] = True
    return Message('%s.%s' % (topic, group['id']),
                   {'read_at': read_at, 'changed': {kind: [told]}})


def _gone(topic, kind, group_id, read_at):
    tombstone = {'id': group_id, 'read_at': read_at}
    return Message('%s.%s' % (topic, group_id),
                   {'read_at': read_at, 'gone': {kind: [tombstone]}})

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The intent of a host, read from Neutron's database.

The functions read_* read objects of one kind by id; `read` puts together
what a host needs. Whoever tells hosts of a single object uses the same
functions, so that it has the same digest.
"""

import collections
import ipaddress
import json

from neutron_lib.api.definitions import portbindings
from neutron_lib import constants

from networking_l2isolate.intent import objects
from networking_l2isolate.intent import query

#: What an agent reports of itself that others need to know.
UNDERLAY_ADDRESS = 'underlay_address'

#: A host's world in one snapshot.
#: read_at: when, RFC 3339; reported: what its agent last reported of itself;
#: objects: by kind and id; statuses: of its ports, by id; unbound: ids of
#: ports whose binding to the host is missing or failed.
Snapshot = collections.namedtuple(
    'Snapshot', 'read_at reported objects statuses unbound')


def read(session, host):
    """Everything that a host needs to know, in a constant number of queries.

    :param session: a database session inside a transaction in which nothing
                    has been read yet
    :param host: the host's name as in binding:host_id
    :returns: a Snapshot
    """
    now = query.clock(session, host)
    read_at = objects.instant(now.now)
    rows = query.bindings(session, host)
    ports = read_ports(session, host, rows)
    used = {group for port in ports.values()
            for group in port.get('groups', ())}
    rules = read_rules(session, used)
    named = {rule.remote_group_id for group in used
             for rule in rules[group]} - used - {None}
    rules.update(read_rules(session, named))
    found = {
        'subnets': read_subnets(session, {
            address['subnet'] for port in ports.values()
            for address in port.get('addresses', ())}),
        'address_groups': read_address_groups(session, {
            rule.remote_address_group_id for group in used
            for rule in rules[group]} - {None}),
        'groups': read_groups(session, used | named, rules),
        'ports': ports,
    }
    for kind, things in found.items():
        for thing in things.values():
            objects.seal(kind, thing, read_at)
    return Snapshot(
        read_at=read_at,
        reported=_json(now.configurations),
        objects=found,
        statuses={port['id']: port['status'] for port in ports.values()},
        unbound=_unbound(rows))


def read_some(session, host, wanted):
    """Single objects, as a host sees them.

    :param session: as in read
    :param wanted: {kind: ids}
    :returns: a Snapshot without statuses of ports that aren't wanted
    """
    now = query.clock(session, host)
    read_at = objects.instant(now.now)
    ids = list(wanted['ports'])
    rows = query.bindings(session, host, ids) if ids else []
    groups = set(wanted['groups'])
    found = {
        'subnets': read_subnets(session, set(wanted['subnets'])),
        'address_groups': read_address_groups(
            session, set(wanted['address_groups'])),
        'groups': read_groups(session, groups, read_rules(session, groups)),
        'ports': read_ports(session, host, rows),
    }
    for kind, things in found.items():
        for thing in things.values():
            objects.seal(kind, thing, read_at)
    return Snapshot(
        read_at=read_at, reported=_json(now.configurations), objects=found,
        statuses={port['id']: port['status']
                  for port in found['ports'].values()},
        unbound=[])


def read_ports(session, host, rows):
    """Ports as a host sees them, by id.

    :param rows: of query.bindings
    """
    ids = [row.id for row in rows]
    if not ids:
        return {}
    elsewhere = _by('port_id', query.bindings_elsewhere(session, host, ids))
    states = {row.id: objects.binding(row.binding_status, row.vif_type,
                                      elsewhere[row.id]) for row in rows}
    peers = {state[1] for state in states.values() if state} - {None}
    addresses_of_hosts = read_underlay_addresses(session, peers)
    ips = _by('port_id', query.fixed_ips(session, ids))
    pairs = _by('port_id', query.address_pairs(session, ids))
    groups = _by('port_id', query.port_groups(session, ids))
    options = _by('port_id', query.dhcp_options(session, ids))
    ports = {}
    for row in rows:
        if states[row.id] is None:
            continue
        state, peer = states[row.id]
        ports[row.id] = objects.port(
            row, state, addresses_of_hosts.get(peer), ips[row.id],
            pairs[row.id], groups[row.id], options[row.id])
    return ports


def read_underlay_addresses(session, hosts):
    """The fabric's addresses of hosts, as far as their agents report any."""
    if not hosts:
        return {}
    result = {}
    for row in query.agents(session, hosts):
        address = _json(row.configurations).get(UNDERLAY_ADDRESS)
        try:
            result[row.host] = str(ipaddress.ip_address(address))
        except ValueError:
            continue
    return result


def read_subnets(session, ids):
    """Subnets by id."""
    if not ids:
        return {}
    servers = _by('subnet_id', query.name_servers(session, ids))
    routes = _by('subnet_id', query.host_routes(session, ids))
    return {row.id: objects.subnet(row, servers[row.id], routes[row.id])
            for row in query.subnets(session, ids)}


def read_rules(session, ids):
    """Rows of rules by their group."""
    rows = query.rules(session, ids) if ids else ()
    return _by('security_group_id', rows)


def read_groups(session, ids, rules):
    """Security groups with all their members, by id.

    :param rules: of read_rules, for at least these groups
    """
    if not ids:
        return {}
    addresses = _by('security_group_id',
                    query.member_addresses(session, ids))
    pairs = _by('security_group_id', query.member_pairs(session, ids))
    return {row.id: objects.group(row, rules[row.id], addresses[row.id],
                                  pairs[row.id])
            for row in query.groups(session, ids)}


def read_address_groups(session, ids):
    """Address groups by id."""
    if not ids:
        return {}
    addresses = _by('address_group_id',
                    query.address_group_addresses(session, ids))
    return {row.id: objects.address_group(row, addresses[row.id])
            for row in query.address_groups(session, ids)}


def _unbound(rows):
    waiting = (portbindings.VIF_TYPE_UNBOUND,
               portbindings.VIF_TYPE_BINDING_FAILED)
    return [row.id for row in rows
            if row.binding_status == constants.ACTIVE and
            row.vif_type in waiting]


def _by(column, rows):
    """Rows by one of their columns."""
    grouped = collections.defaultdict(list)
    for row in rows:
        grouped[getattr(row, column)].append(row)
    return grouped


def _json(text):
    """An agent's report; empty if there is none or it is cut."""
    try:
        value = json.loads(text or '{}')
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""From database rows to objects of the intent.

Pure: rows in, dictionaries out, as docs/intent.md of l2isolate has them.
What has the schema's default is left out. Lists whose order means nothing are
sorted, so that the same state always gives the same digest.
"""

import hashlib
import json
import re

from neutron_lib.api.definitions import portbindings
from neutron_lib import constants

#: Kinds of objects, in the order in which they are sent: what a port needs
#: comes before it.
KINDS = ('subnets', 'address_groups', 'groups', 'ports')

#: Which list of an object is told by differences.
ELEMENTS = {'groups': 'members', 'address_groups': 'addresses'}

ACTIVE = 'active'
INCOMING = 'incoming'
OUTGOING = 'outgoing'

#: Not of an object's content: Neutron's status changes with what the agent
#: reports, its revision with that and with what no agent needs to know, and
#: the other two are about the reading.
NOT_IN_DIGEST = ('digest', 'read_at', 'revision', 'status')

_LABEL = r'[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
_HOST_NAME = re.compile(r'%s(\.%s)*' % (_LABEL, _LABEL))


def seal(kind, thing, read_at):
    """Adds the time of the reading and the digest to an object.

    The digest of a group is of two parts, of which the second is a sum over
    its elements: who has it can go on by differences.
    """
    elements = ELEMENTS.get(kind)
    content = {key: value for key, value in thing.items()
               if key not in NOT_IN_DIGEST and key != elements}
    text = json.dumps(content, sort_keys=True, separators=(',', ':'))
    digest = hashlib.sha256(text.encode()).hexdigest()
    if elements is None:
        digest = digest[:32]
    else:
        total = sum(int.from_bytes(hashlib.sha256(
            element(e).encode()).digest()[:16], 'big')
            for e in thing.get(elements, ()))
        digest = '%s-%032x' % (digest[:16], total % (1 << 128))
    thing['read_at'] = read_at
    thing['digest'] = digest
    return thing


def element(value):
    """The text of a group's element that its digest is made from."""
    if isinstance(value, str):
        return value
    return '%s %s' % (value['address'], value.get('mac', ''))


def thaw(value):
    """An element as it is told, of one that sets can hold: an address, or for
    a security group's member address and MAC or None."""
    if isinstance(value, str):
        return value
    return _given({'address': value[0], 'mac': value[1]})


def instant(text):
    """RFC 3339 of what the database says of its clock."""
    seconds, _, fraction = str(text).partition('.')
    return '%s.%sZ' % (seconds.replace(' ', 'T'), fraction.ljust(6, '0')[:6])


def binding(status, vif_type, others):
    """What a host has to do with a port.

    :param status: of the port's binding to the host
    :param vif_type: of the same
    :param others: rows of the port's bindings to other hosts
    :returns: the state and the host at the other end of a migration, if there
              is one; None if the port is none of this host's
    """
    bound = portbindings.VIF_TYPE_TAP
    # Neutron unbinds a port for a moment whenever it binds it anew.
    being_bound = (bound, portbindings.VIF_TYPE_UNBOUND)
    active = sorted(other.host for other in others
                    if other.status == constants.ACTIVE)
    if status == constants.ACTIVE:
        if vif_type not in being_bound:
            return None
        destination = sorted(other.host for other in others
                             if other.status == constants.INACTIVE and
                             other.vif_type == bound)
        return (OUTGOING, destination[0]) if destination else (ACTIVE, None)
    if vif_type == bound:
        return INCOMING, active[0] if active else None
    # After the activation at the destination, until Nova deletes the binding.
    arrived = sorted(other.host for other in others
                     if other.status == constants.ACTIVE and
                     other.vif_type in being_bound)
    if vif_type == portbindings.VIF_TYPE_UNBOUND and arrived:
        return OUTGOING, arrived[0]
    return None


def port(row, state, peer, addresses, pairs, groups, options):
    """A port.

    :param row: of query.bindings
    :param state: of binding()
    :param peer: address of the host at the other end, or None
    :param addresses: its rows of query.fixed_ips, and so on
    """
    secure = row.port_security_enabled is not False
    result = {
        'id': row.id,
        'revision': row.revision_number,
        'mac': row.mac_address,
        'mtu': row.mtu,
        'admin_state_up': bool(row.admin_state_up),
        'addresses': sorted(
            ({'address': ip.ip_address, 'subnet': ip.subnet_id}
             for ip in addresses), key=_by('address')),
        'port_security': secure,
        'binding': _given({'state': state, 'peer': peer}),
        'status': row.status,
    }
    if secure:
        result['allowed_address_pairs'] = sorted(
            ({'address': pair.ip_address, 'mac': pair.mac_address}
             for pair in pairs), key=_by('address', 'mac'))
        result['groups'] = sorted(group.security_group_id for group in groups)
    result['dhcp_options'] = sorted(
        ({'name': option.opt_name, 'value': option.opt_value,
          'ip_version': option.ip_version} for option in options),
        key=_by('name', 'ip_version'))
    if row.created_at is not None:
        result['created'] = row.created_at.isoformat() + 'Z'
    instance = None
    if (row.device_owner or '').startswith(
            constants.DEVICE_OWNER_COMPUTE_PREFIX):
        instance = row.device_id
    result['project'] = row.project_id
    result['instance'] = instance
    result['hostname'] = host_name(row.dns_name) or host_name(row.name)
    return _given(result)


def host_name(name):
    """The name if it can be a host's (RFC 1123), else None."""
    name = (name or '').rstrip('.')
    if len(name) <= 253 and _HOST_NAME.fullmatch(name):
        return name
    return None


def subnet(row, name_servers, routes):
    """A subnet, from its rows of query.subnets and so on."""
    return _given({
        'id': row.id,
        'revision': row.revision_number,
        'cidr': row.cidr,
        'gateway': row.gateway_ip,
        'dns': [server.address for server in name_servers],
        'dhcp': bool(row.enable_dhcp),
        'host_routes': sorted(
            ({'destination': route.destination, 'nexthop': route.nexthop}
             for route in routes), key=_by('destination', 'nexthop')),
        'ipv6_ra_mode': row.ipv6_ra_mode,
        'ipv6_address_mode': row.ipv6_address_mode,
    })


def group(row, rules, addresses, pairs):
    """A security group, from its rows of query.groups and so on."""
    members = {(ip.ip_address, None) for ip in addresses}
    members |= {(pair.ip_address, pair.mac_address) for pair in pairs}
    return {
        'id': row.id,
        'revision': row.revision_number,
        'stateful': row.stateful is not False,
        'rules': sorted((rule(r) for r in rules), key=_by('id')),
        'members': [_given({'address': address, 'mac': mac})
                    for address, mac in sorted(
                        members, key=lambda member: (member[0],
                                                     member[1] or ''))],
    }


def rule(row):
    """A group's rule; what it leaves open is absent."""
    return _given({
        'id': row.id,
        'direction': row.direction,
        'ethertype': row.ethertype,
        'protocol': row.protocol,
        'port_range_min': row.port_range_min,
        'port_range_max': row.port_range_max,
        'remote_ip_prefix': row.remote_ip_prefix,
        'remote_group': row.remote_group_id,
        'remote_address_group': row.remote_address_group_id,
    })


def address_group(row, addresses):
    """An address group, from its rows."""
    return {
        'id': row.id,
        'revision': row.revision_number,
        'addresses': sorted(entry.address for entry in addresses),
    }


def _by(*fields):
    return lambda thing: tuple(thing[field] for field in fields)


def _given(fields):
    """Without what is absent: None, empty text and empty lists."""
    return {key: value for key, value in fields.items()
            if value is not None and value != '' and value != []}

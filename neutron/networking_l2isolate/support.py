# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What networks of type routed can't do: refused, with the reason.

Each check gets what the API would show, before and after, and looks only at
what a request changes: something that is there already doesn't stand in the
way of other changes.
"""

import ipaddress

from neutron_lib.api.definitions import portbindings
from neutron_lib import constants
from neutron_lib.plugins.ml2 import api

from networking_l2isolate import exceptions
import networking_l2isolate

EXTERNAL = 'router:external'
QOS_POLICY = 'qos_policy_id'
TRUNK_SUBPORT = 'trunk:subport'


def is_routed(segments):
    """Whether a network with these segments is a routed one."""
    return any(segment[api.NETWORK_TYPE] == networking_l2isolate.NETWORK_TYPE
               for segment in segments)


def check_network(segments, network, original=None):
    """Checks a routed network that is made or changed."""
    if len(segments) > 1:
        _refuse('A second segment', 'it has no wire that another segment '
                'could be joined to')
    if _set_now(EXTERNAL, network, original):
        _refuse('router:external', 'Neutron routers can\'t be attached; '
                'guests are reached by routing as they are')
    _check_qos(network, original)


def check_segment(segments):
    """Checks the segments of a network to which one has been added."""
    if is_routed(segments) and len(segments) > 1:
        _refuse('A second segment', 'a routed network is made as such, with '
                'one segment, and has no wire that another could be joined to')


def check_subnet(subnet, original=None):
    """Checks a routed network's subnet, by itself."""
    if subnet.get('subnetpool_id') == constants.IPV6_PD_POOL_ID:
        _refuse('Prefix delegation', 'it needs a Neutron router; name a '
                'prefix or a subnet pool')
    gateway = subnet.get('gateway_ip')
    if not gateway or not _set_now('gateway_ip', subnet, original):
        return
    address = ipaddress.ip_address(gateway)
    if address.version == 6 and address.is_link_local:
        return
    if address not in ipaddress.ip_network(subnet['cidr']):
        _refuse('Gateway %s' % gateway, 'every hypervisor answers for it as '
                'the guest\'s neighbour, so it must be in %s, or a '
                'link-local IPv6 address' % subnet['cidr'])


def check_port(port, original=None):
    """Checks a routed network's port."""
    owner = port.get('device_owner') or ''
    if _set_now('device_owner', port, original):
        _check_owner(owner)
    vnic = port.get(portbindings.VNIC_TYPE, portbindings.VNIC_NORMAL)
    if (_set_now(portbindings.VNIC_TYPE, port, original) and
            vnic != portbindings.VNIC_NORMAL):
        _refuse('binding:vnic_type "%s"' % vnic, 'guests are attached by tap '
                'devices; only "normal" ports can be bound')
    _check_qos(port, original)


def check_trunk_port(segments, role):
    """Checks the network of a port that becomes part of a trunk.

    :param segments: the network's
    :param role: what the port becomes, for the message
    """
    if is_routed(segments):
        _refuse('A trunk\'s %s' % role, 'a tap carries one port\'s packets, '
                'without VLAN tags')


def _check_owner(owner):
    if owner == constants.DEVICE_OWNER_DHCP:
        _refuse('A DHCP agent\'s port', 'each hypervisor\'s L2 isolate agent '
                'serves DHCP; remove the network from DHCP agents')
    if owner.startswith(constants.DEVICE_OWNER_NETWORK_PREFIX):
        _refuse('device_owner "%s"' % owner, 'Neutron routers, floating IPs '
                'and other ports of Neutron itself can\'t be attached; each '
                'hypervisor routes, and is the guests\' gateway')
    if owner == TRUNK_SUBPORT:
        check_trunk_port([{api.NETWORK_TYPE:
                           networking_l2isolate.NETWORK_TYPE}], 'subport')


def _check_qos(resource, original):
    if _set_now(QOS_POLICY, resource, original):
        _refuse('A QoS policy', 'the L2 isolate agent enforces none')


def _set_now(field, new, old):
    """Whether the request gives the field a value other than it had."""
    value = new.get(field)
    return bool(value) and (old is None or old.get(field) != value)


def _refuse(what, why):
    raise exceptions.UnsupportedOnRouted(what=what, why=why)

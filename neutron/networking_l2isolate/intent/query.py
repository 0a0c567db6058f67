# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Every query that intent is made from.

Columns, not objects: Neutron's objects load their relations one by one, some
hundred queries for a host where these are nineteen, however many ports it
has. Each function is one query and returns rows with named columns. They are
to be called inside one reader transaction, which is one snapshot of the
database with InnoDB; `clock` comes first in it.

What can break it: another schema of Neutron's. Tables and columns have been
the same from release 21 to 29.
"""

from neutron.db.extra_dhcp_opt import models as dhcp_models
from neutron.db.models import address_group as address_group_models
from neutron.db.models import agent as agent_models
from neutron.db.models import allowed_address_pair as pair_models
from neutron.db.models import dns as dns_models
from neutron.db.models import securitygroup as group_models
from neutron.db.models import segment as segment_models
from neutron.db import models_v2
from neutron.db.port_security import models as port_security_models
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib.db import standard_attr
import sqlalchemy as sa
from sqlalchemy.ext import compiler
from sqlalchemy.sql import functions

import networking_l2isolate

Port = models_v2.Port
Subnet = models_v2.Subnet
Binding = ml2_models.PortBinding
Segment = segment_models.NetworkSegment
Attributes = standard_attr.StandardAttribute
Agent = agent_models.Agent
Group = group_models.SecurityGroup
GroupPort = group_models.SecurityGroupPortBinding
Rule = group_models.SecurityGroupRule
Pair = pair_models.AllowedAddressPair
AddressGroup = address_group_models.AddressGroup
Association = address_group_models.AddressAssociation


class Now(functions.GenericFunction):
    """The database's clock in UTC as text, with microseconds if it has any."""

    type = sa.String()
    inherit_cache = True
    name = 'l2isolate_now'


@compiler.compiles(Now)
def _now(element, compiler, **kw):
    return "to_char(clock_timestamp() at time zone 'utc', " \
           "'YYYY-MM-DD HH24:MI:SS.US')"


@compiler.compiles(Now, 'mysql')
@compiler.compiles(Now, 'mariadb')
def _now_mysql(element, compiler, **kw):
    # The cast keeps drivers from making a date of it.
    return 'CAST(UTC_TIMESTAMP(6) AS CHAR)'


@compiler.compiles(Now, 'sqlite')
def _now_sqlite(element, compiler, **kw):
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


def clock(session, host):
    """The clock and what the host's own agent last reported, in one row.

    The look at the agents table is what makes InnoDB take its snapshot in
    this statement: so no time passes between the two.
    """
    reported = (sa.select(Agent.configurations)
                .where(Agent.host == host)
                .where(Agent.agent_type == networking_l2isolate.AGENT_TYPE)
                .limit(1).scalar_subquery())
    return session.query(Now().label('now'),
                         reported.label('configurations')).one()


def bindings(session, host, port_ids=None):
    """Bindings to a host of routed networks' ports, with all that is of the
    port alone.

    :param port_ids: only of these ports; None: of all
    """
    if port_ids is None:
        port_ids = _host_ports(session, host)
    security = port_security_models.PortSecurityBinding
    dns = dns_models.PortDNS
    query = (
        session.query(
            Binding.status.label('binding_status'), Binding.vif_type,
            Port.id, Port.name, Port.mac_address, Port.admin_state_up,
            Port.status, Port.device_id, Port.device_owner, Port.project_id,
            Attributes.revision_number, Attributes.created_at,
            models_v2.Network.mtu, security.port_security_enabled,
            dns.dns_name)
        .select_from(Binding)
        .join(Port, Port.id == Binding.port_id)
        .join(Attributes, Attributes.id == Port.standard_attr_id)
        .join(models_v2.Network, models_v2.Network.id == Port.network_id)
        .join(Segment, Segment.network_id == Port.network_id)
        .outerjoin(security, security.port_id == Port.id)
        .outerjoin(dns, dns.port_id == Port.id)
        .filter(Binding.host == host)
        .filter(Segment.network_type == networking_l2isolate.NETWORK_TYPE))
    return _among(query, Port.id, port_ids).all()


def _host_ports(session, host):
    """Ids of the ports that are bound to a host.

    Neutron's table of bindings has no index by host, so this reads all of it.
    Joined with others in one query it is worse: MariaDB then begins with the
    network and looks up each of its ports. (Measured in a busy database of
    40,000 ports: 51 ms against 577 ms.)
    """
    query = session.query(Binding.port_id).filter(Binding.host == host)
    return [row.port_id for row in query]


def bindings_elsewhere(session, host, port_ids):
    """Bindings of ports to other hosts."""
    query = (session.query(Binding.port_id, Binding.host, Binding.status,
                           Binding.vif_type)
             .filter(Binding.host != host).filter(Binding.host != ''))
    return _among(query, Binding.port_id, port_ids).all()


def hosts_of_ports(session, port_ids):
    """Hosts to which ports are bound in one way or another."""
    query = (session.query(Binding.port_id, Binding.host)
             .filter(Binding.host != ''))
    return _among(query, Binding.port_id, port_ids).all()


def hosts_of_subnets(session, subnet_ids):
    """Hosts with ports that have an address of a subnet."""
    ip = models_v2.IPAllocation
    query = (session.query(ip.subnet_id, Binding.host)
             .join(Binding, Binding.port_id == ip.port_id)
             .filter(Binding.host != ''))
    return _among(query, ip.subnet_id, subnet_ids).distinct().all()


def network_ports(session, network_ids):
    query = session.query(Port.id)
    return _among(query, Port.network_id, network_ids).all()


def fixed_ips(session, port_ids):
    ip = models_v2.IPAllocation
    query = session.query(ip.port_id, ip.ip_address, ip.subnet_id)
    return _among(query, ip.port_id, port_ids).all()


def address_pairs(session, port_ids):
    query = session.query(Pair.port_id, Pair.ip_address, Pair.mac_address)
    return _among(query, Pair.port_id, port_ids).all()


def port_groups(session, port_ids):
    query = session.query(GroupPort.port_id, GroupPort.security_group_id)
    return _among(query, GroupPort.port_id, port_ids).all()


def dhcp_options(session, port_ids):
    option = dhcp_models.ExtraDhcpOpt
    query = session.query(option.port_id, option.opt_name, option.opt_value,
                          option.ip_version)
    return _among(query, option.port_id, port_ids).all()


def subnets(session, subnet_ids):
    query = (session.query(
        Subnet.id, Subnet.cidr, Subnet.gateway_ip, Subnet.enable_dhcp,
        Subnet.ipv6_ra_mode, Subnet.ipv6_address_mode,
        Attributes.revision_number)
        .join(Attributes, Attributes.id == Subnet.standard_attr_id))
    return _among(query, Subnet.id, subnet_ids).all()


def name_servers(session, subnet_ids):
    """In the order in which guests are to ask them."""
    server = models_v2.DNSNameServer
    query = session.query(server.subnet_id, server.address)
    query = _among(query, server.subnet_id, subnet_ids)
    return query.order_by(server.subnet_id, server.order).all()


def host_routes(session, subnet_ids):
    route = models_v2.SubnetRoute
    query = session.query(route.subnet_id, route.destination, route.nexthop)
    return _among(query, route.subnet_id, subnet_ids).all()


def groups(session, group_ids):
    query = (session.query(Group.id, Group.stateful,
                           Attributes.revision_number)
             .join(Attributes, Attributes.id == Group.standard_attr_id))
    return _among(query, Group.id, group_ids).all()


def rules(session, group_ids):
    query = session.query(
        Rule.id, Rule.security_group_id, Rule.direction, Rule.ethertype,
        Rule.protocol, Rule.port_range_min, Rule.port_range_max,
        Rule.remote_ip_prefix, Rule.remote_group_id,
        Rule.remote_address_group_id)
    return _among(query, Rule.security_group_id, group_ids).all()


def member_addresses(session, group_ids):
    """The own addresses of the ports in groups, whatever their host."""
    ip = models_v2.IPAllocation
    query = (session.query(GroupPort.security_group_id, ip.ip_address)
             .join(ip, ip.port_id == GroupPort.port_id))
    return _among(query, GroupPort.security_group_id, group_ids).all()


def member_pairs(session, group_ids):
    """The allowed address pairs of the ports in groups."""
    query = (session.query(GroupPort.security_group_id, Pair.ip_address,
                           Pair.mac_address)
             .join(Pair, Pair.port_id == GroupPort.port_id))
    return _among(query, GroupPort.security_group_id, group_ids).all()


def address_groups(session, group_ids):
    query = (session.query(AddressGroup.id, Attributes.revision_number)
             .join(Attributes, Attributes.id == AddressGroup.standard_attr_id))
    return _among(query, AddressGroup.id, group_ids).all()


def address_group_addresses(session, group_ids):
    query = session.query(Association.address_group_id, Association.address)
    return _among(query, Association.address_group_id, group_ids).all()


def agents(session, hosts):
    """What the agents of hosts last reported about themselves."""
    query = (session.query(Agent.host, Agent.configurations)
             .filter(Agent.agent_type == networking_l2isolate.AGENT_TYPE))
    return _among(query, Agent.host, hosts).all()


def _among(query, column, values):
    return query if values is None else query.filter(column.in_(values))

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Neutron's own schema in memory, filled row by row.

The tables are made from the models of the release that the test runs on, so
that a column which a release lost, renamed or made obligatory fails here.
"""

import contextlib
import datetime
import functools
import uuid

from neutron.conf import common as common_config
from neutron.db.migration.models import head
from neutron_lib import context
from neutron_lib.db import api as db_api
from neutron_lib.db import standard_attr
from oslo_config import cfg
from oslo_db import options
import sqlalchemy as sa

from networking_l2isolate import config
from networking_l2isolate.intent import query
import networking_l2isolate

CREATED = datetime.datetime(2026, 11, 24, 16, 30, 12)


@functools.lru_cache(maxsize=None)
def set_up():
    """An empty database, one for the process; nothing outlives that."""
    common_config.register_core_common_config_opts()
    cfg.CONF([], project='neutron', default_config_files=[])
    options.set_defaults(cfg.CONF, connection='sqlite://')
    config.register()
    engine = db_api.CONTEXT_WRITER.get_engine()
    head.get_metadata().create_all(engine)
    return Database(engine)


class Database:
    """Rows for tests; each method returns the new row's id."""

    def __init__(self, engine):
        self.engine = engine

    def clear(self):
        with self.engine.begin() as connection:
            for table in reversed(head.get_metadata().sorted_tables):
                connection.execute(table.delete())

    @contextlib.contextmanager
    def reading(self):
        admin = context.get_admin_context()
        with db_api.CONTEXT_READER.using(admin):
            yield admin.session

    @contextlib.contextmanager
    def writing(self):
        admin = context.get_admin_context()
        with db_api.CONTEXT_WRITER.using(admin):
            yield admin.session

    @contextlib.contextmanager
    def counting(self):
        """Collects the queries that are sent meanwhile."""
        statements = []

        def note(conn, cursor, statement, *args):
            # Not the check of a connection from the pool.
            if ' FROM ' in statement.replace('\n', ' '):
                statements.append(statement)

        sa.event.listen(self.engine, 'before_cursor_execute', note)
        try:
            yield statements
        finally:
            sa.event.remove(self.engine, 'before_cursor_execute', note)

    def add(self, model, **values):
        with self.engine.begin() as connection:
            connection.execute(sa.insert(model.__table__), values)
        return values.get('id')

    def thing(self, model, revision=3, **values):
        """A row of something that the API shows."""
        with self.engine.begin() as connection:
            result = connection.execute(
                sa.insert(standard_attr.StandardAttribute.__table__),
                {'resource_type': model.__tablename__, 'created_at': CREATED,
                 'revision_number': revision})
        values.setdefault('id', str(uuid.uuid4()))
        return self.add(model, standard_attr_id=result.inserted_primary_key[0],
                        **values)

    def network(self, network_type=networking_l2isolate.NETWORK_TYPE,
                mtu=1500):
        network = self.thing(query.models_v2.Network, name='net', mtu=mtu,
                             project_id='p', status='ACTIVE',
                             admin_state_up=True)
        self.thing(query.Segment, network_id=network,
                   network_type=network_type, is_dynamic=False)
        return network

    def subnet(self, network, cidr, gateway=None, **values):
        values.setdefault('enable_dhcp', True)
        return self.thing(query.Subnet, network_id=network, cidr=cidr,
                          gateway_ip=gateway, project_id='p',
                          ip_version=6 if ':' in cidr else 4, **values)

    def group(self, **values):
        values.setdefault('stateful', True)
        return self.thing(query.Group, name='g', project_id='p', **values)

    def rule(self, group, **values):
        values.setdefault('direction', 'ingress')
        values.setdefault('ethertype', 'IPv4')
        return self.thing(query.Rule, security_group_id=group,
                          project_id='p', **values)

    def address_group(self, *addresses):
        group = self.thing(query.AddressGroup, name='a', project_id='p')
        for address in addresses:
            self.add(query.Association, address_group_id=group,
                     address=address)
        return group

    def port(self, network, addresses=(), groups=(), bindings=(), **values):
        """bindings: (host, status, vif_type) each."""
        number = uuid.uuid4().int & 0xffffff
        values.setdefault('mac_address', 'fa:16:3e:%02x:%02x:%02x' % (
            number >> 16, number >> 8 & 255, number & 255))
        for field, value in (('name', ''), ('device_id', 'vm'),
                             ('device_owner', 'compute:nova'),
                             ('status', 'DOWN'), ('admin_state_up', True)):
            values.setdefault(field, value)
        port = self.thing(query.Port, network_id=network, project_id='p',
                          **values)
        for address, subnet in addresses:
            self.add(query.models_v2.IPAllocation, port_id=port,
                     ip_address=address, subnet_id=subnet, network_id=network)
        for group in groups:
            self.add(query.GroupPort, port_id=port, security_group_id=group)
        for host, status, vif_type in bindings:
            self.add(query.Binding, port_id=port, host=host, status=status,
                     vif_type=vif_type, vnic_type='normal', profile='',
                     vif_details='')
        return port

    def agent(self, host, configurations='{}',
              agent_type=networking_l2isolate.AGENT_TYPE):
        self.add(query.Agent, id=str(uuid.uuid4()), host=host,
                 agent_type=agent_type, binary='l2isolate', topic='N/A',
                 admin_state_up=True, created_at=CREATED, started_at=CREATED,
                 heartbeat_timestamp=CREATED, configurations=configurations)

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What agents call: docs/neutron-wire.md of l2isolate says it field by field.

Neutron starts this in its RPC workers, since the mechanism driver adds it to
the plugin directory and it has start_rpc_listeners().
"""

import json

from neutron_lib import context as neutron_context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from neutron_lib import rpc
from oslo_config import cfg
from oslo_log import log
import oslo_messaging

from networking_l2isolate.intent import host as host_intent
from networking_l2isolate.intent import objects
import networking_l2isolate

LOG = log.getLogger(__name__)

#: Topic of the agents' calls.
TOPIC = 'l2isolate'

#: Version of the intent schema.
SCHEMA_VERSION = 1

#: How many ports one call binds anew, at some 0.1 s each while the agent waits;
#: the next call goes on.
BIND_AT_ONCE = 20


class AgentRpc:
    """Started by Neutron in each RPC worker."""

    def start_rpc_listeners(self):
        """Begins to serve the agents; returns the servers to be stopped."""
        self.connection = rpc.Connection()
        self.connection.create_consumer(TOPIC, [Endpoint()])
        return self.connection.consume_in_threads()


class Endpoint:
    """The calls themselves: every public method can be called."""

    target = oslo_messaging.Target(version='1.1')

    def sync(self, context, host, digests, process=None, only=False):
        """Tells an agent what is different from what it has.

        :param host: the agent's host, as in binding:host_id
        :param digests: {kind: {id: digest}} of all that the agent has
        :param process: an id that each start of an agent makes anew
        :param only: nothing but what digests names is asked for
        :returns: the reply of docs/neutron-wire.md
        """
        known = _check(host, digests)
        # The agent may send no context at all: it is trusted like Neutron's
        # own agents, as whoever may publish to the broker.
        context = neutron_context.get_admin_context()
        if only:
            return answer(_read(context, host, known), known,
                          cfg.CONF.l2isolate.sync_reply_bytes)
        snapshot = _read(context, host)
        if snapshot.unbound and _bind(context, host, snapshot.unbound):
            snapshot = _read(neutron_context.get_admin_context(), host)
        reply = answer(snapshot, known, cfg.CONF.l2isolate.sync_reply_bytes)
        other = snapshot.reported.get('process')
        if process and other and other != process:
            LOG.warning('Two L2 isolate agents under the name of host %(host)s:'
                        ' one that calls itself %(process)s asked for its '
                        'intent, the last to report its state was %(other)s',
                        {'host': host, 'process': process, 'other': other})
            reply['other_agent'] = other
        LOG.debug('Host %(host)s: %(sent)s differ, %(gone)s gone%(more)s',
                  {'host': host, 'sent': _count(reply),
                   'gone': _count(reply['gone']),
                   'more': ', more to come' if reply['more'] else ''})
        return reply


def answer(snapshot, known, limit):
    """The reply to an agent.

    :param snapshot: what its host needs to know
    :param known: {kind: {id: digest}} of what it has
    :param limit: about how large the reply may be, in bytes of JSON
    """
    reply = {'version': SCHEMA_VERSION, 'read_at': snapshot.read_at,
             'statuses': snapshot.statuses, 'more': False,
             'gone': {kind: [] for kind in objects.KINDS}}
    reply.update((kind, []) for kind in objects.KINDS)
    size = 0
    for kind in objects.KINDS:
        for thing_id, thing in sorted(snapshot.objects[kind].items()):
            if known[kind].get(thing_id) == thing['digest']:
                continue
            size += len(json.dumps(thing))
            if size > limit and _count(reply):
                reply['more'] = True
                return reply
            reply[kind].append(thing)
    for kind in objects.KINDS:
        reply['gone'][kind] = [
            {'id': thing_id, 'read_at': snapshot.read_at}
            for thing_id in sorted(known[kind])
            if thing_id not in snapshot.objects[kind]]
    return reply


def _check(host, digests):
    """The request's digests, every kind of them.

    :raises: ValueError that says what is wrong with the request
    """
    if not isinstance(host, str) or not host:
        raise ValueError('sync: host is %r, not the name of a host' % (host,))
    if not isinstance(digests, dict):
        raise ValueError('sync: digests is %s, not an object of kinds'
                         % type(digests).__name__)
    known = {}
    for kind in objects.KINDS:
        known[kind] = digests.get(kind) or {}
        if not isinstance(known[kind], dict):
            raise ValueError('sync: digests.%s is %s, not an object of ids '
                             'and digests' % (kind, type(known[kind]).__name__))
    return known


@db_api.retry_if_session_inactive()
def _read(context, host, wanted=None):
    with db_api.CONTEXT_READER.using(context):
        if wanted is not None:
            return host_intent.read_some(context.session, host, wanted)
        return host_intent.read(context.session, host)


def _bind(context, host, port_ids):
    """Has Neutron bind ports that a host should have, but doesn't.

    They got stuck while the host's agent was away; nothing in Neutron would
    try again by itself. It only does so while it knows the agent as alive.

    :returns: whether it was tried
    """
    plugin = directory.get_plugin()
    agents = plugin.get_agents(context, filters={
        'host': [host], 'agent_type': [networking_l2isolate.AGENT_TYPE]})
    if not any(agent['alive'] for agent in agents):
        LOG.warning('Host %(host)s: %(all)d ports wait to be bound, but its '
                    'agent has not reported its state lately',
                    {'host': host, 'all': len(port_ids)})
        return False
    if len(port_ids) > BIND_AT_ONCE:
        LOG.warning('Host %(host)s: %(all)d ports wait to be bound, %(now)d '
                    'of them are tried now',
                    {'host': host, 'all': len(port_ids), 'now': BIND_AT_ONCE})
    tried = port_ids[:BIND_AT_ONCE]
    LOG.info('Host %(host)s: binding %(ports)s anew',
             {'host': host, 'ports': ', '.join(tried)})
    plugin.get_bound_ports_contexts(context, tried, host)
    return True


def _count(lists):
    return sum(len(lists[kind]) for kind in objects.KINDS)

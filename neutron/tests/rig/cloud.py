# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A real Neutron's API, and the others that it talks to: an agent, Nova.

`l2isolate-lab neutron run` starts the Neutron and says in the environment
where it is. Tests share it: every network, address and host name is new.
"""

import datetime
import http.server
import itertools
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
import uuid

import oslo_messaging
from oslo_config import cfg

API = os.environ.get('NEUTRON_API', '')
TRANSPORT_URL = os.environ.get('NEUTRON_TRANSPORT_URL', '')
RELEASE = int(os.environ.get('NEUTRON_RELEASE', 0))
NOVA_PORT = 8774

#: How long anything may take; no test measures time.
PATIENCE = 60

KINDS = ('ports', 'subnets', 'groups', 'address_groups')

# From somewhere: the same Neutron may have seen these tests before.
_numbers = itertools.count(random.randrange(60000))


class Refused(Exception):
    """The API's answer to what it doesn't do."""

    def __init__(self, status, text):
        super().__init__('%d %s' % (status, text))
        self.status = status
        self.text = text


def ask(method, path, body=None):
    """Asks the API; returns what it says, or raises Refused."""
    request = urllib.request.Request(
        '%s/%s' % (API, path), method=method,
        headers={'Content-Type': 'application/json'},
        data=None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE * 2) as answer:
            text = answer.read()
            return json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        raise Refused(error.code, error.read().decode()) from None


def create(kind, **fields):
    """Creates one thing: create('port', network_id=…)."""
    path = {'policy': 'qos/policies'}.get(
        kind, kind.replace('_', '-') + 's')
    return ask('POST', path, {kind: fields})[kind]


def update(kind, thing_id, **fields):
    path = '%ss/%s' % (kind.replace('_', '-'), thing_id)
    return ask('PUT', path, {kind: fields})[kind]


def delete(kind, thing_id):
    ask('DELETE', '%ss/%s' % (kind.replace('_', '-'), thing_id))


def show(kind, thing_id):
    return ask('GET', '%ss/%s' % (kind.replace('_', '-'), thing_id))[kind]


def prefix4():
    """A /24 that no other test uses."""
    number = next(_numbers)
    return '10.%d.%d.0/24' % (number // 256 % 256, number % 256)


def prefix6():
    return '2001:db8:%x::/64' % next(_numbers)


def network(**fields):
    return create('network', **fields)['id']


def subnet(network_id, cidr=None, **fields):
    cidr = cidr or prefix4()
    return create('subnet', network_id=network_id, cidr=cidr,
                  ip_version=6 if ':' in cidr else 4, **fields)


def port(network_id, host='', **fields):
    """A port as Nova makes it."""
    fields.setdefault('device_owner', 'compute:nova')
    fields.setdefault('device_id', str(uuid.uuid4()))
    if host:
        fields['binding:host_id'] = host
    return create('port', network_id=network_id, **fields)


def wait_for(condition, what):
    """Waits until the condition holds, and returns its value."""
    end = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError('%s did not happen' % what)
        time.sleep(0.05)


class Agent:
    """What an L2 isolate agent says to Neutron, without the wiring."""

    _transport = None

    def __init__(self, **configurations):
        self.host = 'hv-%s' % uuid.uuid4().hex[:12]
        self.configurations = configurations
        #: What it has: {kind: {id: object}}.
        self.has = {kind: {} for kind in KINDS}
        if Agent._transport is None:
            oslo_messaging.set_transport_defaults('neutron')
            cfg.CONF([], project='agent', default_config_files=[])
            Agent._transport = oslo_messaging.get_rpc_transport(
                cfg.CONF, TRANSPORT_URL)

    def call(self, topic, version, method, **arguments):
        target = oslo_messaging.Target(topic=topic)
        # Not get_rpc_client(): the oldest release doesn't have it.
        get_client = getattr(oslo_messaging, 'get_rpc_client',
                             oslo_messaging.RPCClient)
        client = get_client(self._transport, target, timeout=PATIENCE)
        return client.prepare(version=version).call(
            {'is_admin': True}, method, **arguments)

    def report(self, **more):
        """Says that it lives."""
        state = {'agent_type': 'L2 isolate agent', 'binary': 'l2isolate',
                 'host': self.host, 'topic': 'N/A',
                 'configurations': dict(self.configurations, **more)}
        now = datetime.datetime.now(datetime.timezone.utc)
        return self.call('q-reports-plugin', '1.2', 'report_state',
                         agent_state={'agent_state': state},
                         time=now.strftime('%Y-%m-%dT%H:%M:%S.%f'))

    def digests(self):
        return {kind: {thing_id: thing['digest'] for thing_id, thing
                       in things.items()}
                for kind, things in self.has.items()}

    def sync(self, **arguments):
        """One call; takes in what comes. Returns the reply."""
        reply = self.call('l2isolate', '1.0', 'sync', host=self.host,
                          digests=self.digests(), **arguments)
        for kind in KINDS:
            for thing in reply[kind]:
                self.has[kind][thing['id']] = thing
            for tombstone in reply['gone'][kind]:
                del self.has[kind][tombstone['id']]
        return reply

    def up(self, *port_ids):
        """Says that ports are wired, as agents do."""
        return self.call('q-plugin', '1.5', 'update_device_list',
                         devices_up=list(port_ids), devices_down=[],
                         agent_id='l2isolate-%s' % self.host, host=self.host)

    def up_here(self, port_id):
        """Says that a port which is bound elsewhere is wired here as well."""
        return self.call('q-plugin', '1.5', 'update_device_up',
                         device=port_id, host=self.host,
                         agent_id='l2isolate-%s' % self.host)


def living_agent(**configurations):
    agent = Agent(**configurations)
    assert agent.report() == 'new'
    return agent


def changed(reply):
    """What a reply brings: {kind: ids}, without what it doesn't."""
    return {kind: sorted(thing['id'] for thing in reply[kind])
            for kind in KINDS if reply[kind]}


def gone(reply):
    return {kind: sorted(thing['id'] for thing in reply['gone'][kind])
            for kind in KINDS if reply['gone'][kind]}


class Nova:
    """Takes the events that Neutron sends to Nova."""

    def __init__(self):
        self.events = []
        nova = self

        class Handler(http.server.BaseHTTPRequestHandler):

            def do_POST(self):
                body = self.rfile.read(int(self.headers['Content-Length']))
                events = json.loads(body)['events']
                nova.events.extend(events)
                answer = json.dumps({'events': [
                    dict(event, code=200) for event in events]}).encode()
                self.send_response(200)
                self.send_header('Content-Type', 'application/json')
                self.send_header('Content-Length', str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(('', NOVA_PORT), Handler)
        threading.Thread(target=self.server.serve_forever,
                         daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def of(self, port_id):
        """Names of the events about a port, in order."""
        return [event['name'] for event in list(self.events)
                if event.get('tag') == port_id]

    def wait_for(self, port_id, name, count=1):
        wait_for(lambda: self.of(port_id).count(name) >= count,
                 '%s of %s' % (name, port_id))

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Tells agents of changes, in a thread of its own.

Whoever changes something in Neutron doesn't wait for this. What is touched
while the thread is busy is told in one go: many changes at once cost less
each, and what waits is a set of ids, which can't grow beyond what there is.
Whatever gets lost here, by the end of the process or a broker that is away,
agents find out by their next sync.
"""

import collections
import os
import threading
import time
import uuid

from neutron_lib import context as neutron_context
from neutron_lib.db import api as db_api
from neutron_lib import rpc
from oslo_log import log
import oslo_messaging

from networking_l2isolate.casts import changes as changes_of
from networking_l2isolate.casts import news

LOG = log.getLogger(__name__)

#: Version of the messages' schema, and of the agents' method.
SCHEMA_VERSION = 1
METHOD_VERSION = '1.0'

#: What a request writes in several transactions is told once, if they follow
#: one another like this. In seconds.
GATHER = 0.005
#: Groups with many members take time to be read. After a reading there is a pause
#: so many times as long, but none that is longer than that, in seconds.
SHARE = 4
WAIT_MOST = 1.0


class Announcer:
    """One for each process; harmless to be copied by fork."""

    def __init__(self, send=None):
        """:param send: called with a Message; by default it is cast."""
        self._send = send or self._cast
        self._reset()
        # A worker has neither its parent's thread nor its locks.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self):
        self._changed = threading.Condition()
        self._waiting = changes_of.Changes()
        self._thread = None
        self._client = None
        self.sender = uuid.uuid4().hex
        self._numbers = collections.Counter()
        #: What is still to be told of groups, and not before when.
        self._groups = changes_of.Changes()
        self._groups_at = 0.0

    def tell(self, changes):
        """Takes changes on; returns at once."""
        with self._changed:
            self._waiting.merge(changes)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name='l2isolate-casts', daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self):
        while True:
            with self._changed:
                while not self._waiting and not self._groups_due():
                    self._changed.wait(self._groups_wait())
            time.sleep(GATHER)
            with self._changed:
                changes = self._waiting
                self._waiting = changes_of.Changes()
            try:
                self.announce(changes)
            except Exception:
                # Whatever it is, the next change is to be told.
                LOG.exception('Agents are not told of a change; they learn of '
                              'it by their next sync')

    def announce(self, changes):
        """Reads what changed, and tells who is concerned."""
        self._groups.merge(changes)
        self._all(news.of_hosts, changes)
        if not self._groups_due():
            return
        groups, self._groups = self._groups, changes_of.Changes()
        start = time.monotonic()
        self._all(news.of_groups, groups)
        end = time.monotonic()
        self._groups_at = end + min((end - start) * SHARE, WAIT_MOST)

    def _groups_due(self):
        return bool(self._groups) and time.monotonic() >= self._groups_at

    def _groups_wait(self):
        """How long groups have to wait; None: there are none."""
        if not self._groups:
            return None
        return max(0.0, self._groups_at - time.monotonic())

    def _all(self, what, changes):
        for message in _read(what, changes):
            self._numbers[message.key] += 1
            numbered = message._replace(news=dict(
                message.news, version=SCHEMA_VERSION, key=message.key,
                sender=self.sender, number=self._numbers[message.key]))
            try:
                self._send(numbered)
            except Exception:
                # Others are told all the same; a host sees the gap.
                LOG.exception('%s is not told of a change', message.key)

    def _cast(self, message):
        if self._client is None:
            self._client = rpc.get_client(oslo_messaging.Target(
                topic=news.TOPIC, version=METHOD_VERSION))
        # A topic is a routing key: no exchange for each group, which nobody
        # would ever delete, and what nobody listens to is dropped.
        self._client.prepare(topic=message.key).cast(
            neutron_context.get_admin_context(), 'changed', news=message.news)


@db_api.retry_if_session_inactive()
def _read_once(context, what, changes):
    with db_api.CONTEXT_READER.using(context):
        return list(what(context.session, changes))


def _read(what, changes):
    return _read_once(neutron_context.get_admin_context(), what, changes)

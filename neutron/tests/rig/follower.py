# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""An agent that follows casts, as docs/neutron-wire.md asks for."""

import json
import threading

import kombu

from networking_l2isolate.intent import objects
from tests.rig import cloud


class Follower(cloud.Agent):
    """Takes in what is cast to it; syncs only what it is told to."""

    def __init__(self, **configurations):
        super().__init__(**configurations)
        self.news = []
        self._lock = threading.RLock()
        self._stop = threading.Event()
        url = cloud.TRANSPORT_URL.replace('rabbit://', 'amqp://', 1)
        self._connection = kombu.Connection(url)
        self._channel = self._connection.channel()
        exchange = kombu.Exchange('neutron', 'topic', durable=False)
        self._queue = kombu.Queue(
            'follower-%s' % self.host, exchange,
            'l2isolate-agent.%s' % self.host, exclusive=True,
            durable=False)(self._channel)
        self._queue.declare()
        self._queue.consume(callback=self._hear, no_ack=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def bind(self, *keys):
        with self._lock:
            for key in keys:
                self._queue.bind_to('neutron', key)

    def stop(self):
        self._stop.set()
        self._thread.join()
        self._connection.release()

    def _run(self):
        while not self._stop.is_set():
            try:
                with self._lock:
                    self._connection.drain_events(timeout=0.02)
            except TimeoutError:
                continue

    def _hear(self, message):
        envelope = json.loads(message.body)
        request = json.loads(envelope['oslo.message'])
        assert request['method'] == 'changed', request
        news = request['args']['news']
        assert news['key'] == message.delivery_info['routing_key'], news
        self.news.append(news)
        for kind in cloud.KINDS:
            for thing in news.get(kind, ()):
                self.has[kind][thing['id']] = thing
            for tombstone in news.get('gone', {}).get(kind, ()):
                self.has[kind].pop(tombstone['id'], None)
            for told in news.get('changed', {}).get(kind, ()):
                self._differ(kind, told)

    def _differ(self, kind, told):
        """Applies differences; the digest is made anew, not believed."""
        known = self.has[kind].get(told['id'])
        if known is None:
            return
        name = objects.ELEMENTS[kind]
        elements = {objects.element(e): e for e in known.pop(name)}
        for element in told.pop('removed'):
            elements.pop(objects.element(element), None)
        for element in told.pop('added'):
            elements[objects.element(element)] = element
        if told.pop('whole', False):
            known.clear()
        known.update(told)
        known[name] = [elements[key] for key in sorted(elements)]
        digest = known['digest']
        objects.seal(kind, known, known['read_at'])
        if known['digest'].split('-')[1] == digest.split('-')[1]:
            known['digest'] = digest

    def differs(self):
        """What a sync would change; nothing is taken in."""
        with self._lock:
            digests = self.digests()
        reply = self.call('l2isolate', '1.0', 'sync', host=self.host,
                          digests=digests)
        return cloud.changed(reply), cloud.gone(reply)

#!/usr/bin/python3
"""Serves a topic with Python's oslo.messaging: the other end of `call.rs`.

server.py URL TOPIC [--server NAME] [--exchange NAME]
"""

import argparse
import sys
import threading
import time

from oslo_config import cfg
import oslo_messaging


class Endpoint:
    target = oslo_messaging.Target(version='1.3')

    def __init__(self):
        self.notes = []

    def echo(self, context, **arguments):
        return arguments

    def whoami(self, context):
        return dict(context)

    def fail(self, context, text):
        raise ValueError(text)

    def slow(self, context, seconds):
        time.sleep(seconds)
        return seconds

    def note(self, context, **arguments):
        self.notes.append(arguments)

    def noted(self, context):
        return self.notes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('url')
    parser.add_argument('topic')
    parser.add_argument('--server', default='python')
    parser.add_argument('--exchange', default='openstack')
    arguments = parser.parse_args()
    conf = cfg.CONF
    conf([])
    # As Neutron does; it is read when the transport is made.
    oslo_messaging.set_transport_defaults(arguments.exchange)
    transport = oslo_messaging.get_rpc_transport(conf, url=arguments.url)
    target = oslo_messaging.Target(topic=arguments.topic, server=arguments.server)
    server = oslo_messaging.get_rpc_server(
        transport, target, [Endpoint()], executor='threading')
    server.start()
    print('serving', flush=True)
    threading.Event().wait()


if __name__ == '__main__':
    sys.exit(main())

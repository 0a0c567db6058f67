#!/usr/bin/python3
"""Calls a server with Python's oslo.messaging: the other end of `serve.rs`.

client.py URL TOPIC call|cast|fanout METHOD [JSON] prints the result as JSON, or
the exception as {"exception": class, "message": text}.
"""

import argparse
import json
import sys

from oslo_config import cfg
import oslo_messaging


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('url')
    parser.add_argument('topic')
    parser.add_argument('how', choices=['call', 'cast', 'fanout'])
    parser.add_argument('method')
    parser.add_argument('arguments', nargs='?', default='{}')
    parser.add_argument('--server')
    parser.add_argument('--namespace')
    parser.add_argument('--version', default='1.0')
    parser.add_argument('--exchange', default='openstack')
    parser.add_argument('--timeout', type=float, default=15)
    parser.add_argument('--monitor', type=float)
    arguments = parser.parse_args()
    conf = cfg.CONF
    conf([])
    # As Neutron does; it is read when the transport is made.
    oslo_messaging.set_transport_defaults(arguments.exchange)
    transport = oslo_messaging.get_rpc_transport(
        conf, url=arguments.url,
        allowed_remote_exmods=['oslo_messaging.rpc.dispatcher'])
    target = oslo_messaging.Target(
        topic=arguments.topic, version=arguments.version,
        namespace=arguments.namespace)
    client = oslo_messaging.RPCClient(
        transport, target, timeout=arguments.timeout,
        call_monitor_timeout=arguments.monitor)
    if arguments.how == 'fanout':
        client = client.prepare(fanout=True)
    elif arguments.server:
        client = client.prepare(server=arguments.server)
    call = client.call if arguments.how == 'call' else client.cast
    try:
        result = call({'is_admin': True}, arguments.method,
                      **json.loads(arguments.arguments))
    except Exception as error:
        result = {'exception': type(error).__name__, 'message': str(error)}
    print(json.dumps(result))
    return 0


if __name__ == '__main__':
    sys.exit(main())

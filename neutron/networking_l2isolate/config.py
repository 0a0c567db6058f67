# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Options of the mechanism driver, in the group [l2isolate]."""

import re

from oslo_config import cfg
from oslo_config import types

GROUP = 'l2isolate'


class UnicastMac(types.String):
    """A hardware address that an interface can have."""

    def __call__(self, value):
        value = super().__call__(value).lower()
        if not re.fullmatch(r'[0-9a-f]{2}(:[0-9a-f]{2}){5}', value):
            raise ValueError('%s is not a MAC address like 02:4c:32:49:53:4f'
                             % value)
        if int(value[:2], 16) & 1 or value == '00:00:00:00:00:00':
            raise ValueError('%s is a multicast or zero address, a tap needs '
                             'a unicast one' % value)
        return value


OPTIONS = [
    cfg.Opt('tap_mac', type=UnicastMac(), default='02:4c:32:49:53:4f',
            help='Hardware address of the host side of every tap. The same '
                 'in the whole cloud, so that guests which migrate keep '
                 'their neighbour caches; the same as tap_mac of the agents.'),
    cfg.BoolOpt('casts', default=True,
                help='Tell agents of changes as soon as they are made. '
                     'Without it agents learn of them by their next sync.'),
    cfg.IntOpt('sync_reply_bytes', default=4 * 1024 * 1024, min=1024,
               help='About how large a reply to an agent may be, in bytes. '
                    'What is more goes into further replies. Must stay below '
                    "the broker's max_message_size."),
]


def register(conf=cfg.CONF):
    """Makes the options known; harmless if they are."""
    conf.register_opts(OPTIONS, GROUP)


def list_opts():
    """For oslo-config-generator."""
    return [(GROUP, OPTIONS)]

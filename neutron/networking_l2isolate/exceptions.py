# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the drivers answer to API requests that they refuse."""

from neutron_lib import exceptions


class UnsupportedOnRouted(exceptions.BadRequest):
    """Something that networks of type routed can't do (HTTP 400)."""

    message = ('%(what)s is not supported on networks of type "routed": '
               '%(why)s')


class RoutedSubnetOverlap(exceptions.Conflict):
    """Two routed subnets would have addresses in common (HTTP 409)."""

    message = ('Subnet %(cidr)s overlaps with %(other)s. All networks of '
               'type "routed" share one address space, since hypervisors '
               'route by guest address alone: choose a prefix that no other '
               'of them uses.')

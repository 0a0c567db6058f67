# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The network type "routed".

A network of this type exists on no wire: a guest's addresses are routed to
the hypervisor that runs it. So there is nothing to allocate, and nothing to
choose: no segmentation id, no physical network, no table.
"""

from neutron_lib import exceptions
from neutron_lib.plugins.ml2 import api
from neutron_lib.plugins import utils

import networking_l2isolate


class RoutedTypeDriver(api.ML2TypeDriver):
    """For tenant and provider networks alike."""

    def get_type(self):
        return networking_l2isolate.NETWORK_TYPE

    def initialize(self):
        pass

    # Arguments differ between releases.
    def initialize_network_segment_range_support(self, *args, **kwargs):
        pass

    def update_network_segment_range_allocations(self, *args, **kwargs):
        pass

    def is_partial_segment(self, segment):
        return False

    def validate_provider_segment(self, segment):
        for key in (api.PHYSICAL_NETWORK, api.SEGMENTATION_ID):
            if segment.get(key) is not None:
                raise exceptions.InvalidInput(
                    error_message='provider:%s is %r, but a network of type '
                                  '"routed" is on no wire and has none; leave '
                                  'it out' % (key, segment[key]))

    def reserve_provider_segment(self, context, segment, filters=None):
        return self.allocate_tenant_segment(context, filters)

    def allocate_tenant_segment(self, context, filters=None):
        return {api.NETWORK_TYPE: networking_l2isolate.NETWORK_TYPE,
                api.PHYSICAL_NETWORK: None,
                api.SEGMENTATION_ID: None,
                api.MTU: self.get_mtu()}

    def release_segment(self, context, segment):
        pass

    def get_mtu(self, physical_network=None):
        """Nothing is put around guests' packets: the underlay's MTU."""
        return utils.get_deployment_physnet_mtu()

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Neutron ML2 drivers for networks that are routed to the hypervisor."""

#: Name of the network type.
NETWORK_TYPE = 'routed'

#: Type under which the agents report to Neutron.
AGENT_TYPE = 'L2 isolate agent'

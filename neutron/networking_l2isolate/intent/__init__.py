# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""From Neutron's database to the intent of one host.

The objects are those of l2isolate's docs/intent.md, with what docs/neutron-
wire.md adds. Nothing in here writes to the database.
"""

# Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Telling agents what has changed, as soon as it has.

`changes` notes what transactions touch, `news` reads it again and says who is
to be told what, `announcer` does that in a thread of its own and sends it.
"""

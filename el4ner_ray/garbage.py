"""Python's cyclic garbage collector, for processes of Ray that hold much and make much.

The records of a batch live until its last answer is there, so the collector takes them for lasting, and looks through
all that a process ever loaded for cycles: 0.1 s each time, in which nothing else runs. With scripted engines that was a
fifth of Classify's CPU time, and a tenth of what all processes took.
"""

from __future__ import annotations

import gc
from functools import cache

# New objects that may be in a cycle (records of `schema` are none, nor are texts and numbers); Python's own is 700.
_YOUNG = 20_000


@cache
def settle() -> None:
    """What is loaded now is never looked at again, and new objects less often. Further calls do nothing.

    For processes that are the project's own: cycles among what is loaded now are not freed before the process ends.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG)

"""A vLLM plugin: an engine's threads that only look whether there is something to do are woken less often.

vLLM opens a process group for each kind of parallelism, of a single process too, and each has a thread of Gloo that
wakes up a hundred times a second (`gloo/transport/tcp/loop.cc`). With three engines these were 39 threads, and on two
cores of an AMD Zen 3 2.4 % of both, beside what each interrupts. Linux may let a timeout run later by a thread's timer
slack, which a thread inherits from the one that starts it: with a slack of 90 ms they wake up ten times a second. What
a thread waits for still wakes it at once.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os

SWITCH = "EL4NER_LAX_TIMERS"
SLACK_NS = 90_000_000

_PR_SET_TIMERSLACK = 29  # <linux/prctl.h>


def register() -> None:
    """Called by vLLM in each of its processes (entry point `vllm.general_plugins`), before it opens process groups.

    Does nothing unless switched on, and in the process that vLLM was called from, whose threads are others', too.
    """
    if os.environ.get(SWITCH) == "1" and multiprocessing.parent_process() is not None:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(SLACK_NS), 0, 0, 0)

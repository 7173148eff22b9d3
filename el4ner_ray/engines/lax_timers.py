"""Threads that only look whether there is something to do are woken less often: a vLLM plugin, and for Ray.

vLLM opens a process group for each kind of parallelism, of a single process too, and each has a thread of Gloo that
wakes up a hundred times a second (`gloo/transport/tcp/loop.cc`). With three engines these were 39 threads, and on two
cores of an AMD Zen 3 2.4 % of both, beside what each interrupts. Linux may let a timeout run later by a thread's timer
slack, which a thread inherits from the one that starts it: with a slack of 90 ms they wake up ten times a second. What
a thread waits for still wakes it at once.

Threads of Ray's processes look round, too: an idle session with three scripted engines took 4.5 and 4.6 s of CPU a
minute with lax timers, and 5.7 and 6.3 without. More than a third of the rest is the main thread of each worker, which
looks for signals a hundred times a second (a constant of Ray's C++ side), by a timer that knows no slack (`timerfd`).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "EL4NER_LAX_TIMERS"
SLACK_NS = 90_000_000
_DEFAULT_NS = 50_000  # the kernel's

_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30  # <linux/prctl.h>


def register() -> None:
    """Called by vLLM in each of its processes (entry point `vllm.general_plugins`), before it opens process groups.

    Does nothing unless switched on, and in the process that vLLM was called from, whose threads are others', too.
    """
    if os.environ.get(SWITCH) == "1" and multiprocessing.parent_process() is not None:
        _prctl(_PR_SET_TIMERSLACK, SLACK_NS)


@contextmanager
def inherited() -> Iterator[None]:
    """Within it, what this thread starts wakes up late: processes, and all that these start, as well as threads."""
    before = _prctl(_PR_GET_TIMERSLACK, 0)
    _prctl(_PR_SET_TIMERSLACK, SLACK_NS)
    try:
        yield
    finally:
        _prctl(_PR_SET_TIMERSLACK, before)


def exact() -> None:
    """From now on the timeouts of this thread pass on time again, and those of what it starts."""
    _prctl(_PR_SET_TIMERSLACK, _DEFAULT_NS)


def _prctl(what: int, value: int) -> int:
    return int(ctypes.CDLL(None).prctl(what, ctypes.c_ulong(value), 0, 0, 0))

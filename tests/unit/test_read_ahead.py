"""An operator waits for the next one, however much memory there is. Ray's parts are stand-ins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.data import DataContext, ExecutionResources
from ray.data._internal.execution.backpressure_policy import (
    DownstreamCapacityBackpressurePolicy,
    get_backpressure_policies,
)

from el4ner_ray import read_ahead

KB, GB = 1000, 10**9


class Manager:
    """Of `outputs` bytes, which are a millionth of what an operator may hold."""

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    def is_op_eligible(self, op: object) -> bool:
        return True

    def _is_blocking_materializing_op(self, op: object) -> bool:
        return False

    def get_downstream_eligible_ops(self, op: object) -> list[object]:
        return []

    def get_op_usage(self, op: object, include_ineligible_downstream: bool) -> ExecutionResources:
        return ExecutionResources(object_store_memory=self.outputs)

    def get_budget(self, op: object) -> ExecutionResources:
        return ExecutionResources(object_store_memory=10**6 * self.outputs)

    def get_mem_op_outputs(self, op: object, include_ineligible_downstream: bool) -> int:
        return self.outputs

    def get_external_consumer_bytes(self) -> int:
        return 1


class Operator:
    name = "operator"

    def __init__(self, *following: Operator, in_flight: int = 0) -> None:
        self.output_dependencies = following
        self.metrics = SimpleNamespace(obj_store_mem_pending_task_inputs=in_flight)


def waits(outputs: int, op: Operator) -> bool:
    """Whether an operator of a session may read nothing of its tasks' output, and start none."""
    context = DataContext()
    read_ahead.bound(context)
    policies = get_backpressure_policies(context, {}, Manager(outputs))
    (policy,) = (policy for policy in policies if isinstance(policy, DownstreamCapacityBackpressurePolicy))
    reads_none: bool = policy.max_task_output_bytes_to_read(op) == 0
    assert reads_none is not policy.can_add_input(op)
    return reads_none


@pytest.mark.parametrize(
    ("waiting", "in_flight", "expected"),
    [
        (0, 10 * KB, False),
        (20 * KB, 10 * KB, False),
        (21 * KB, 10 * KB, True),
        (1 * GB, 10 * KB, True),
        (1 * GB, 0, False),  # the next one has not begun: who knows what it takes
    ],
)
def test_twice_as_much_waits_as_the_next_one_works_on(waiting: int, in_flight: int, expected: bool) -> None:
    assert waits(waiting + in_flight, Operator(Operator(in_flight=in_flight))) is expected


def test_the_last_one_has_nobody_to_wait_for() -> None:
    assert not waits(1 * GB, Operator())


def test_other_data_sets_keep_rays_own_policies() -> None:
    read_ahead.bound(DataContext())
    own = get_backpressure_policies(DataContext(), {}, Manager(0))
    assert not any(isinstance(policy, read_ahead.ShortQueues) for policy in own)

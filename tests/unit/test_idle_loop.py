"""Ray Data's control loop sleeps while nothing happens, and not when something has."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.data._internal.execution import streaming_executor

from el4ner_ray import idle_loop
from el4ner_ray.idle_loop import LIVELY_SECONDS, PATIENCE_SECONDS, PatientStep


class Clock:
    """Time, and Ray's wait, which lets it pass; tasks named `done` are ready."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timeouts: list[float] = []

    def wait(self, tasks: list[str], *, num_returns: int, fetch_local: bool, timeout: float) -> tuple[list[str], None]:
        assert (num_returns, fetch_local) == (1, False)
        self.timeouts.append(timeout)
        ready = [task for task in tasks if task == "done"][:1]
        self.now += 0 if ready else timeout
        return ready, None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ray, "wait", made.wait)
    monkeypatch.setattr(idle_loop.time, "monotonic", lambda: made.now)
    return made


class Operator:
    def __init__(self, *tasks: str) -> None:
        self.tasks = tasks

    def get_active_tasks(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(get_waitable=lambda task=task: task) for task in self.tasks]


def step(topology: dict[Any, Any], policies: list[Any], *, guard: str) -> int:
    assert (policies, guard) == ([], "guard")
    return len(topology)


def run(patient: PatientStep, *operators: Operator) -> None:
    assert patient(dict.fromkeys(operators), [], guard="guard") == len(operators)


def test_steps_wait_for_a_task_and_not_while_outputs_move_on(clock: Clock) -> None:
    patient = PatientStep(step)
    run(patient, Operator("slow"), Operator("slow"))
    run(patient, Operator("slow"), Operator("done"))
    run(patient, Operator("slow"))
    clock.now += LIVELY_SECONDS
    run(patient, Operator("slow"))
    assert clock.timeouts == [PATIENCE_SECONDS, PATIENCE_SECONDS, 0, PATIENCE_SECONDS]


def test_a_task_that_is_done_while_outputs_move_on_keeps_them_moving(clock: Clock) -> None:
    patient = PatientStep(step)
    for _ in range(4):
        run(patient, Operator("done"))
        clock.now += 0.6 * LIVELY_SECONDS
    run(patient, Operator("slow"))
    assert clock.timeouts == [PATIENCE_SECONDS, 0, 0, 0, 0]


def test_without_tasks_nothing_is_waited_for(clock: Clock) -> None:
    run(PatientStep(step), Operator())
    assert clock.timeouts == []


def test_the_loop_of_this_ray_is_made_patient_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = streaming_executor.process_completed_tasks
    monkeypatch.setattr(streaming_executor, "process_completed_tasks", before)
    idle_loop.install()
    installed = streaming_executor.process_completed_tasks
    idle_loop.install()
    assert isinstance(installed, PatientStep)
    assert streaming_executor.process_completed_tasks is installed


def test_a_loop_that_is_not_known_is_left_as_it_is_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(streaming_executor, "process_completed_tasks")
    with caplog.at_level(logging.WARNING):
        idle_loop.install()
    assert "another control loop" in caplog.text

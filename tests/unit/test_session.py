"""Joining Ray; `ray.init` itself is replaced here, the real one runs in tests/integration and tests/faults."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import accelerators

from el4ner_ray import cluster, machine, orphans
from el4ner_ray.capacity import logical_cpus
from el4ner_ray.config import load
from el4ner_ray.errors import UsageError
from el4ner_ray.orphans import this_driver
from tests.conftest import free_port


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[bool]]:
    """Replaces Ray. Each time that processes are ended, whether those of this driver are."""
    ends: list[bool] = []

    def end(of: Callable[[orphans.Driver], bool]) -> int:
        ends.append(of(this_driver()))
        return 0

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster.worker, "_global_node", SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path)))
    monkeypatch.setattr(orphans, "end", end)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup
    yield ends
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("raised", "status"), [(15, 143), (1, 1)])
@pytest.mark.usefixtures("ended")
def test_a_signal_while_ray_starts_ends_with_the_usual_status(
    monkeypatch: pytest.MonkeyPatch, raised: int, status: int
) -> None:
    def init(**_: Any) -> None:
        raise SystemExit(raised)

    monkeypatch.setattr(ray, "init", init)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, cluster.session():
        pass
    assert end.value.code == status
    assert signal.getsignal(signal.SIGTERM) == handler
    assert orphans.MARK not in os.environ


@pytest.mark.parametrize(("where", "what"), [(ray, "shutdown"), (cluster, "tell_memory_kills")])
def test_a_second_interrupt_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, ended: list[bool], where: Any, what: str
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, what, interrupted)
    with pytest.raises(KeyboardInterrupt), cluster.session():
        assert ended == [False]  # the leftovers of others
    assert ended == [False, True]


@pytest.mark.usefixtures("ended")
def test_rays_processes_are_marked_and_those_of_the_caller_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[str | None] = []
    monkeypatch.setattr(ray, "init", lambda **_: marks.append(os.environ.get(orphans.MARK)))
    with cluster.session():
        marks.append(os.environ.get(orphans.MARK))
    assert marks == [this_driver().mark, None]
    assert orphans.MARK not in os.environ


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_session_in_good_order_and_do_afterwards_what_they_did(
    ended: list[bool], number: signal.Signals
) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as end, cluster.session():
        signal.raise_signal(number)
    assert end.value.code == 128 + number
    assert ended == [False, True]
    assert signal.getsignal(number) == handler


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
@pytest.mark.usefixtures("ended")
def test_a_hangup_that_is_ignored_or_handled_ends_nothing(handler: Any) -> None:
    signal.signal(signal.SIGHUP, handler)
    with cluster.session():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == handler
    assert signal.getsignal(signal.SIGHUP) == handler


def test_a_hangup_waits_until_ray_has_started(monkeypatch: pytest.MonkeyPatch, ended: list[bool]) -> None:
    masks: list[set[int]] = []

    def init(**_: Any) -> None:
        signal.raise_signal(signal.SIGHUP)
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(SystemExit) as end, cluster.session():
        pass
    assert signal.SIGHUP in masks[0]  # which Ray's processes inherit
    assert end.value.code == 128 + signal.SIGHUP
    assert ended == [False, True]
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
@pytest.mark.usefixtures("ended")
def test_a_cluster_that_does_not_answer_is_wrong_use(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    address = address.format(port=free_port())
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("asked Ray"))
    with pytest.raises(UsageError) as refused, cluster.session():
        pass
    assert str(refused.value) == f"RAY_ADDRESS={address}: no answer; unset RAY_ADDRESS or start the cluster"


@pytest.mark.usefixtures("ended")
def test_a_cluster_that_ray_does_not_find_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("Failed to connect") from RuntimeError("Could not find\nany instance.")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", init)
    why = r"^RAY_ADDRESS=auto: no answer \(Could not find any instance\.\); unset RAY_ADDRESS or start the cluster$"
    with pytest.raises(UsageError, match=why), cluster.session():
        pass


def test_an_address_that_names_no_cluster_starts_ray_here(monkeypatch: pytest.MonkeyPatch, ended: list[bool]) -> None:
    asked: list[str] = []
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(ray, "init", lambda address, **_: asked.append(address))
    with cluster.session():
        pass
    assert asked == ["local"]
    assert ended == [False, True]


@pytest.mark.usefixtures("ended")
def test_ray_is_told_of_the_cores_that_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        ray, "init", lambda num_cpus, include_dashboard, **_: asked.append((num_cpus, include_dashboard))
    )
    for cores in (1, 3, 8):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        with cluster.session():
            pass
    assert asked == [(2, False), (3, False), (8, True)]


@pytest.mark.usefixtures("ended")
def test_ray_has_logical_cpus_for_all_that_a_run_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On two cores, the third of three engines with `cpus: 1` was waited for without end."""
    asked: list[int] = []
    monkeypatch.setattr(ray, "init", lambda num_cpus, **_: asked.append(num_cpus))
    for cores in (2, 8):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        with cluster.session(logical_cpus(load(profile="paper"), 0.5)):
            pass
    assert asked == [4, 8]


@pytest.mark.parametrize(
    ("visible", "cards", "told"),
    [
        ("MIG-a,MIG-b,MIG-c", 3, 3),
        ("MIG-GPU-6b1f-22/1/0", 1, 1),
        ("0", 1, None),
        (None, 1, None),
    ],
)
@pytest.mark.usefixtures("ended")
def test_each_part_of_a_card_that_is_named_stands_for_a_card(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, cards: int, told: int | None
) -> None:
    """Three parts of one card were refused: Ray counts whole cards."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(accelerators.NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", lambda: 1)
    asked: list[int | None] = []
    monkeypatch.setattr(ray, "init", lambda num_gpus=None, **_: asked.append(num_gpus))
    with cluster.session():
        assert machine.cards_of_ray() == cards
    assert asked == [told]

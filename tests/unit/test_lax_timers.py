"""The plugin's effect on processes and threads, without vLLM."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from el4ner_ray.engines import lax_timers

EXACT = "from el4ner_ray.engines import lax_timers; lax_timers.exact(); print(open('/proc/self/timerslack_ns').read())"


def slack_ns() -> int:
    """Of the calling thread."""
    return int(Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text())


def slack_of_a_thread_of_an_engine() -> int:
    """What a thread has that starts after vLLM called its plugins."""
    lax_timers.register()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(slack_ns()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("on", [True, False])
def test_threads_of_an_engine_wake_up_late(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if on:
        monkeypatch.setenv(lax_timers.SWITCH, "1")
    with multiprocessing.get_context("spawn").Pool(1) as engine:
        assert engine.apply(slack_of_a_thread_of_an_engine) == (lax_timers.SLACK_NS if on else slack_ns())


def test_the_process_that_vllm_is_called_from_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = slack_ns()
    monkeypatch.setenv(lax_timers.SWITCH, "1")
    lax_timers.register()
    assert slack_ns() == before


def test_what_is_started_within_wakes_up_late_and_nothing_else() -> None:
    tell = "print(open('/proc/self/timerslack_ns').read())"
    before = slack_ns()
    with lax_timers.inherited():
        within = int(subprocess.check_output([sys.executable, "-c", tell]))
        answering = int(subprocess.check_output([sys.executable, "-c", EXACT]))
    assert (within, slack_ns()) == (lax_timers.SLACK_NS, before)
    assert answering == before
    assert int(subprocess.check_output([sys.executable, "-c", tell])) == before

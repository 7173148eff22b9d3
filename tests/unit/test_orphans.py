"""What a killed run leaves behind is ended by the next one, and nothing else is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import psutil
import pytest

from el4ner_ray import orphans
from el4ner_ray.orphans import Driver, this_driver

STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); sys.stdin.read()"


def started(code: str, mark: str | None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != orphans.MARK}
    if mark is not None:
        environment[orphans.MARK] = mark
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    return process


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks of these tests are of another namespace than those of runs: tests run two at a time, and a run that starts
    beside them ends what killed runs have left, which some of these processes are.
    """
    namespace = orphans.own_namespace() + 1_000_000
    monkeypatch.setattr(orphans, "own_namespace", lambda: namespace)


@pytest.fixture
def gone() -> Driver:
    """A driver that has ended."""
    ends_at_once = "from el4ner_ray.orphans import this_driver; print(); print(this_driver().mark, flush=True)"
    process = started(ends_at_once, None)
    assert process.stdout is not None
    mark = process.stdout.readline()  # `communicate` does not return what was read ahead with the first line
    process.communicate()
    return replace(Driver.read(mark.strip()), namespace=orphans.own_namespace())


@pytest.fixture
def left(gone: Driver) -> Iterator[dict[str, subprocess.Popen[str]]]:
    processes = {
        "of a killed run": started(STUBBORN, gone.mark),
        "of this run": started(STUBBORN, this_driver().mark),
        "of nobody": started(STUBBORN, None),
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


def test_only_what_has_no_driver_any_more_is_ended(gone: Driver, left: dict[str, subprocess.Popen[str]]) -> None:
    # Tests run two at a time, and another one may just have killed a run of its own.
    of_this_test = {gone, this_driver()}
    assert orphans.end(lambda driver: driver in of_this_test and not driver.is_running()) == 1
    assert left["of a killed run"].wait(10) == -9
    assert left["of this run"].poll() is None
    assert left["of nobody"].poll() is None


def test_what_this_run_started_is_ended(left: dict[str, subprocess.Popen[str]]) -> None:
    assert orphans.end(lambda driver: driver == this_driver()) == 1
    assert left["of this run"].wait(10) == -9
    assert left["of a killed run"].poll() is None


def test_a_clock_that_is_set_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = this_driver()
    later = psutil.boot_time() + 3600
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: later)
    assert psutil.boot_time() == later
    assert driver.is_running()


def test_a_process_id_used_again_is_another_driver(gone: Driver) -> None:
    assert this_driver().is_running()
    assert not replace(this_driver(), started=this_driver().started - 1).is_running()
    assert not gone.is_running()
    assert Driver.read(gone.mark) == gone


@pytest.mark.parametrize(
    "mark",
    [
        lambda gone: replace(gone, namespace=gone.namespace + 1).mark,  # of a container that runs beside this process
        lambda gone: f"{gone.pid}@{gone.started}",
        lambda gone: f"{gone.pid}@then@{gone.namespace}",
        lambda gone: "",
        lambda gone: "\udce4@@@",
    ],
)
def test_marks_of_other_namespaces_and_other_forms_are_left_alone(gone: Driver, mark: Callable[[Driver], str]) -> None:
    process = started(STUBBORN, mark(gone))
    try:
        assert orphans.end(lambda driver: driver.pid == gone.pid) == 0
    finally:
        process.kill()
        process.communicate()

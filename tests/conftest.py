"""Shared fixtures: where data and models are, and one command line for all integration tests."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import settings

from el4ner_ray.commands import console
from el4ner_ray.demonstrations import write_index
from el4ner_ray.text_models import Embedder
from tests.processes import kill_all, started

# Time limits on tests are pytest's. Hypothesis's own, 0.2 s an example, are missed where a machine is busy.
settings.register_profile("el4ner", deadline=None)
settings.load_profile("el4ner")

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("EL4NER_DATA", ROOT / "data"))

CALIBRATED = ("--profile", "fake", "--pool-spans", "gold", "--limit", "6", "--method", "calibrated")

Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure() -> None:
    """Let SIGTERM end the session as an exception, so that tests and fixtures end what they have started."""
    signal.signal(signal.SIGTERM, lambda number, _: pytest.exit("SIGTERM", returncode=128 + number))


@pytest.fixture(autouse=True)
def how_much_is_told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what --quiet and --verbose set for the whole process, even where a test only parses a command."""
    monkeypatch.setattr(console.progress, "quiet", False)
    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "0")
    loggers = logging.root, logging.getLogger("el4ner_ray")
    before = [logger.level for logger in loggers]
    yield
    # Not by monkeypatch: loggers remember what is enabled until a level is set.
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def el4ner() -> Run:
    """Run the real command line; the result has its exit status and output."""

    def run(*arguments: str | Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "el4ner_ray", *map(str, arguments)]
        mark = f"el4ner-{uuid.uuid4()}"
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
        with started(command, mark, **pipes) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                kill_all(process, mark)
                out, err = process.communicate()
                pytest.fail(f"{command} took more than {timeout} s\n{out[-2000:]}\n{err[-4000:]}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def gold_index(tmp_path_factory: pytest.TempPathFactory, el4ner: Run) -> Path:
    """An index of the example pool by its gold spans: it needs no model, and any ensemble can use it."""
    folder = tmp_path_factory.mktemp("gold") / "index"
    done = el4ner(
        "index", ROOT / "examples" / "pool.jsonl", "--output", folder, "--profile", "fake", "--pool-spans", "gold"
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory, el4ner: Run) -> Path:
    """The output of a run by the calibrated method, with the index and what was learnt in its folder `index`."""
    out = tmp_path_factory.mktemp("calibrated") / "out"
    corpus, pool = ROOT / "examples" / "corpus.jsonl", ROOT / "examples" / "pool.jsonl"
    done = el4ner("annotate", corpus, "--pool", pool, "--output", out, *CALIBRATED)
    assert done.returncode == 0, done.stderr
    assert "calibration: annotating" in done.stderr
    assert "calibration: on held-out pool sentences" in done.stderr
    return out


@pytest.fixture(scope="session")
def ner_data() -> Path:
    """Folder of the NER data sets, which are not part of the project."""
    if not DATA.is_dir():
        pytest.skip(f"no NER data sets in {DATA}; set EL4NER_DATA")
    return DATA


def until(condition: Callable[[], bool], seconds: float = 300, told: Callable[[], object] = lambda: "") -> None:
    """Wait for a condition; an AssertionError with what is `told` then, where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


@contextmanager
def held_ports(number: int) -> Iterator[list[int]]:
    """Different ports of this machine that nobody listens on, nor is given while the context lasts.

    Those who ask for them by number and set SO_REUSEADDR, as `el4ner serve` does, can listen there meanwhile.
    """
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", 0))
        yield [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    """A port of this machine that nobody listens on; it may be given to another at once."""
    with held_ports(1) as (port,):
        return port


def write_empty_index(folder: Path, built_from: Mapping[str, Any]) -> None:
    """An index that opens and says that it was built from this, and holds no sentence."""
    nothing = SimpleNamespace(embed=lambda _: np.zeros((0, 3), np.float32))
    write_index(str(folder), [], [], cast(Embedder, nothing), built_from)


def write_jsonl(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Rows as JSON lines, in ASCII so that any code point can be written."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path

"""A corpus, the real command line on it, ways to hurt a run, and the comparison with a run that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pyarrow.parquet as pq
import yaml

from el4ner_ray.schema import DOC_ID, PART
from tests.conftest import ROOT, write_jsonl
from tests.processes import marked, started

POLL_SECONDS = 0.1
_WAIT = threading.Event()

# Command lines of the processes of a run, as Ray titles them.
ENGINE_REPLICA, STAGE_ACTOR = "ray::ServeReplica:el4ner-", "ray::MapWorker("

Rows = dict[tuple[str, int], dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """Rows of the undisturbed run that are missing; rows that stand twice or should not be there; rows that differ."""

    lost: int
    duplicated: int
    wrong: int


class Bench:
    """A folder with a corpus of `documents` short texts, and an `index` by gold spans, which any profile can use."""

    def __init__(self, folder: Path, documents: int, index: Path, profile: str = "fake") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.index, self.profile = folder, index, profile
        texts = (f"Anna Berg met Ben in Oslo, year {i}. Then {_name(i)} left." for i in range(documents))
        self.corpus = write_jsonl(folder / "in.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(texts)])

    def start(self, output: Path, *, environment: dict[str, str] | None = None, **fake: Any) -> Annotation:
        """`el4ner annotate` of the corpus, with these settings of the scripted engine (real ones do not mind them)."""
        settings = {
            "fake": {"latency_ms": 700} | fake,
            "limits": {"batch_documents": 4, "documents_per_file": 8, "retries": 12},
        }
        config = self.folder / f"{output.name}.yaml"
        config.write_text(yaml.safe_dump(settings))
        arguments = ("annotate", self.corpus, "--pool", self.index, "--pool-spans", "gold")
        arguments += ("--profile", self.profile)
        return Annotation(command(*arguments, "--output", output, "--config", config), output, environment)

    def finish(self, output: Path, **more: Any) -> Annotation:
        """The same to its end, which must be a good one."""
        with self.start(output, **more) as run:
            if run.wait() != 0:
                raise AssertionError(f"exit status {run.process.returncode}: {run.told()}")
            return run


class Annotation:
    """A running `el4ner annotate`; it ends, with everything that it started, where the context does."""

    def __init__(self, command: list[str], output: Path, environment: dict[str, str] | None) -> None:
        self.output = output
        self.mark = f"{output}-{time.monotonic_ns()}"
        self._stderr = output.with_name(f"{output.name}.stderr")
        with ExitStack() as held:
            told = held.enter_context(self._stderr.open("w"))
            pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": told, "text": True, "cwd": ROOT}
            self.process = held.enter_context(started(command, self.mark, os.environ | (environment or {}), **pipes))
            self._held = held.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def told(self) -> str:
        """What it has written to standard error."""
        return self._stderr.read_text()

    def until(self, line: str, seconds: float = 600) -> bool:
        """Wait until it has told a line that starts so; False if it ended before."""
        end = time.monotonic() + seconds
        while not any(told.startswith(line) for told in self.told().splitlines()):
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                raise AssertionError(f"no line {line!r} within {seconds} s: {self.told()}")
            _WAIT.wait(POLL_SECONDS)
        return True

    def sleep(self, seconds: float) -> bool:
        """Let it work for so long; False if it ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            _WAIT.wait(POLL_SECONDS)
        return self.process.poll() is None

    def wait(self, seconds: float = 900) -> int:
        """Its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not done within {seconds} s: {self.told()}") from None

    def processes(self, title: str) -> list[psutil.Process]:
        """Its living processes whose title starts so."""
        return [process for process in marked(self.mark) if _title(process).startswith(title)]


def files(output: Path) -> list[Path]:
    """The committed annotation files."""
    return sorted((output / "annotations").glob("*.parquet"))


def rows(output: Path) -> tuple[Rows, int]:
    """The rows by key, and how many stand more than once. Reads every committed file, error files too."""
    for file in (output / "errors").glob("*.parquet"):
        pq.read_table(file)
    found = [row for file in files(output) for row in pq.read_table(file).to_pylist()]
    counts = Counter((row[DOC_ID], row[PART]) for row in found)
    return {(row[DOC_ID], row[PART]): row for row in found}, sum(counts.values()) - len(counts)


def compare(output: Path, undisturbed: Path) -> Difference:
    """How an output differs from that of a run that was left alone."""
    wanted, _ = rows(undisturbed)
    found, doubled = rows(output)
    surplus = len(found.keys() - wanted.keys())
    wrong = sum(found[key] != wanted[key] for key in found.keys() & wanted.keys())
    orphans = {path.name for path in (output / "errors").glob("*")} - {path.name for path in files(output)}
    return Difference(len(wanted.keys() - found.keys()), doubled + surplus + len(orphans), wrong)


def run_file(output: Path) -> dict[str, Any]:
    """The content of run.json."""
    content: dict[str, Any] = json.loads((output / "run.json").read_text())
    return content


def command(*arguments: str | Path) -> list[str]:
    """The words that run the command line."""
    return [sys.executable, "-m", "el4ner_ray", *map(str, arguments)]


def _name(number: int) -> str:
    return f"{'ABCDEFGH'[number % 8]}{'aeiou'[number % 5]}{'lmnrst'[number % 6]}a Lund"


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""

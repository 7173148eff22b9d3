"""`el4ner` as a process whose memory and CPU time are watched."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

# A look at 30 processes takes 9 ms on an AMD Zen 3, which two busy cores cannot give for nothing.
_POLL_SECONDS = 2.0


@dataclass
class Watched:
    """What the processes of a command took, as it is seen every two seconds.

    Attributes:
        memory: bytes that they held together at each look, without what they share.
        seconds: CPU time of each process, by its id.
        course: at each look, seconds since 1970 and the CPU time of each process until then, by its id.
        names: what each process is, the last time that it did anything.
    """

    memory: list[int] = field(default_factory=lambda: [0])
    seconds: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    course: list[tuple[float, dict[int, float]]] = field(default_factory=list)

    def look(self, pid: int) -> None:
        """Look at a process and all below it."""
        family, held = family_of(pid), 0
        if not family:
            return
        for process in family:
            try:
                times, words, memory = process.cpu_times(), process.cmdline(), process.memory_info()
            except psutil.NoSuchProcess:
                continue
            held += memory.rss - memory.shared
            self.seconds[process.pid] = times.user + times.system
            if words and "ray::IDLE" not in words[0]:
                self.names[process.pid] = "driver" if process.pid == pid else kind_of(words[0])
        self.memory.append(held)
        self.course.append((time.time(), dict(self.seconds)))

    def cores_busy(self, began: float, ended: float) -> float:
        """Between two times, in seconds since 1970, as the looks nearest to them saw it."""
        (first, before), (last, after) = self._looks(began, ended)
        return (sum(after.values()) - sum(before.values())) / (last - first)

    def cpu_shares(self, began: float, ended: float) -> dict[str, float]:
        """The cores that each kind of process kept busy, between the same two times."""
        (first, before), (last, after) = self._looks(began, ended)
        taken = {pid: seconds - before.get(pid, 0.0) for pid, seconds in after.items()}
        return {kind: seconds / (last - first) for kind, seconds in self._by_kind(taken).items()}

    @property
    def peak_bytes(self) -> int:
        """The most memory that they held."""
        return max(self.memory)

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """CPU time by kind of process."""
        return self._by_kind(self.seconds)

    def _looks(self, *times: float) -> Iterator[tuple[float, dict[int, float]]]:
        return (min(self.course, key=lambda look: abs(look[0] - moment)) for moment in times)

    def _by_kind(self, seconds: Mapping[int, float]) -> dict[str, float]:
        total: Counter[str] = Counter()
        for pid, taken in seconds.items():
            total[self.names.get(pid, "ray")] += taken
        return dict(total)


@dataclass(frozen=True)
class Run:
    """What a run left: its folder and run.json; and what its processes took."""

    output: Path
    content: dict[str, Any]
    watched: Watched


def annotate(
    folder: Path,
    corpus: Path,
    pool: Path,
    output: str,
    config: Mapping[str, Any],
    program: str = "el4ner_ray",
    seconds: float = math.inf,
    watched: Watched | None = None,
) -> Run:
    """`el4ner annotate` into `folder/output`, anew; stopped in good order when it takes more than `seconds`."""
    target = folder / output
    # `--force` would keep the results of every earlier run beside the new ones.
    if target.exists():
        shutil.rmtree(target)
    arguments = ("annotate", corpus, "--pool", pool, "--output", target)
    watched = el4ner(folder, output, config, *arguments, program=program, seconds=seconds, watched=watched)
    return Run(target, json.loads((target / "run.json").read_text("utf-8")), watched)


def el4ner(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    *arguments: str | Path,
    program: str = "el4ner_ray",
    seconds: float = math.inf,
    watched: Watched | None = None,
) -> Watched:
    """Run the command line to its end; what its processes took.

    `name` is that of the files with its configuration and with what it told, `program` the module that is el4ner. After
    `seconds` it gets SIGTERM. `watched` looks at it, where it is to see more than the processes below the command.
    Raises CalledProcessError when it fails.
    """
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(config)), "utf-8")
    command = [sys.executable, "-m", program, *map(str, arguments), "--config", str(file)]
    told_in = folder / f"{name}.log"
    with told_in.open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        watched, deadline, stopped = watched or Watched(), time.monotonic() + seconds, False
        try:
            while process.poll() is None:
                if not stopped and time.monotonic() > deadline:
                    process.terminate()
                    stopped = True
                watched.look(process.pid)
                time.sleep(_POLL_SECONDS)
        finally:
            # Whatever ends the watching ends what is watched, with Ray and the engines.
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode and not (stopped and process.returncode == 128 + signal.SIGTERM):
        raise subprocess.CalledProcessError(process.returncode, command, told_in.read_text("utf-8"))
    return watched


def memory_of(pid: int) -> int:
    """Bytes that a process and all below it hold; 0 when it has ended.

    Without what they share: libraries, and Ray's object store, of which a run has 1 GiB.
    """
    held = 0
    for process in family_of(pid):
        with suppress(psutil.NoSuchProcess):
            memory = process.memory_info()
            held += memory.rss - memory.shared
    return held


def family_of(pid: int) -> list[psutil.Process]:
    """A process and all below it; none when it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def growth(memory: Sequence[int]) -> float:
    """The most memory in the last third of a run, against the most in the middle third."""
    third = len(memory) // 3
    return max(memory[-third:]) / max(memory[third:-third])


def kind_of(title: str) -> str:
    """What a process of Ray is, from its title: a stage, `engines`, `read and write`, or `ray` for Ray's own."""
    if stage := re.match(r"ray::MapWorker\(MapBatches\((\w+)\)", title):
        return stage[1]
    if title.startswith(("ray::ServeReplica:el4ner-", "VLLM::EngineCore")):
        return "engines"
    return "read and write" if re.match(r"ray::\S*(Read|Write)", title) else "ray"

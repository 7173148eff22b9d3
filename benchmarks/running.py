"""`el4ner` as a process whose memory is watched."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Run:
    """What a run left: its folder and run.json; and the memory that it held, second by second."""

    output: Path
    content: dict[str, Any]
    memory: list[int]

    @property
    def peak_bytes(self) -> int:
        """The most memory that it held."""
        return max(self.memory)


def annotate(
    folder: Path,
    corpus: Path,
    pool: Path,
    output: str,
    config: Mapping[str, Any],
    program: str = "el4ner_ray",
    seconds: float = math.inf,
) -> Run:
    """`el4ner annotate` into `folder/output`, anew; stopped in good order when it takes more than `seconds`."""
    target = folder / output
    arguments = ("annotate", corpus, "--pool", pool, "--output", target, "--force")
    memory = el4ner(folder, output, config, *arguments, program=program, seconds=seconds)
    return Run(target, json.loads((target / "run.json").read_text("utf-8")), memory)


def el4ner(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    *arguments: str | Path,
    program: str = "el4ner_ray",
    seconds: float = math.inf,
) -> list[int]:
    """Run the command line to its end; the bytes that its processes held together each second, without what they share.

    `name` is that of the files with its configuration and with what it told, `program` the module that is el4ner. After
    `seconds` it gets SIGTERM. Raises CalledProcessError when it fails.
    """
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(config)), "utf-8")
    command = [sys.executable, "-m", program, *map(str, arguments), "--config", str(file)]
    told_in = folder / f"{name}.log"
    with told_in.open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        memory, deadline, stopped = [0], time.monotonic() + seconds, False
        while process.poll() is None:
            if not stopped and time.monotonic() > deadline:
                process.terminate()
                stopped = True
            memory.append(sum(_private_bytes(process.pid)))
            time.sleep(_POLL_SECONDS)
    if process.returncode and not (stopped and process.returncode == 128 + signal.SIGTERM):
        raise subprocess.CalledProcessError(process.returncode, command, told_in.read_text("utf-8"))
    return memory


def _private_bytes(pid: int) -> Iterator[int]:
    try:
        driver = psutil.Process(pid)
        family = [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            memory = process.memory_info()
            yield memory.rss - memory.shared
        except psutil.NoSuchProcess:
            continue

"""`el4ner` as a process whose memory is watched."""

from __future__ import annotations

import json
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
    """What a run left: its folder and run.json; and the most memory that it held."""

    output: Path
    content: dict[str, Any]
    peak_bytes: int


def annotate(
    folder: Path, corpus: Path, pool: Path, output: str, config: Mapping[str, Any], program: str = "el4ner_ray"
) -> Run:
    """`el4ner annotate` into `folder/output`, anew."""
    target = folder / output
    arguments = ("annotate", corpus, "--pool", pool, "--output", target, "--force")
    peak = el4ner(folder, output, config, *arguments, program=program)
    return Run(target, json.loads((target / "run.json").read_text("utf-8")), peak)


def el4ner(
    folder: Path, name: str, config: Mapping[str, Any], *arguments: str | Path, program: str = "el4ner_ray"
) -> int:
    """Run the command line to its end; the most bytes that its processes held together, without what they share.

    `name` is that of the files with its configuration and with what it told, `program` the module that is el4ner.
    Raises CalledProcessError when it fails.
    """
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(config)), "utf-8")
    command = [sys.executable, "-m", program, *map(str, arguments), "--config", str(file)]
    told_in = folder / f"{name}.log"
    with told_in.open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(_private_bytes(process.pid)))
            time.sleep(_POLL_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, told_in.read_text("utf-8"))
    return peak


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

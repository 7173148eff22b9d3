"""`el4ner serve` for tests: as a process with Ray, and its scripted engines without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from el4ner_ray.config import JobConfig
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.fake import ScriptedEngine
from tests.conftest import ROOT, held_ports, until
from tests.processes import started

SECONDS_TO_START, SECONDS_TO_STOP = 600, 60


class InProcessEnsemble:
    """The engines of the fake profile without Ray Serve: no merging, no retries."""

    def __init__(self, config: JobConfig) -> None:
        self._engines = {name: ScriptedEngine(name, config.fake) for name in config.model_names}

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        return await self._engines[model].generate(requests) if requests else []


@dataclass(frozen=True)
class Server:
    """A running `el4ner serve`; what it says is in `log`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


@contextmanager
def served(folder: Path, *options: str | Path, key: str) -> Iterator[Server]:
    """The command with profile fake on a free port, until the context ends; it listens when the context begins."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "el4ner_ray", "serve", "--profile", "fake"]
    environment = os.environ | {"EL4NER_API_KEY": key}
    with held_ports(1) as (port,), log.open("wb") as output:
        line = [*command, "--port", str(port), *options]
        # To a file: a pipe that nobody reads would hold the server up once it is full.
        pipes: dict[str, Any] = {"stdout": output, "stderr": subprocess.STDOUT, "cwd": ROOT}
        with started(line, str(folder), environment, **pipes) as process:

            def listens() -> bool:
                assert process.poll() is None, log.read_text("utf-8")
                return "listening on" in log.read_text("utf-8")

            until(listens, SECONDS_TO_START, lambda: log.read_text("utf-8"))
            yield Server(process, f"http://127.0.0.1:{port}", log)
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS_TO_STOP)

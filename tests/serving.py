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

from el4ner_ray.config import JobConfig
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.fake import ScriptedEngine
from tests.conftest import ROOT, free_port

SECONDS_TO_STOP = 60


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
    port = free_port()
    log = folder / "serve.log"
    command = [sys.executable, "-m", "el4ner_ray", "serve", "--profile", "fake", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            stdout=output,
            stderr=subprocess.PIPE,
            env=os.environ | {"EL4NER_API_KEY": key},
            start_new_session=True,
            cwd=ROOT,
        )
        assert process.stderr
        try:
            for line in process.stderr:
                output.write(line)
                output.flush()
                if b"listening on" in line:
                    break
            assert process.poll() is None, log.read_text("utf-8")
            yield Server(process, f"http://127.0.0.1:{port}", log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                output.write(process.communicate(timeout=SECONDS_TO_STOP)[1])
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise

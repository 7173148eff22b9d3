"""`ray job submit` on a real local cluster runs the thin entry points in jobs/."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, write_jsonl

pytestmark = pytest.mark.timeout(500)

RAY = str(Path(sys.executable).with_name("ray"))
Submit = Callable[..., str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def submit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submit]:
    """A cluster of one node, started as on a head node, with a token; yields `ray job submit` to it."""
    ports = {name: free_port() for name in ("port", "dashboard-port", "ray-client-server-port")}
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=2", "--dashboard-host=127.0.0.1",
        "--node-ip-address=127.0.0.1", "--object-store-memory=300000000",
        f"--temp-dir={tmp_path_factory.mktemp('ray')}", *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    head = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert head.stdout is not None
    for line in head.stdout:
        if "Ray runtime started" in line:
            break

    def run(*entrypoint: object) -> str:
        address = f"--address=http://127.0.0.1:{ports['dashboard-port']}"
        done = subprocess.run(
            [RAY, "job", "submit", address, "--", *map(str, entrypoint)],
            env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    yield run
    os.killpg(head.pid, signal.SIGTERM)
    head.communicate(timeout=60)


def test_index_and_annotate_as_jobs(submit: Submit, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": str(i), "text": f"Anna met Ben {i}."} for i in range(20)])
    index, output = tmp_path / "index", tmp_path / "out"
    pool, profile = ROOT / "examples" / "pool.jsonl", ("--profile", "fake")
    logs = submit(sys.executable, ROOT / "jobs" / "build_index.py", pool, "--output", index, *profile)
    assert "index of 201 sentences" in logs
    logs = submit(
        sys.executable, ROOT / "jobs" / "annotate.py", corpus, "--pool", index, "--output", output, *profile
    )  # fmt: skip
    assert "20 ok" in logs
    assert json.loads((output / "run.json").read_text())["documents"]["ok"] == 20
    assert sum(pq.read_metadata(file).num_rows for file in (output / "annotations").glob("*.parquet")) == 20

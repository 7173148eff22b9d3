"""`ray job submit` on a real local cluster runs the thin entry points in jobs/."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.conftest import ROOT, write_jsonl

pytestmark = pytest.mark.timeout(500)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one node, started as on a real head node; yields the address of its job server."""
    ports = {name: free_port() for name in ("port", "dashboard-port", "ray-client-server-port")}
    folder = tmp_path_factory.mktemp("ray")
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1", "--object-store-memory=300000000",
        f"--temp-dir={folder}", *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Ray runtime started" in line:
            break
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    yield address
    os.killpg(process.pid, 15)
    process.wait(60)


def run_job(client: JobSubmissionClient, entrypoint: str) -> str:
    """Submit, wait for the end, and return the logs; fails unless the job succeeded."""
    job = client.submit_job(entrypoint=entrypoint)
    deadline = 200
    for _ in client_statuses(client, job, deadline):
        pass
    logs: str = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, logs[-3000:]
    return logs


def client_statuses(client: JobSubmissionClient, job: str, seconds: float) -> Iterator[JobStatus]:
    import threading

    tick = threading.Event()
    for _ in range(int(seconds)):
        status = client.get_job_status(job)
        if status.is_terminal():
            return
        yield status
        tick.wait(1.0)
    pytest.fail(f"the job took more than {seconds} s: {client.get_job_logs(job)[-3000:]}")


def test_index_and_annotate_as_jobs(cluster: str, tmp_path: Path) -> None:
    client = JobSubmissionClient(cluster)
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": str(i), "text": f"Anna met Ben {i}."} for i in range(20)])
    index, output = tmp_path / "index", tmp_path / "out"
    python, pool = sys.executable, ROOT / "examples" / "pool.jsonl"
    logs = run_job(client, f"{python} {ROOT}/jobs/build_index.py {pool} --output {index} --profile fake")
    assert "index of 201 sentences" in logs
    logs = run_job(client, f"{python} {ROOT}/jobs/annotate.py {corpus} --pool {index} --output {output} --profile fake")
    assert re.search(r"20 ok", logs)
    assert json.loads((output / "run.json").read_text())["documents"]["ok"] == 20
    assert sum(pq.read_metadata(file).num_rows for file in (output / "annotations").glob("*.parquet")) == 20

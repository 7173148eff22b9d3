"""`ray job submit` on a real local cluster runs the thin entry points in jobs/."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import ROOT, held_ports, until, write_jsonl
from tests.processes import started

pytestmark = pytest.mark.timeout(1200)

FAKE = ("--profile", "fake", "--pool-spans", "gold")
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Cluster:
    """Where the job server listens, and an environment with its token."""

    address: str
    environment: dict[str, str]

    def ray(self, command: str, *arguments: object) -> str:
        """What `ray job COMMAND` prints; it must go well."""
        line = [RAY, "job", command, f"--address={self.address}", *map(str, arguments)]
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def takes_jobs(self) -> bool:
        """Whether a job that does nothing can be run."""
        line = [RAY, "job", "submit", f"--address={self.address}", "--", "true"]
        return subprocess.run(line, env=self.environment, capture_output=True, timeout=600).returncode == 0

    def applications(self) -> list[str]:
        """Names of what Ray Serve runs."""
        request = urllib.request.Request(f"{self.address}/api/serve/applications/")
        request.add_header("Authorization", f"Bearer {self.environment['RAY_AUTH_TOKEN']}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return list(json.load(answer)["applications"])

    def submit(self, *entrypoint: object) -> str:
        """The logs of a job that is submitted and waited for."""
        return self.ray("submit", "--", *entrypoint)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node, started as on a head node, with a token."""
    # The session's sockets lie below it, and a socket's path may have 107 bytes: pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="el4ner", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield from _cluster(folder)


def _cluster(folder: str) -> Iterator[Cluster]:
    # The agent that starts jobs goes without its server where another session of Ray has its usual port.
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    with held_ports(len(names)) as free:
        ports = dict(zip(names, free, strict=True))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = os.environ | token | {"RAY_JOB_STOP_WAIT_TIME_S": "60"}  # as in cluster.yaml
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=2", "--dashboard-host=127.0.0.1",
        "--node-ip-address=127.0.0.1", "--object-store-memory=300000000",
        f"--temp-dir={folder}", *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    cluster = Cluster(f"http://127.0.0.1:{ports['dashboard-port']}", environment)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with started(command, folder, environment, **pipes) as head:
        assert head.stdout is not None
        for line in head.stdout:
            assert "Failed to start the dashboard" not in line
            if "Ray runtime started" in line:
                break
        # The agent that starts jobs registers after the head is up; Ray refuses jobs that come 10 s before it.
        until(cluster.takes_jobs)
        yield cluster
        os.killpg(head.pid, signal.SIGTERM)
        head.communicate(timeout=60)


@pytest.fixture(scope="module")
def index(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that a job built."""
    folder, pool = tmp_path_factory.mktemp("jobs") / "index", ROOT / "examples" / "pool.jsonl"
    logs = cluster.submit(sys.executable, ROOT / "jobs" / "build_index.py", pool, "--output", folder, *FAKE)
    assert "index of 201 sentences" in logs
    return folder


def committed(output: Path) -> list[Path]:
    return sorted((output / "annotations").glob("*.parquet"))


def test_annotate_stop_resume_and_evaluate_as_jobs(cluster: Cluster, index: Path, tmp_path: Path) -> None:
    gold = [
        {"id": str(i), "text": f"Anna met Ben {i}.", "entities": [{"start": 0, "end": 4, "type": "person"}]}
        for i in range(40)
    ]
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": row["id"], "text": row["text"]} for row in gold])
    config, output = tmp_path / "job.yaml", tmp_path / "out"
    limits = {"batch_documents": 2, "batches_in_flight": 1, "documents_per_file": 2}
    config.write_text(yaml.safe_dump({"limits": limits, "fake": {"latency_ms": 1000}}))
    annotate = (sys.executable, ROOT / "jobs" / "annotate.py", corpus, "--pool", index, "--output", output, *FAKE)
    cluster.ray("submit", "--no-wait", "--submission-id=stopped", "--", *annotate, "--config", config)
    until(lambda: bool(committed(output)), seconds=180)
    assert len(cluster.applications()) == 3
    cluster.ray("stop", "stopped")
    assert "was stopped" in cluster.ray("status", "stopped")
    # Engines that a stopped job leaves behind would hold their GPUs for ever.
    until(lambda: cluster.applications() == [], seconds=180)
    kept = {path: path.read_bytes() for path in committed(output)}
    assert 0 < sum(pq.read_metadata(path).num_rows for path in kept) < 40

    logs = cluster.submit(*annotate)
    assert "40 ok" in logs
    assert {path: path.read_bytes() for path in committed(output) if path in kept} == kept
    ids = [row["doc_id"] for path in committed(output) for row in pq.read_table(path, columns=["doc_id"]).to_pylist()]
    assert sorted(ids, key=int) == [str(i) for i in range(40)]

    write_jsonl(tmp_path / "gold.jsonl", gold)
    evaluate = (sys.executable, ROOT / "jobs" / "evaluate.py", output, "--gold", tmp_path / "gold.jsonl")
    assert "all types" in cluster.submit(*evaluate)


def test_bench_prints_what_it_measured(cluster: Cluster, index: Path, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": str(i), "text": f"Anna met Ben {i}."} for i in range(20)])
    bench = (sys.executable, ROOT / "jobs" / "bench.py", corpus, "--pool", index, "--output", tmp_path / "out")
    logs = cluster.submit(*bench, *FAKE, "--quiet")
    told = json.loads(logs[logs.index("\n{\n") : logs.rindex("\n}\n") + 3])
    assert told["documents"]["ok"] == 20
    assert told["sentences_per_second"] > 0
    assert told["cores"] >= 1
    assert told == json.loads((tmp_path / "out" / "run.json").read_text())

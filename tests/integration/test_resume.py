"""Runs that end early, on real Ray with the scripted engine: nothing is lost or doubled, and no process is left."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, Run, until, write_jsonl
from tests.integration.test_fake_run import rows_of
from tests.processes import marked, started

pytestmark = pytest.mark.timeout(1200)


def test_a_run_resumed_with_other_batches_gives_the_same_annotations(
    tmp_path: Path, el4ner: Run, gold_index: Path
) -> None:
    corpus = ROOT / "examples" / "corpus.jsonl"
    arguments = ("annotate", corpus, "--pool", gold_index, "--pool-spans", "gold", "--profile", "fake")
    first, partial = tmp_path / "first", tmp_path / "partial"
    config = tmp_path / "job.yaml"
    config.write_text("limits: {documents_per_file: 5}")
    done = el4ner(*arguments, "--output", first, "--config", config)
    assert done.returncode == 0, done.stderr

    # As if the run had died before it finished: some files are there, others are not.
    shutil.copytree(first, partial)
    files = sorted((partial / "annotations").glob("*.parquet"))
    assert len(files) > 2
    for file in files[::2]:
        file.unlink()
    kept = {file: file.read_bytes() for file in files[1::2]}
    # What travels together is decided by the configuration, and changes no annotation.
    config.write_text("limits: {documents_per_file: 5, batch_documents: 3, retrievers: 2}")
    resumed = el4ner(*arguments, "--output", partial, "--config", config)
    assert resumed.returncode == 0, resumed.stderr
    assert "annotated already" in resumed.stderr
    assert rows_of(partial) == rows_of(first)
    assert all(file.read_bytes() == content for file, content in kept.items())

    changed = el4ner(*arguments, "--output", partial, "--k", "3")
    assert changed.returncode == 2
    assert "different demonstrations.k" in changed.stderr
    assert el4ner(*arguments, "--output", partial, "--no-resume").returncode == 2
    forced = el4ner(*arguments, "--output", partial, "--k", "3", "--force")
    assert forced.returncode == 0, forced.stderr
    (superseded,) = partial.glob("superseded-*")
    assert rows_of(superseded) == rows_of(first)


def test_passing_faults_are_retried_and_lasting_ones_cost_only_the_status(
    tmp_path: Path, el4ner: Run, gold_index: Path
) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": str(i), "text": f"Anna met Ben {i}."} for i in range(40)])
    arguments = ("annotate", corpus, "--pool", gold_index, "--profile", "fake", "--pool-spans", "gold")
    config = tmp_path / "job.yaml"
    config.write_text("fake: {failure_rate: 0.3}\nlimits: {retries: 12}")
    done = el4ner(*arguments, "--output", tmp_path / "retried", "--config", config)
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in rows_of(tmp_path / "retried")} == {"ok"}

    config.write_text("fake: {failure_rate: 1.0}\nlimits: {retries: 0}")
    done = el4ner(*arguments, "--output", tmp_path / "failed", "--config", config)
    assert done.returncode == 1
    assert "more than --max-failed 0 allows" in " ".join(done.stderr.split())
    rows = rows_of(tmp_path / "failed")
    assert len(rows) == 40
    assert {row["status"] for row in rows} == {"failed"}
    assert all("scripted fault" in row["error"] for row in rows)

    config.write_text("fake: {failure_rate: 0.0}")
    done = el4ner("retry", tmp_path / "failed", "--config", config)
    assert done.returncode == 0, done.stderr
    assert "40 documents are not ok and are annotated again" in done.stderr
    assert rows_of(tmp_path / "failed") == rows_of(tmp_path / "retried")
    assert list((tmp_path / "failed" / "errors").iterdir()) == []
    assert not (tmp_path / "failed" / "retry").exists()
    run = json.loads((tmp_path / "failed" / "run.json").read_text())
    assert run["documents"] == {"total": 40, "ok": 40, "partial": 0, "failed": 0}
    assert len(run["sessions"]) == 2


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_and_resumes_with_nothing_lost_or_doubled(
    how: signal.Signals, tmp_path: Path, el4ner: Run, gold_index: Path
) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": str(i), "text": f"Anna met Ben {i}."} for i in range(40)])
    config, output, mark = tmp_path / "job.yaml", tmp_path / "out", str(tmp_path)
    config.write_text(
        "fake: {latency_ms: 1500}\nlimits: {documents_per_file: 4, batch_documents: 4, batches_in_flight: 2}"
    )
    arguments = ["annotate", str(corpus), "--pool", str(gold_index), "--pool-spans", "gold", "--profile", "fake"]
    arguments += ["--output", str(output), "--config", str(config)]
    told = tmp_path / "stderr"
    with (
        told.open("w") as stderr,
        started(
            [sys.executable, "-m", "el4ner_ray", *arguments], mark, stderr=stderr, stdout=subprocess.DEVNULL
        ) as process,
    ):

        def commits() -> bool:
            assert process.poll() is None, told.read_text()
            return bool(list(output.glob("annotations/*.parquet")))

        until(commits, 600, told.read_text)
        assert len(marked(mark)) > 5
        process.send_signal(how)
        assert process.wait(30) == (128 + how if how == signal.SIGTERM else -how)
        # Ray's own agents follow its raylet within seconds; what was started must be gone when the 30 s are over.
        _, alive = psutil.wait_procs(marked(mark), timeout=30)
        assert not alive
    committed = len(rows_of(output))
    assert 0 < committed < 40
    assert el4ner(*arguments).returncode == 0
    assert sorted(int(row["doc_id"]) for row in rows_of(output)) == list(range(40))

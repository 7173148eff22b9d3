"""What a run with failing engines tells while it goes on: log lines of its workers, and a trace of each document."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.conftest import Run, write_jsonl

pytestmark = pytest.mark.timeout(1200)

DOCUMENTS = {f"doc-{i}": f"Zacharias Quux met Ben in Oslo, year {i}." for i in range(12)}
STAGES = ("segment", "pre_extract", "retrieve", "extract", "classify", "verify")
# Half of all calls fail, and are tried once more.
SETTINGS: dict[str, Any] = {
    "fake": {"failure_rate": 0.5},
    "limits": {"retries": 1, "batch_documents": 4, "documents_per_file": 4},
}


class Collector(ThreadingHTTPServer):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        told = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.spans += [s for r in told.resource_spans for scope in r.scope_spans for s in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest's output is for people."""


@dataclass(frozen=True)
class Observed:
    output: Path
    spans: list[Span]
    worker_logs: str

    def lines(self) -> list[dict[str, Any]]:
        """What the project's own loggers said in Ray's workers."""
        lines = [json.loads(line) for line in self.worker_logs.splitlines() if line.startswith("{")]
        return [line for line in lines if line["name"].startswith("el4ner_ray")]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, el4ner: Run, gold_index: Path) -> Iterator[Observed]:
    """One run with a line that cannot be read and engines that fail, its session's log files and its spans."""
    folder = tmp_path_factory.mktemp("observed")
    corpus = write_jsonl(folder / "in.jsonl", [{"id": key, "text": text} for key, text in DOCUMENTS.items()])
    corpus.write_text(corpus.read_text() + '{"id": "Zacharias", "text": 7}\n')
    (folder / "job.yaml").write_text(yaml.safe_dump(SETTINGS))
    collector = Collector()
    Thread(target=collector.serve_forever, daemon=True).start()
    # Sockets lie below Ray's folder, and a socket's path may have 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="el4ner", dir="/tmp", ignore_cleanup_errors=True) as session,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("RAY_TMPDIR", session)
        environment.setenv("OTEL_TRACES_EXPORTER", "otlp")
        environment.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        done = el4ner(
            "annotate", corpus, "--pool", gold_index, "--output", folder / "out", "--profile", "fake",
            "--config", folder / "job.yaml", "--pool-spans", "gold", "--max-failed", "1000",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        logs = "".join(path.read_text() for path in Path(session).glob("ray/session_*/logs/worker-*.err"))
    yield Observed(folder / "out", collector.spans, logs)
    collector.shutdown()
    collector.server_close()


def test_lines_about_documents_tell_which_stage_and_model(observed: Observed) -> None:
    failed = Counter[tuple[Any, ...]]()
    for file in (observed.output / "errors").glob("*.parquet"):
        for row in pq.read_table(file).to_pylist():
            failed[row["doc_id"], row["stage"], row["model"], row["kind"]] += 1
    told = {
        (line["document"], line["stage"], line.get("model"), line["kind"]): line["failures"]
        for line in observed.lines()
        if "document" in line
    }
    assert told == failed
    assert {stage for _, stage, _, _ in told} >= {"read", "pre_extract", "extract"}


def test_calls_that_are_made_again_tell_the_documents_of_their_batch(observed: Observed) -> None:
    again = [line for line in observed.lines() if line["message"].startswith("Retrying")]
    assert again
    for line in again:
        assert line["stage"] in STAGES
        assert line["model"] in ("fake-a", "fake-b", "fake-c")
        assert 0 < len(line["documents"]) <= 4
        assert set(line["documents"]) <= {*DOCUMENTS, "Zacharias"}


def test_no_text_of_a_document_is_logged(observed: Observed) -> None:
    assert "Quux" not in observed.worker_logs


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_document_has_one_trace_through_all_stages(observed: Observed) -> None:
    roots = [span for span in observed.spans if not span.parent_span_id]
    stages, traces = defaultdict(list), defaultdict(set)
    for span in sorted(roots, key=lambda span: span.start_time_unix_nano):
        document = attributes(span)["el4ner.document"]
        stages[document].append(span.name)
        traces[document].add(span.trace_id)
    assert set(DOCUMENTS) < stages.keys()
    assert all(tuple(names) == STAGES for names in stages.values())
    assert all(len(ids) == 1 for ids in traces.values())
    assert len(set.union(*traces.values())) == len(stages)


def test_spans_of_models_stand_in_those_of_their_stage_and_tell_the_costs(observed: Observed) -> None:
    by_id = {span.span_id: span for span in observed.spans}
    costs: Counter[tuple[str, str, str]] = Counter()
    failed = 0
    for span in observed.spans:
        told = attributes(span)
        if span.parent_span_id:
            parent = by_id[span.parent_span_id]
            assert (parent.name, parent.trace_id) == (told["el4ner.stage"], span.trace_id)
            for name in ("requests", "prompt_tokens", "cached_tokens", "generated_tokens"):
                costs[told["el4ner.stage"], told["el4ner.model"], name] += told[f"el4ner.{name}"]
            failed += span.status.code == Status.STATUS_CODE_ERROR
    stages = json.loads((observed.output / "run.json").read_text())["stages"]
    spent = {
        (stage, model, name): usage[name]
        for stage, models in stages.items()
        for model, usage in models.items()
        for name in ("requests", "prompt_tokens", "cached_tokens", "generated_tokens")
    }
    assert costs == spent
    assert failed
    assert "Quux" not in str(observed.spans)

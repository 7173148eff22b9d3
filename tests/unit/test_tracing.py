"""Traces: which exporters, one trace a document in whatever process its stages are, nothing where nobody asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from ray.data import DataContext

from el4ner_ray import tracing
from el4ner_ray.config import load
from el4ner_ray.errors import UsageError
from el4ner_ray.job import check_assets
from el4ner_ray.parts import table_of_parts
from el4ner_ray.schema import Failure, Usage
from el4ner_ray.stages.segment import Segment

STAGES = ("segment", "extract", "verify")
SPENT = {"a": Usage(requests=2, cached_tokens=64), "b": Usage(requests=1)}


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)


def recorded(stage: str, documents: list[str], failures: list[Failure] | None = None) -> list[ReadableSpan]:
    """The spans of a stage in a process of its own."""
    ids, exporter = tracing._TraceIds(), InMemorySpanExporter()
    provider = TracerProvider(id_generator=ids)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = tracing.StageSpans(stage, "run", provider, ids)
    for document in documents:
        spans.record(document, 0, 1_000, 9_000, SPENT, failures or [])
    return list(exporter.get_finished_spans())


class Collector(InMemorySpanExporter):
    """Takes spans once it is `open`."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.open.wait()
        return super().export(spans)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Where the spans of this process's stages go, behind OpenTelemetry's queue."""
    collector, ids = Collector(), tracing._TraceIds()
    provider = TracerProvider(id_generator=ids)
    provider.add_span_processor(BatchSpanProcessor(collector, schedule_delay_millis=3_600_000))
    monkeypatch.setattr(tracing, "_provider", lambda: (provider, ids))
    yield collector
    collector.open.set()
    provider.shutdown()


def traces(spans: list[ReadableSpan]) -> set[int]:
    return {span.context.trace_id for span in spans}


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": ""}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "console"}, ["console"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_grpc"]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_exporters_are_named_as_opentelemetry_does(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], exporters: list[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing.exporters() == exporters


def test_an_exporter_that_is_not_there_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    with pytest.raises(UsageError, match="'carrier-pigeon'"):
        check_assets(load(profile="fake", overrides={"demonstrations": {"tagger": "none", "embedder": "x/y"}}))


def test_stages_have_spans_only_within_a_run_that_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    with tracing.run():
        assert tracing.of_stage("extract") is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    with tracing.run():
        first = DataContext.get_current().get_config("el4ner.run")
    assert tracing.of_stage("extract") is None
    with tracing.run():
        assert DataContext.get_current().get_config("el4ner.run") != first


def test_stages_of_a_document_agree_on_its_trace_without_telling_each_other() -> None:
    of_documents = [traces([s for stage in STAGES for s in recorded(stage, [name])]) for name in ("d1", "d2", "d\n1")]
    assert [len(found) for found in of_documents] == [1, 1, 1]
    assert len(set.union(*of_documents)) == 3
    assert tracing.trace_id("run", "d1") != tracing.trace_id("another", "d1")


def test_a_span_has_the_time_of_the_batch_and_the_costs_of_the_document() -> None:
    lost = [Failure("engine", "extract", "b", "secret"), Failure("parse", "extract", "a", "secret")]
    a, b, stage = recorded("extract", ["d1"], lost)
    assert (stage.name, stage.parent, stage.start_time, stage.end_time) == ("extract", None, 1_000, 9_000)
    for span, model, requests, status in ((a, "a", 2, StatusCode.UNSET), (b, "b", 1, StatusCode.ERROR)):
        assert span.parent is not None
        assert span.parent.span_id == stage.context.span_id
        told = dict(span.attributes or {})
        assert (told["el4ner.document"], told["el4ner.model"], told["el4ner.requests"]) == ("d1", model, requests)
        assert told["el4ner.failures"] == 1
        assert span.status.status_code == status
        assert "secret" not in span.to_json()


async def segmented(stage: Segment) -> None:
    await stage.annotate(table_of_parts(["d1"], [0], [0], ["Ann met Bo."], [None], batch=0))


def test_spans_are_exported_before_the_rows_go_on(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    # Once they were exported when the actor ended, which nobody waits for: the end of the run took them along.
    collector.open.set()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    stage = Segment(load(profile="fake"))
    with tracing.run():
        asyncio.run(segmented(stage))
    assert [span.name for span in collector.get_finished_spans()] == ["segment"]


def test_a_collector_that_does_not_answer_holds_up_one_batch_and_gets_all_later(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_SECONDS_TO_EXPORT", 0.01)
    spans = tracing.StageSpans("segment", "run", *tracing._provider())

    async def batches() -> None:
        for name in ("d1", "d2", "d3"):
            spans.record(name, 0, 1_000, 9_000, {}, [])
            await spans.export()
        assert not collector.get_finished_spans()
        collector.open.set()
        assert spans._last_flush
        await spans._last_flush
        spans.record("d4", 0, 1_000, 9_000, {}, [])
        await spans.export()

    asyncio.run(batches())
    assert len(collector.get_finished_spans()) == 4


def test_a_sample_has_all_stages_of_some_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    documents = [f"d{i}" for i in range(100)]
    by_stage = [traces(recorded(stage, documents)) for stage in STAGES]
    assert 20 < len(by_stage[0]) < 80
    assert by_stage[0] == by_stage[1] == by_stage[2]

"""One OpenTelemetry trace for each document of a run: a span for each stage, in it one for each model that it asked.

Off, and without cost, unless OTEL_TRACES_EXPORTER names an exporter; the other OTEL_… variables mean what OpenTelemetry
says (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Status, StatusCode, Tracer, set_span_in_context
from ray.data import DataContext

from el4ner_ray.errors import UsageError
from el4ner_ray.schema import Failure, Usage

_RUN = "el4ner.run"
# A collector takes milliseconds. OpenTelemetry tries one that does not answer for 10 s.
_SECONDS_TO_EXPORT = 5
_OF_USAGE = ("requests", "merged", "prompt_tokens", "cached_tokens", "generated_tokens", "seconds")


@contextmanager
def run() -> Iterator[None]:
    """Trace the documents of the data sets that are made in the block, under ids that no earlier run had."""
    context = DataContext.get_current()
    if exporters():
        context.set_config(_RUN, uuid.uuid4().hex)
    try:
        yield
    finally:
        context.remove_config(_RUN)


def exporters() -> list[str]:
    """The entry points that OTEL_TRACES_EXPORTER names; none where it is not set. Raises UsageError."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    named = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",")]
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    otlp = "otlp_proto_http" if protocol == "http/protobuf" else "otlp_proto_grpc"
    wanted = [otlp if name == "otlp" else name for name in named if name not in ("", "none")]
    for name in wanted:
        if not entry_points(group="opentelemetry_traces_exporter", name=name):
            raise UsageError(
                f"OTEL_TRACES_EXPORTER: there is no exporter {name!r} here; `pip install '.[trace]'` in a checkout of "
                "el4ner_ray brings otlp"
            )
    return wanted


class StageSpans:
    """Makes the spans of one stage actor."""

    def __init__(self, stage: str, run: str, provider: TracerProvider, ids: _TraceIds) -> None:
        """`run` tells the traces of this run from those of others; `ids` are the provider's."""
        self._stage, self._run = stage, run
        self._provider, self._ids = provider, ids
        self._tracer: Tracer = provider.get_tracer("el4ner_ray")
        self._thread = ThreadPoolExecutor(1, "spans")
        self._last_flush: asyncio.Future[bool] | None = None

    def record(
        self, document: str, part: int, began: int, ended: int, usage: Mapping[str, Usage], failures: Sequence[Failure]
    ) -> None:
        """The spans of one part of a document: the time that its batch took, in ns since 1970, and its own costs."""
        self._ids.trace = trace_id(self._run, document)
        about: dict[str, str | int | float] = {
            "el4ner.document": document,
            "el4ner.part": part,
            "el4ner.stage": self._stage,
        }
        # Parts of a trace are made in several processes, none of which knows the others' span ids: each stage's span
        # is a root of the trace.
        span = self._tracer.start_span(self._stage, start_time=began, attributes=about)
        parent = set_span_in_context(span)
        for model, spent in usage.items():
            costs = {f"el4ner.{name}": getattr(spent, name) for name in _OF_USAGE}
            lost = sum(failure.model == model for failure in failures)
            of_model = self._tracer.start_span(
                f"{self._stage} {model}",
                context=parent,
                start_time=began,
                attributes={**about, "el4ner.model": model, "el4ner.failures": lost, **costs},
            )
            if any(failure.model == model and failure.kind == "engine" for failure in failures):
                of_model.set_status(Status(StatusCode.ERROR, "requests found no answer"))
            of_model.end(ended)
        span.end(ended)

    async def export(self) -> None:
        """Export what was recorded: nothing waits for an actor's end, so what it held until then would be lost.

        Returns without it when the exporter is slow, which then goes on beside the stage.
        """
        if self._last_flush and not self._last_flush.done():
            return
        flush = asyncio.get_running_loop().run_in_executor(self._thread, self._provider.force_flush)
        await asyncio.wait([flush], timeout=_SECONDS_TO_EXPORT)
        self._last_flush = flush


def of_stage(stage: str) -> StageSpans | None:
    """The spans of a stage in this process; None where the run is not traced."""
    of_run = DataContext.get_current().get_config(_RUN)
    return StageSpans(stage, of_run, *_provider()) if of_run else None


def trace_id(run: str, document: str) -> int:
    """The id of a document's trace, which all processes of a run agree on; 128 bits."""
    digest = hashlib.sha256(f"{run}\0{document}".encode()).digest()
    return int.from_bytes(digest[:16])


class _TraceIds(RandomIdGenerator):
    """Trace ids as they are set, span ids by chance."""

    trace: int

    def generate_trace_id(self) -> int:
        return self.trace


@cache
def _provider() -> tuple[TracerProvider, _TraceIds]:
    ids = _TraceIds()
    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "el4ner")})
    provider = TracerProvider(id_generator=ids, resource=resource)
    for name in exporters():
        (entry,) = entry_points(group="opentelemetry_traces_exporter", name=name)
        provider.add_span_processor(BatchSpanProcessor(entry.load()()))
    return provider, ids

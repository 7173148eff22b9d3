"""What the API does, as Prometheus reads it. What the stages ask is in the metrics of Ray (telemetry.py)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        """They start at 0, in a registry of their own."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "el4ner_http_requests", "Requests by route and status.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "el4ner_http_request_seconds",
            "From a request's arrival to the last byte of its answer.",
            ("path",),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._sentences = Counter("el4ner_sentences", "Sentences that were annotated.", registry=self._registry)
        self._entities = Counter("el4ner_entities", "Entities in answers.", registry=self._registry)
        self._taken = Gauge("el4ner_sentences_in_flight", "In flight or waiting.", registry=self._registry)

    def watch(self, taken: Callable[[], float]) -> None:
        """`taken` says how many sentences are in flight or wait."""
        self._taken.set_function(taken)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request got its last byte, or its client went away."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def annotated(self, sentences: int, entities: int) -> None:
        """A request's sentences are done."""
        self._sentences.inc(sentences)
        self._entities.inc(entities)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)

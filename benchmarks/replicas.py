"""Scenario `replicas`: scripted engines as fast as real ones; how throughput grows with their number.

A replica of the scripted engine works on `calls_at_once`, and the others wait, as they do where a GPU is busy: it is
used fully while the pipeline keeps that many in flight. What it keeps in flight grows with the replicas, as
`limits.batches_in_flight` does in a job that is sized for them. The cores that are busy tell whether the pipeline or
the machine is the limit. Both count from when all engines have started to the run's end: the start of 48 of them on two
cores takes minutes. No part of a run is like another: at first batches only start, at the end they only finish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import scripted
from benchmarks.measured import Figure, ratios
from el4ner_ray.config import load


class Workload(msgspec.Struct, forbid_unknown_fields=True):
    """`batches` of documents for each replica, `in_flight` of them in each stage.

    Every call takes `latency_ms` from when a replica works on it: on `calls_at_once`, or on all that come (None).
    """

    replicas: list[int]
    latency_ms: float
    calls_at_once: int | None
    batches: int
    in_flight: int
    document_sentences: int
    repeats: int
    limits: dict[str, Any]


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """Sentences a second for each number of replicas, and its share of what the smallest number promises."""
    names = scripted.names(1000)
    demonstrations = {"pool_spans": "gold", "tagger": "none"}
    pool = scripted.write_pool(scratch / "pool.jsonl", 500, names)
    index = scripted.build_index(scratch, pool, {"demonstrations": demonstrations})
    profile = load(profile="fake", overrides={"limits": workload.limits})

    def measured(replicas: int) -> tuple[float, float]:
        """Sentences a second, and cores that are busy with them."""
        documents = workload.batches * replicas * profile.limits.batch_documents
        models = [
            model.model_dump(mode="json", exclude_unset=True) | {"replicas": replicas, "cpus": 0.01}
            for model in profile.models
        ]
        config = {
            "demonstrations": demonstrations,
            "models": models,
            "fake": {"latency_ms": workload.latency_ms, "calls_at_once": workload.calls_at_once},
            "limits": workload.limits | {"batches_in_flight": workload.in_flight * replicas},
        }

        corpus = scripted.write_corpus(scratch / "corpus.jsonl", documents, workload.document_sentences, names)
        run = scripted.annotate(scratch, corpus, index, "out", config)
        (session,) = run.content["sessions"]
        ready = datetime.fromisoformat(session["started"]).timestamp() + session["startup_seconds"]
        busy = run.watched.cores_busy(ready, ready + session["wall_seconds"])
        return run.content["sentences_per_second"], busy

    rates: dict[int, list[float]] = {number: [] for number in workload.replicas}
    busy: dict[int, list[float]] = {number: [] for number in workload.replicas}
    for _ in range(workload.repeats):
        for number in workload.replicas:
            rate, cores = measured(number)
            rates[number].append(rate)
            busy[number].append(cores)
    return figures(rates, busy)


def figures(rates: Mapping[int, Sequence[float]], busy: Mapping[int, Sequence[float]]) -> list[Figure]:
    """Sentences a second and busy cores by the number of replicas; of all but the smallest, its share of linear."""
    base = min(rates)
    found = []
    for number in rates:
        found.append(Figure("sentences a second", "1/s", tuple(rates[number]), number))
        if number != base:
            linear = [value * number / base for value in rates[base]]
            found.append(Figure("share of linear", "", ratios(rates[number], linear), number))
        found.append(Figure("cores busy", "", tuple(busy[number]), number))
    return found

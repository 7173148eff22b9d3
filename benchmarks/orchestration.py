"""Scenario `orchestration`: everything that is not a model, with scripted engines that answer at once.

No tagger (it is a model), and names that repeat, so that the embedder has seen nearly all of them before. Rate and CPU
time are those of the last documents: a run of half the size, which has the same start, is taken off. CPU time says more
than the rate on a machine that does something else, too; the scripted engines' own part stands apart.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import commits, scripted
from benchmarks.measured import Figure, ratios
from benchmarks.running import Run


class Workload(msgspec.Struct, forbid_unknown_fields=True):
    """`timed` sentences are measured `repeats` times, the other sizes once, for their memory.

    `config` is laid over the job's configuration, to try block sizes and concurrency.
    """

    sentences: list[int]
    vocabulary: int
    pool: int
    document_sentences: int
    timed: int
    repeats: int
    config: dict[str, Any]


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """Sentences a second and what commits cost at `timed` sentences, and peak memory at every size."""
    names = scripted.names(workload.vocabulary)
    config = workload.config | {
        "demonstrations": {"pool_spans": "gold", "tagger": "none"} | workload.config.get("demonstrations", {})
    }
    index = scripted.build_index(scratch, scripted.write_pool(scratch / "pool.jsonl", workload.pool, names), config)

    def run(sentences: int) -> Run:
        documents = sentences // workload.document_sentences
        file = scratch / f"{sentences}.jsonl"
        corpus = scripted.write_corpus(file, documents, workload.document_sentences, names)
        return scripted.annotate(scratch, corpus, index, f"out-{sentences}", config)

    rates, with_start, peaks, committing = [], [], [], []
    cpu: dict[str, list[float]] = defaultdict(list)
    for repetition in range(workload.repeats):
        half, whole = run(workload.timed // 2), run(workload.timed)
        more = whole.content["sentences"] - half.content["sentences"]
        before = half.watched.cpu_seconds
        for kind, until_then in sorted(whole.watched.cpu_seconds.items()):
            seconds = until_then - before.get(kind, 0.0)
            cpu[kind].append(1000 * seconds / more)
        rates.append(more / (whole.content["wall_seconds"] - half.content["wall_seconds"]))
        with_start.append(whole.content["sentences_per_second"])
        peaks.append(float(whole.watched.peak_bytes))
        seconds = commits.seconds(whole.output, scratch / f"again-{repetition}")
        committing.append(seconds / whole.content["wall_seconds"])
    figures = [
        Figure("sentences a second", "1/s", tuple(rates), workload.timed),
        Figure("with the start", "1/s", tuple(with_start), workload.timed),
        Figure("commits, share of the time", "", tuple(committing), workload.timed),
        Figure("memory", "GB", tuple(peak / 1e9 for peak in peaks), workload.timed),
        *(Figure(f"CPU {kind}", "s/1000 sentences", tuple(values), workload.timed) for kind, values in cpu.items()),
    ]
    for size in workload.sentences:
        if size != workload.timed:
            peak = float(run(size).watched.peak_bytes)
            figures.append(Figure("memory", "GB", (peak / 1e9,), size))
            name = f"memory against {workload.timed} sentences"
            figures.append(Figure(name, "", ratios([peak] * len(peaks), peaks), size))
    return figures

"""Scenario `orchestration`: everything that is not a model, with scripted engines that answer at once.

No tagger (it is a model), and names that repeat, so that the embedder has seen nearly all of them before. Rate and CPU
time are those of a run's middle half, by the times at which its files were committed: at first stages load and batches
only start, at the end they only finish. CPU time says more than the rate on a machine that does something else, too;
the scripted engines' own part stands apart.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import commits, scripted
from benchmarks.measured import Figure
from benchmarks.running import Run


class Workload(msgspec.Struct, forbid_unknown_fields=True):
    """Numbers of sentences are measured `repeats` times up to `timed`, larger ones once.

    Memory is compared with that at `against` sentences. The rate is that at `timed` sentences, several times as many as
    are in the pipeline at once. `config` is laid over the job's configuration, to try block sizes and concurrency.
    """

    sentences: list[int]
    vocabulary: int
    pool: int
    document_sentences: int
    timed: int
    against: int
    repeats: int
    config: dict[str, Any]


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """Sentences a second and what commits cost, and peak memory at every number of sentences."""
    names = scripted.names(workload.vocabulary)
    config = workload.config | {
        "demonstrations": {"pool_spans": "gold", "tagger": "none"} | workload.config.get("demonstrations", {})
    }
    index = scripted.build_index(scratch, scripted.write_pool(scratch / "pool.jsonl", workload.pool, names), config)
    values: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for sentences in sorted({*workload.sentences, workload.timed}):
        documents = sentences // workload.document_sentences
        file = scratch / f"{sentences}.jsonl"
        corpus = scripted.write_corpus(file, documents, workload.document_sentences, names)
        for _ in range(workload.repeats if sentences <= workload.timed else 1):
            run = scripted.annotate(scratch, corpus, index, f"out-{sentences}", config)
            values["memory", "GB", sentences].append(run.watched.peak_bytes / 1e9)
            values["sentences a second, whole run", "1/s", sentences].append(run.content["sentences_per_second"])
            if sentences >= workload.timed:
                rate, cpu = _steady(run, workload.document_sentences)
                values["sentences a second", "1/s", sentences].append(rate)
                for kind, seconds in sorted(cpu.items()):
                    values[f"CPU {kind}", "s/1000 sentences", sentences].append(seconds)
            if sentences == workload.timed:
                share = commits.seconds(run.output, scratch / "again") / run.content["wall_seconds"]
                values["commits, share of the time", "", sentences].append(share)
    figures = [Figure(name, unit, tuple(found), at) for (name, unit, at), found in values.items()]
    base = next((f.median for f in figures if (f.name, f.at) == ("memory", workload.against)), None)
    if base is not None:
        name = f"memory against {workload.against} sentences"
        compared = [f for f in figures if f.name == "memory" and f.at != workload.against]
        figures += [Figure(name, "", tuple(value / base for value in f.values), f.at) for f in compared]
    return figures


def _steady(run: Run, document_sentences: int) -> tuple[float, dict[str, float]]:
    """Sentences a second in the middle half, and the seconds of CPU that 1,000 of them took each kind of process."""
    began, ended, documents = commits.middle_half(run.output)
    rate = documents * document_sentences / (ended - began)
    return rate, {kind: 1000 * cores / rate for kind, cores in run.watched.cpu_shares(began, ended).items()}

"""Scenario `retrieval`: demonstrations for sentences that are embedded already, on all cores of the machine.

Embeddings are random; sentences have as many spans, and surfaces repeat as often, as those of GENIA. An actor of the
stage has one thread (Ray tells NumPy so), and `limits.retrievers` says how many actors there are.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np
import psutil

from benchmarks.fresh import in_fresh_process
from benchmarks.measured import Figure
from el4ner_ray.core.similarity import Floats
from el4ner_ray.demonstrations import DemonstrationIndex

_SPANS_PER_SENTENCE, _DISTINCT_SHARE, _DIMENSION = 3, 0.35, 384
_K = 5
# As many sentences as the stage asks about at once, with the default of 8 documents of 8 sentences.
_BATCH = 64


class Workload(msgspec.Struct, forbid_unknown_fields=True):
    """`checked` sentences of each repetition are compared with the formula, read word for word."""

    pools: list[int]
    sentences: int
    checked: int
    repeats: int
    seed: int


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """Sentences a second and memory for each size of the pool, and how many choices are not the reference's."""
    figures, wrong = [], 0
    for size in workload.pools:
        # What one size leaves in memory would be taken off the next one's.
        rates, memory, wrong_of_size = in_fresh_process(_measured, workload, size, scratch / str(size))
        wrong += wrong_of_size
        figures.append(Figure("sentences a second", "1/s", tuple(rates), size))
        figures.append(Figure("memory", "MB", (memory,), size))
    return [*figures, Figure("different from the reference", "sentences", (float(wrong),))]


def _measured(workload: Workload, size: int, folder: Path) -> tuple[list[float], float, int]:
    """Sentences a second of each repetition, MB that this process took for it, and choices not the reference's."""
    random = np.random.default_rng(workload.seed)
    before = psutil.Process().memory_info().rss
    index = _index(size, random, folder)
    rates, wrong = [], 0
    for _ in range(workload.repeats):
        queries = [_units(count, random) for count in random.integers(1, 6, workload.sentences)]
        weights = [random.choice(np.array([4, 2, 1], np.float32), len(query)) for query in queries]
        began, chosen = time.perf_counter(), []
        for first in range(0, len(queries), _BATCH):
            some = slice(first, first + _BATCH)
            chosen += index.by_spans(queries[some], weights[some], [_K] * len(queries[some]))
        rates.append(len(queries) / (time.perf_counter() - began))
        wrong += sum(
            not _are_the_best(chosen[number], reference(queries[number], weights[number], index))
            for number in range(workload.checked)
        )
    return rates, (psutil.Process().memory_info().rss - before) / 1e6, wrong


def reference(query: Floats, weights: Floats, index: DemonstrationIndex) -> list[float]:
    """Sim(X, X^c) of every pool sentence, in plain Python but for the scalar product; -1 without spans."""
    total = sum(map(float, weights))
    similarities = []
    for start, end in zip(index.starts[:-1], index.starts[1:], strict=True):
        others = [index.spans[number] for number in index.span_of[start:end]]
        best = [max((float(vector @ other) for other in others), default=-1.0) for vector in query]
        similarities.append(sum(float(w) * cosine for w, cosine in zip(weights, best, strict=True)) / total)
    return similarities


def _are_the_best(chosen: list[int], similarities: list[float]) -> bool:
    """Whether k different ones are chosen, or all there are, and their similarities are the largest, in order.

    Float32 may round two that are alike either way.
    """
    best = sorted(similarities, reverse=True)[:_K]
    if not len(chosen) == len(set(chosen)) == len(best):
        return False
    return bool(np.allclose([similarities[number] for number in chosen], best, atol=1e-6))


def _index(size: int, random: np.random.Generator, folder: Path) -> DemonstrationIndex:
    starts = np.cumsum([0, *random.poisson(_SPANS_PER_SENTENCE, size)]).astype(np.int64)
    distinct = max(1, int(starts[-1] * _DISTINCT_SHARE))
    arrays = {
        "spans": _units(distinct, random),
        # A few surfaces stand in many sentences, most in one.
        "span_of": (distinct * random.random(starts[-1]) ** 3).astype(np.int64),
        "starts": starts,
        "sentences": _units(1, random),
        "occurrences": np.empty((0, 3), np.int64),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return DemonstrationIndex(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in arrays})


def _units(count: int, random: np.random.Generator) -> Floats:
    vectors = random.standard_normal((count, _DIMENSION), np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

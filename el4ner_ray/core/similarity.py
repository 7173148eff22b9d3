"""Span-level sentence similarity (EL4NER, demonstration retrieval), as matrix work over the whole pool."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Similarity of a span to a sentence without spans: the least that a cosine can be.
NO_SPAN = np.float32(-1.0)


@dataclass(frozen=True)
class PoolSpans:
    """The spans of a pool, laid out for `span_similarities`.

    Attributes:
        distinct: (u, d) unit embeddings of the distinct span surfaces.
        order: (n,) the pool's sentences, those with the most spans first.
        rounds: in round r, the distinct surface of the r-th span of each sentence of `order` that has so many, which
            are the first len(rounds[r]) of them.
    """

    distinct: Floats
    order: Ints
    rounds: tuple[Ints, ...]

    @classmethod
    def of(cls, distinct: Floats, span_of: Ints, starts: Ints) -> PoolSpans:
        """From (p,) which distinct surface each span is, sentence i having the spans [starts[i], starts[i + 1])."""
        counts = np.diff(starts)
        order = np.argsort(-counts, kind="stable")
        sizes = [int(np.count_nonzero(counts > number)) for number in range(counts.max(initial=0))]
        rounds = tuple(np.asarray(span_of[starts[order[:size]] + number]) for number, size in enumerate(sizes))
        return cls(distinct, order, rounds)


def span_similarities(queries: Sequence[Floats], weights: Sequence[Floats], pool: PoolSpans) -> Floats:
    """Sim(X, X^c) = sum_s w(s) max_{s^c} cos(e(s), e(s^c)) / sum_s w(s), for each X and every pool sentence.

    What a sentence gets does not depend, to the bit, on the others that are asked about with it.

    Args:
        queries: for each X the (q, d) unit embeddings of its spans.
        weights: for each X the (q,) weights of its spans, at least one positive.
        pool: the spans of the pool.

    Returns:
        (len(queries), n) similarities in [-1, 1]; -1 for pool sentences without spans.
    """
    if not all(of_sentence.sum() > 0 for of_sentence in weights):
        raise ValueError("at least one span needs a positive weight")
    if not queries:
        return np.empty((0, len(pool.order)), np.float32)
    used = [of_sentence > 0 for of_sentence in weights]
    vectors = np.concatenate([query[kept] for query, kept in zip(queries, used, strict=True)])
    shares = np.concatenate([w[kept] / w.sum() for w, kept in zip(weights, used, strict=True)])
    best = _best_cosines(vectors, pool)
    best *= shares
    firsts = np.cumsum([0, *(np.count_nonzero(kept) for kept in used[:-1])])
    similarities = np.empty((len(queries), len(pool.order)), np.float32)
    similarities[:, pool.order] = np.add.reduceat(best, firsts, axis=1).T
    return similarities


def _best_cosines(vectors: Floats, pool: PoolSpans) -> Floats:
    """(n, q) for each sentence of `pool.order` and each vector, the largest cosine of the sentence's spans.

    One maximum a round over rows as long as there are vectors: `np.maximum.reduceat` over each sentence's few spans
    took 20 times as long.
    """
    best = np.full((len(pool.order), len(vectors)), NO_SPAN, np.float32)
    cosines = _products(pool.distinct, vectors)
    for surfaces in pool.rounds:
        reached = best[: len(surfaces)]
        np.maximum(reached, cosines.take(surfaces, axis=0), out=reached)
    return best


def _products(rows: Floats, columns: Floats) -> Floats:
    """(u, q) scalar products of each of `rows` (u, d) and each of `columns` (q, d).

    BLAS chooses its routine, and with it the rounding, by the size of the product: all products here have one size.
    """
    width = _columns_computed_alike(rows.shape[1])
    products = np.empty((len(rows), -(-len(columns) // width) * width), np.float32)
    for first in range(0, len(columns), width):
        block = np.zeros((width, rows.shape[1]), np.float32)
        some = columns[first : first + width]
        block[: len(some)] = some
        np.matmul(rows, block.T, out=products[:, first : first + width])
    return products[:, : len(columns)]


@functools.cache
def _columns_computed_alike(dimensions: int) -> int:
    """The most columns, 32 at most, that this machine's BLAS computes alike, wherever in the product a column stands.

    On AMD family 26 (Zen 5), OpenBLAS 0.3.30 rounds columns 8 to 23 of 32 otherwise than the rest. Of 16 it does not,
    which take a third longer each; a column at a time would take five times as long.
    """
    random = np.random.default_rng(0)
    rows, column = random.standard_normal((64, dimensions), np.float32), random.standard_normal(dimensions, np.float32)
    for width in (32, 16, 8, 4, 2):
        products = rows @ np.tile(column, (width, 1)).T
        if (products == products[:, :1]).all():
            return width
    return 1


def segment_max(values: Floats, starts: Ints) -> Floats:
    """Maximum of each row of `values` (q, p) over the segments [starts[i], starts[i + 1]); -1 for empty segments."""
    best = np.full((values.shape[0], len(starts) - 1), NO_SPAN, np.float32)
    filled = starts[:-1] < starts[1:]
    if filled.any():
        # reduceat runs to the next start listed, so leaving the empty segments out leaves the others whole.
        best[:, filled] = np.maximum.reduceat(values, starts[:-1][filled], axis=1)
    return best


def nearest(similarities: Floats, k: int) -> list[int]:
    """Indices of the k largest similarities, best first; equal ones in pool order."""
    k = min(k, len(similarities))
    if k == 0:
        return []
    kth = -np.partition(-similarities, k - 1)[k - 1]
    among = np.flatnonzero(similarities >= kth)
    # A stable sort of the few that reach the k-th value keeps pool order among equals.
    return [int(i) for i in among[np.argsort(-similarities[among], kind="stable")][:k]]

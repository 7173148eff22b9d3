"""Span-level sentence similarity (EL4NER, demonstration retrieval), as matrix work over the whole pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Similarity of a span to a sentence without spans: the least that a cosine can be.
NO_SPAN = np.float32(-1.0)

_COLUMNS = 32


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
    products = np.empty((len(rows), -(-len(columns) // _COLUMNS) * _COLUMNS), np.float32)
    for first in range(0, len(columns), _COLUMNS):
        block = np.zeros((_COLUMNS, rows.shape[1]), np.float32)
        some = columns[first : first + _COLUMNS]
        block[: len(some)] = some
        np.matmul(rows, block.T, out=products[:, first : first + _COLUMNS])
    return products[:, : len(columns)]


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

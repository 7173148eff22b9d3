"""Span-level sentence similarity (EL4NER, demonstration retrieval), as matrix work over the whole pool."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Similarity of a span to a sentence without spans: the least that a cosine can be.
NO_SPAN = np.float32(-1.0)


def span_similarity(query: Floats, weights: Floats, distinct: Floats, span_of: Ints, starts: Ints) -> Floats:
    """Sim(X, X^c) = sum_s w(s) max_{s^c} cos(e(s), e(s^c)) / sum_s w(s), for one X and every pool sentence.

    Args:
        query: (q, d) unit embeddings of X's spans.
        weights: (q,) weights of X's spans, at least one positive.
        distinct: (u, d) unit embeddings of the pool's distinct span surfaces.
        span_of: (p,) which distinct surface each pool span is, sentence by sentence.
        starts: (n + 1,) pool sentence i has the spans [starts[i], starts[i + 1]).

    Returns:
        (n,) similarities in [-1, 1]; -1 for pool sentences without spans.
    """
    total = weights.sum()
    if not total > 0:
        raise ValueError("at least one span needs a positive weight")
    used = weights > 0
    cosines = query[used] @ distinct.T
    best = segment_max(cosines[:, span_of], starts)
    return np.asarray((weights[used] / total) @ best, np.float32)


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

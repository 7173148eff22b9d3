"""What the labelled pool knows of surfaces: how near a candidate is to its entities of each type, and to the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from el4ner_ray.core.similarity import NO_SPAN, Floats, Ints, segment_max

NOT_AN_ENTITY = -1


@dataclass(frozen=True)
class Lexicon:
    """The pool's surfaces, sorted by label.

    Attributes:
        vectors: (u, d) unit embeddings of the distinct surfaces.
        surface_of: (p,) which distinct surface each occurrence is.
        sentence_of: (p,) which pool sentence it stands in.
        starts: (labels + 2,) occurrences of what is no entity are [starts[0], starts[1]), those of label l
            [starts[l + 1], starts[l + 2]).
    """

    vectors: Floats
    surface_of: Ints
    sentence_of: Ints
    starts: Ints

    @classmethod
    def of(cls, vectors: Floats, occurrences: Sequence[tuple[int, int, int]], labels: int) -> Lexicon:
        """`occurrences` are (label number or NOT_AN_ENTITY, row of `vectors`, pool sentence)."""
        rows = np.array(sorted(occurrences), np.int64).reshape(-1, 3)
        starts = np.searchsorted(rows[:, 0], np.arange(NOT_AN_ENTITY, labels + 1))
        return cls(vectors, rows[:, 1].copy(), rows[:, 2].copy(), starts.astype(np.int64))

    def nearest(self, candidates: Floats, without: Sequence[int] = ()) -> Floats:
        """How near each candidate (n, d) is to what is no entity and to each label: (n, 1 + labels) cosines.

        The cosine with the nearest occurrence, -1 where there is none. The occurrences of the pool sentences `without`
        are left out.
        """
        if not len(self.vectors):
            return np.full((len(candidates), len(self.starts) - 1), NO_SPAN, np.float32)
        cosines = (candidates @ self.vectors.T)[:, self.surface_of]
        if len(without):
            cosines[:, np.isin(self.sentence_of, without)] = NO_SPAN
        return segment_max(cosines, self.starts)

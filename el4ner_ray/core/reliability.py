"""Whether a score means what it says: of the entities with score 0.8, 80 % should be right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from el4ner_ray.core.bins import bin_of


class Bin(msgspec.Struct, frozen=True):
    """Entities with scores in [low, high), as `bin_of` has it: how many, their mean score, the share that is right."""

    low: float
    high: float
    count: int
    score: float
    right: float


class Reliability(msgspec.Struct, frozen=True):
    """A reliability diagram and its expected calibration error (Naeini et al. 2015): `error` in [0, 1].

    Chance alone makes an error, the larger the fewer entities there are: `by_chance` is what scores that mean just what
    they say would show on average (the normal approximation of each bin's binomial).
    """

    bins: tuple[Bin, ...]
    error: float
    by_chance: float

    @property
    def count(self) -> int:
        """The entities that it rests on, at least one."""
        return sum(b.count for b in self.bins)


def reliability(scores: Sequence[float], right: Sequence[bool], bins: int = 10) -> Reliability:
    """Compare scores in [0, 1] with the truth in bins of equal width; empty bins are left out.

    Raises ValueError where there are no scores: nothing tells then what they mean.
    """
    values, truth = np.asarray(scores, float), np.asarray(right, float)
    if not len(values):
        raise ValueError("no scores to compare with the truth; ask where there is an entity at least")
    number = np.array([bin_of(value, bins) for value in values.tolist()])
    found, by_chance = [], 0.0
    for i in range(bins):
        inside = number == i
        if inside.any():
            by_chance += math.sqrt(2 / math.pi * float((values[inside] * (1 - values[inside])).sum())) / len(values)
            found.append(
                Bin(
                    i / bins,
                    (i + 1) / bins,
                    int(inside.sum()),
                    float(values[inside].mean()),
                    float(truth[inside].mean()),
                )
            )
    error = sum(abs(b.score - b.right) * b.count for b in found) / len(values)
    return Reliability(tuple(found), error, by_chance)

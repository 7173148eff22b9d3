"""Ways to scale the calibrated method's score, by the calibration error over what is kept.

What was learnt from some sentences is judged on others: from the pool to the gold sentences, which may be of another
kind, or from random parts of the gold sentences to their rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from el4ner_ray.calibration import Weighed, judged, learn_from, overlapping
from el4ner_ray.core.evidence import Array
from el4ner_ray.core.fusion import Fusion, choose, operating_points
from el4ner_ray.core.reliability import Reliability, reliability

SPLITS = 24
Scaler = Callable[[Array], Array]
Errors = dict[str, dict[str, float]]
"""By the way of scaling: `error`, and the error `by_chance` of as many entities."""


def errors_of_splits(sentences: Sequence[Weighed], labels: tuple[str, ...], learnt: int) -> Errors:
    """Learnt from so many of the sentences, drawn at random, and judged on the rest: means over all splits."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(SPLITS):
        order = random.permutation(len(sentences))
        parts = [[sentences[number] for number in numbers] for numbers in (order[:learnt], order[learnt:])]
        found.append(errors(*parts, labels))
    return {
        name: {what: round(float(np.mean([split[name][what] for split in found])), 3) for what in of_first}
        for name, of_first in found[0].items()
    }


def errors(known: Sequence[Weighed], others: Sequence[Weighed], labels: tuple[str, ...]) -> Errors:
    """Learnt from `known`, judged on `others`."""
    nested = overlapping([sentence.gold for sentence in known])
    fusion = learn_from(known, labels, nested=nested)
    held_out, right = _unscaled(fusion), np.array(fusion.right, bool)
    probabilities = [fusion.weights.probabilities(sentence.evidence) for sentence in others]
    of_others = judged(others, probabilities, labels, nested=nested)
    found = {
        name: _reliability_of_kept(scale, held_out, right, fusion.gold, *of_others)
        for name, scale in _scalers(fusion, held_out, right).items()
    }
    seen = np.concatenate([fusion.weights.probabilities(sentence.evidence) for sentence in known])
    moved = judged(others, _with_their_prior(probabilities, seen.mean(axis=0)), labels, nested=nested)
    found["prior of the texts"] = _reliability_of_kept(lambda scores: scores, held_out, right, fusion.gold, *moved)
    return {name: {"error": round(r.error, 3), "by_chance": round(r.by_chance, 3)} for name, r in found.items()}


def _scalers(fusion: Fusion, held_out: Array, right: Array) -> dict[str, Scaler]:
    beta = LogisticRegression().fit(_for_beta(held_out), right)
    isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(held_out, right)
    return {
        "none": lambda scores: scores,
        "Platt": fusion.scaling,
        "beta": lambda scores: beta.predict_proba(_for_beta(scores))[:, 1],
        "isotonic": isotonic.predict,
    }


def _for_beta(scores: Array) -> Array:
    """Features of beta calibration (Kull, Silva Filho and Flach 2017)."""
    within = np.clip(scores, 1e-12, 1 - 1e-12)
    return np.stack([np.log(within), -np.log(1 - within)], axis=1)


def _unscaled(fusion: Fusion) -> Array:
    scaling, scores = fusion.scaling, np.clip(fusion.scores, 1e-12, 1 - 1e-12)
    unscaled: Array = expit((logit(scores) - scaling.intercept) / scaling.slope)
    return unscaled


def _reliability_of_kept(
    scale: Scaler, held_out: Array, right: Array, gold: int, scores: Array, of_scores: Array
) -> Reliability:
    threshold = choose(operating_points(scale(held_out), right, gold)).threshold
    scaled = scale(scores)
    kept = scaled >= threshold
    return reliability(scaled[kept], of_scores[kept])


def _with_their_prior(probabilities: Sequence[Array], prior: Array) -> list[Array]:
    """The probabilities under the label frequencies that expectation maximisation finds (Saerens et al. 2002)."""
    given = np.concatenate(probabilities)
    found, last = given, prior
    for _ in range(1000):
        new = found.mean(axis=0)
        found = given * (new / prior)
        found /= found.sum(axis=1, keepdims=True)
        if np.abs(new - last).max() < 1e-6:
            break
        last = new
    return np.split(found, np.cumsum([len(of_sentence) for of_sentence in probabilities])[:-1])

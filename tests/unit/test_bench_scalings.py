"""The study of scores: each way of scaling is judged by entities that it was not learnt from."""

import numpy as np
import pytest

from benchmarks.scalings import _with_their_prior, errors, errors_of_splits
from el4ner_ray.calibration import Weighed
from el4ner_ray.core.evidence import Evidence
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.schema import Entity, Span

LABELS = ("place",)


def _sentences(count: int, seed: int) -> list[Weighed]:
    """One candidate a sentence; the one feature says how likely it is an entity."""
    random = np.random.default_rng(seed)
    feature = random.normal(size=count)
    gold = random.random(count) < 1 / (1 + np.exp(-2 * feature))
    return [
        Weighed(
            LabelledText(str(i), f"Oslo {i}", (LabelledSpan(0, 4, "place"),) if is_gold else ()),
            [Entity(Span(0, 4), "place", 0.0, (), ())],
            Evidence(np.array([[value]]), np.zeros((1, 1, 1))),
        )
        for i, (value, is_gold) in enumerate(zip(feature, gold, strict=True))
    ]


def test_scores_of_one_kind_of_text_have_no_more_than_the_error_of_chance() -> None:
    found = errors(_sentences(2000, seed=1), _sentences(2000, seed=2), LABELS)
    assert set(found) == {"none", "Platt", "beta", "isotonic", "prior of the texts"}
    for of_scaling in found.values():
        assert of_scaling["error"] < 2 * of_scaling["by_chance"]


def test_splits_are_the_same_each_time() -> None:
    sentences = _sentences(120, seed=3)
    assert errors_of_splits(sentences, LABELS, 60) == errors_of_splits(sentences, LABELS, 60)


def test_the_prior_of_the_texts_is_found() -> None:
    """Of two classes with equal priors in training, the second is nine times as frequent in the texts."""
    random = np.random.default_rng(0)
    second = random.random(20_000) < 0.9
    signal = random.normal(size=len(second)) + np.where(second, 1.0, -1.0)
    given = 1 / (1 + np.exp(-2 * signal))
    moved = np.concatenate(_with_their_prior([np.stack([1 - given, given], axis=1)], np.array([0.5, 0.5])))
    assert moved[:, 1].mean() == pytest.approx(0.9, abs=0.01)

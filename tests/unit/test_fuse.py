"""The calibrated method's last stage: evidence from the pool, scores, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from el4ner_ray.config import load
from el4ner_ray.core.evidence import names
from el4ner_ray.core.fusion import Fusion, Weights
from el4ner_ray.core.scaling import Scaling
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.schema import DECIDED, DEMONSTRATIONS, SENTENCES, TYPED, Entity, Span, Vote
from el4ner_ray.stages import fuse
from el4ner_ray.stages.fuse import Fuse, Weigher
from tests.scripted import ByFirstLetter, index_of, table_of

CONFIG = load(profile="fake", overrides={"method": "calibrated"})
LABELS = {"place": "", "person": ""}  # not in the order of the index, which is that of their names
SHARED, LABELLED = names(CONFIG.model_names)
ANNA = LabelledText("0", "Anna left Oslo.", (LabelledSpan(0, 4, "person"), LabelledSpan(10, 14, "place")))
POOL = (
    ANNA,
    LabelledText("1", "Zoe saw Anna.", (LabelledSpan(8, 12, "person"),)),
    LabelledText("2", "It rained.", ()),
    LabelledText("3", ANNA.text, ANNA.entities),
)
SURFACES = [["Anna", "left"], ["Anna"], ["rained"], ["Anna"]]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(fuse, "Embedder", lambda _: ByFirstLetter())
    return index_of(tmp_path / "index", POOL, SURFACES)


def candidate(start: int, end: int, extracted_by: tuple[str, ...] = ("fake-a",)) -> Entity:
    return Entity(Span(start, end), "", 0.0, (Vote("fake-a", None, 0.0),), extracted_by)


@pytest.mark.parametrize(
    ("sentence", "span", "of_pool", "near"),
    [
        # What it is near to: no entity, a place, a person.
        (ANNA.text, (10, 14), False, (0, 1, 0)),
        (ANNA.text, (10, 14), True, (0, -1, 0)),  # Oslo stands in the sentence itself and in its copy alone
        (ANNA.text, (0, 4), False, (0, 0, 1)),
        (ANNA.text, (0, 4), True, (0, -1, 1)),  # sentence 1 knows Anna, too
        (ANNA.text, (5, 9), False, (1, 0, 0)),
        (ANNA.text, (5, 9), True, (0, -1, 0)),
        (POOL[1].text, (8, 12), True, (0, 0, 1)),
        ("It rained.", (3, 9), True, (0, 0, 0)),
        ("Oslo", (0, 4), True, (0, 1, 0)),  # a text that the pool does not have
    ],
)
def test_a_pool_sentence_and_its_copies_do_not_testify_for_themselves(
    index: str, sentence: str, span: tuple[int, int], of_pool: bool, near: tuple[float, ...]
) -> None:
    evidence = Weigher(CONFIG, LABELS, index).weigh(sentence, [candidate(*span)], [], of_pool=of_pool)
    no_entity = evidence.shared[0, SHARED.index("near a non-entity")]
    assert (no_entity, *evidence.labelled[0, :, LABELLED.index("near the label")]) == near


@pytest.mark.parametrize(
    ("demonstrations", "empty", "demonstrated"),
    [
        ([], 0.0, [0.0, 0.0]),
        ([2], 1.0, [0.0, 0.0]),
        ([0, 2], 0.5, [0.5, 0.5]),
        ([1, 0, 2, 2], 0.5, [0.25, 0.5]),
    ],
)
def test_demonstrations_tell_how_often_they_hold_a_type_and_how_often_nothing(
    index: str, demonstrations: list[int], empty: float, demonstrated: list[float]
) -> None:
    evidence = Weigher(CONFIG, LABELS, index).weigh("Oslo", [candidate(0, 4)], demonstrations, of_pool=False)
    assert evidence.shared[0, SHARED.index("empty demonstrations")] == empty
    assert evidence.labelled[0, :, LABELLED.index("demonstrated")].tolist() == demonstrated


def fusion(shared: Mapping[str, float], labelled: Mapping[str, float], *, nested: bool = False) -> Fusion:
    """One of these weights, the others being 0, and so are all means."""
    a = tuple(shared.get(name, 0.0) for name in SHARED)
    b = tuple(labelled.get(name, 0.0) for name in LABELLED)
    weights = Weights(a, b, (-20.0, -20.0), (0.0,) * len(a), (0.0,) * len(b))
    return Fusion(weights, Scaling(), nested, 1.0, 4, 5, 5, (), ())


# The second sentence begins with other letters than the first has at the same places.
TEXT = "Zoe saw Ulm. Anna Olsen left Oslo."
SENTENCE_SPANS = [Span(0, 12), Span(13, 34)]


def run(index: str, typed: list[list[Entity]], threshold: float, learnt: Fusion) -> list[list[Entity]]:
    """What the stage makes of the candidates of the two sentences, which have pool sentences 0 and 1 shown to them."""
    stage = Fuse(CONFIG, LABELS, index, learnt, threshold)
    columns = {SENTENCES: [SENTENCE_SPANS], DEMONSTRATIONS: [[[0], [1]]], TYPED: [typed]}
    [row] = DECIDED.decode(asyncio.run(stage.annotate(table_of([TEXT], columns))))
    sentences: list[list[Entity]] = row
    return sentences


def decided(index: str, typed: list[list[Entity]], threshold: float, *, nested: bool = False) -> list[list[Entity]]:
    """With a utility of 1 for each model that found it, where the pool knows it; else with hardly any chance."""
    return run(index, typed, threshold, fusion({"extracted by": 3.0}, {"near the label": 20.0}, nested=nested))


BOTH = ("fake-a", "fake-b")


def test_candidates_of_every_sentence_get_type_and_score_and_stay_where_they_are(index: str) -> None:
    ulm, anna, oslo = candidate(8, 11), candidate(13, 17, BOTH), candidate(29, 33)
    first, second = decided(index, [[ulm], [anna, oslo]], threshold=0.6)
    assert [(e.span, e.label, e.kept) for e in second] == [
        (Span(13, 17), "person", True),
        (Span(29, 33), "place", True),
    ]
    assert [e.score for e in second] == pytest.approx([expit(2.0), expit(1.0)], abs=1e-6)
    [entity] = first
    assert (entity.span, entity.kept) == (Span(8, 11), False)
    assert entity.score < 1e-6
    assert (second[0].votes, second[0].extracted_by) == (anna.votes, BOTH)


def test_each_sentence_is_weighed_by_its_own_demonstrations(index: str) -> None:
    # The first is shown a person and a place, the second a person alone.
    learnt = fusion({}, {"demonstrated": 21.0})
    [[ulm], [oslo]] = run(index, [[candidate(8, 11)], [candidate(29, 33)]], 0.0, learnt)
    assert ulm.score == pytest.approx(np.e / (1 + 2 * np.e), abs=1e-6)
    assert oslo.score == pytest.approx(expit(1.0), abs=1e-6)


def test_a_sentence_without_candidates_has_none(index: str) -> None:
    assert decided(index, [[], []], threshold=0.0) == [[], []]


@pytest.mark.parametrize(("nested", "kept"), [(False, [True, False, True]), (True, [True, True, True])])
def test_of_two_in_conflict_the_more_probable_is_kept(index: str, nested: bool, kept: list[bool]) -> None:
    anna_olsen, anna, oslo = candidate(13, 23, BOTH), candidate(13, 17), candidate(29, 33)
    _, found = decided(index, [[], [anna_olsen, anna, oslo]], threshold=0.5, nested=nested)
    assert [entity.kept for entity in found] == kept


def test_what_has_just_the_score_that_is_asked_for_is_kept(index: str) -> None:
    anna, oslo = candidate(13, 17, BOTH), candidate(29, 33)
    _, found = decided(index, [[], [anna, oslo]], threshold=0.0)
    for threshold, kept in ((found[1].score, [True, True]), (np.nextafter(found[1].score, 1), [True, False])):
        _, again = decided(index, [[], [anna, oslo]], threshold)
        assert [entity.kept for entity in again] == kept

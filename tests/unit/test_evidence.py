"""The evidence on a candidate, column by column: what it looks like, and what models and pool say of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from el4ner_ray.core.evidence import _SHAPES as SHAPES
from el4ner_ray.core.evidence import Evidence, Neighbourhood, names, shape, weigh
from el4ner_ray.schema import Entity, Span, Vote

MODELS = ("a", "b", "c")
LABELS = ("x", "y")


def shown(sentence: str, surface: str) -> dict[str, float]:
    """The row of a surface where it first stands in its sentence, without what is 0."""
    start = sentence.index(surface)
    row = dict(zip(SHAPES, shape(sentence, Span(start, start + len(surface))), strict=True))
    # Counts as they are, since a table of logarithms says nothing to a reader.
    for name in ("words", "characters"):
        row[name] = round(math.expm1(row[name]), 9)
    return {name: value for name, value in row.items() if value}


CAPITAL, ALL_WORDS, ALL = "starts with a capital", "all words capitalised", "all capitals"
INNER, DIGITS, SIGNS, NONE = "a capital after the first letter", "digits", "signs", "no capital"
NUMBER, START, START_CAPITAL, AROUND = (
    "only digits and signs", "at the start", "capitalised at the start", "more capitals around",
)  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "surface", "row"),
    [
        ("we saw Oslo", "Oslo", {"words": 1, "characters": 4, CAPITAL: 1, ALL_WORDS: 1}),
        ("we saw oslo", "oslo", {"words": 1, "characters": 4, NONE: 1}),
        ("Oslo slept", "Oslo", {"words": 1, "characters": 4, CAPITAL: 1, ALL_WORDS: 1, START: 1, START_CAPITAL: 1}),
        ("oslo slept", "oslo", {"words": 1, "characters": 4, NONE: 1, START: 1}),
        ("“Oslo” slept", "Oslo", {"words": 1, "characters": 4, CAPITAL: 1, ALL_WORDS: 1, START: 1, START_CAPITAL: 1}),
        ("we saw New York", "New York", {"words": 2, "characters": 8, CAPITAL: 1, ALL_WORDS: 1}),
        ("we saw Bank of Oslo", "Bank of Oslo", {"words": 3, "characters": 12, CAPITAL: 1}),
        ("we saw de Gaulle", "de Gaulle", {"words": 2, "characters": 9}),
        ("we saw the WHO", "WHO", {"words": 1, "characters": 3, CAPITAL: 1, ALL_WORDS: 1, ALL: 1}),
        ("we saw X", "X", {"words": 1, "characters": 1, CAPITAL: 1, ALL_WORDS: 1}),  # one letter is no acronym
        ("we saw McCoy", "McCoy", {"words": 1, "characters": 5, CAPITAL: 1, ALL_WORDS: 1, INNER: 1}),
        ("we saw mRNA", "mRNA", {"words": 1, "characters": 4, INNER: 1}),
        ("we saw IL2", "IL2", {"words": 1, "characters": 3, CAPITAL: 1, ALL_WORDS: 1, ALL: 1, DIGITS: 1}),
        ("we saw il2", "il2", {"words": 1, "characters": 3, NONE: 1, DIGITS: 1}),
        ("we saw 2 x", "2", {"words": 1, "characters": 1, DIGITS: 1, NUMBER: 1}),
        ("in 12:30", "12:30", {"words": 1, "characters": 5, DIGITS: 1, NUMBER: 1, SIGNS: 1}),
        ("we saw AT&T", "AT&T", {"words": 1, "characters": 4, CAPITAL: 1, ALL_WORDS: 1, ALL: 1, SIGNS: 1}),
        ("we saw e-mail", "e-mail", {"words": 1, "characters": 6, NONE: 1, SIGNS: 1}),
        ("we saw @Anna", "@Anna", {"words": 1, "characters": 5, CAPITAL: 1, INNER: 1, SIGNS: 1}),
        ("Ben saw Oslo", "Oslo", {"words": 1, "characters": 4, CAPITAL: 1, ALL_WORDS: 1, AROUND: 1 / 2}),
        ("Ben Saw us In Oslo", "us", {"words": 1, "characters": 2, NONE: 1, AROUND: 1}),
        ("Oslo", "Oslo", {"words": 1, "characters": 4, CAPITAL: 1, ALL_WORDS: 1, START: 1, START_CAPITAL: 1}),
        ("他在北京", "北京", {"words": 1, "characters": 2}),
    ],
)
def test_what_a_surface_looks_like(sentence: str, surface: str, row: dict[str, float]) -> None:
    assert shown(sentence, surface) == row


def candidate(*votes: Vote, extracted_by: tuple[str, ...] = (), listed_by: tuple[str, ...] = ()) -> Entity:
    return Entity(Span(7, 11), "", 0.0, votes, extracted_by, listed_by=listed_by)


def evidence_of(entity: Entity, *others: Entity, around: Neighbourhood | None = None) -> Evidence:
    """For the first of the candidates, near to no entity by 0.75, to the labels by 0.5 and 0.125."""
    candidates = [entity, *others]
    near = np.array([[0.75, 0.5, 0.125]] * len(candidates), np.float32)
    found = weigh("we saw Oslo", candidates, MODELS, LABELS, near, around or Neighbourhood(0.0, np.zeros(2)))
    return Evidence(found.shared[:1], found.labelled[:1])


def shared_of(*arguments: Entity, around: Neighbourhood | None = None) -> dict[str, float]:
    """The row of the first candidate, without what 0 is and what it looks like."""
    row = evidence_of(*arguments, around=around).shared[0].tolist()
    named = dict(zip(names(MODELS)[0], row, strict=True))
    return {name: value for name, value in named.items() if value and name not in SHAPES}


def vote(model: str, label: str | None, *probabilities: float) -> Vote:
    return Vote(model, label, max(probabilities, default=0.0), tuple(math.log(p) for p in probabilities))


UNSURE = {f"certainty of {model}": 0.5 for model in MODELS}
NEAR = {"near a non-entity": 0.75, "near an entity": 0.5}
EXTRACTED = {"extracted at all": 1.0}


@pytest.mark.parametrize(
    ("entity", "row"),
    [
        (candidate(), UNSURE),
        (candidate(extracted_by=("b",)), UNSURE | EXTRACTED | {"extracted by b": 1, "extracted by": 1 / 3}),
        (candidate(listed_by=("a", "c")), UNSURE | {"listed by a": 1, "listed by c": 1, "listed by": 2 / 3}),
        (
            candidate(extracted_by=("a", "b"), listed_by=("c",)),
            UNSURE
            | EXTRACTED
            | {"extracted by a": 1, "extracted by b": 1, "extracted by": 2 / 3}
            | {"listed by c": 1, "listed by": 1 / 3, "listed by, if extracted": 1 / 3},
        ),
        (
            candidate(vote("a", "x", 0.875, 0.125), vote("b", "x", 0.75, 0.25), vote("c", "y", 0.375, 0.625)),
            {"certainty of a": 0.875, "certainty of b": 0.75, "certainty of c": 0.625, "largest agreement": 2 / 3},
        ),
        (
            candidate(vote("a", None, 0.875, 0.125), vote("b", "y"), vote("c", None)),
            UNSURE | {"certainty of a": 0.875, "largest agreement": 1 / 3},
        ),
    ],
)
def test_what_speaks_for_an_entity_whatever_its_type(entity: Entity, row: dict[str, float]) -> None:
    assert shared_of(entity) == pytest.approx(row | NEAR)


@pytest.mark.parametrize("others", [0, 1, 4])
def test_candidates_are_counted_and_their_neighbourhood_is_told(others: int) -> None:
    elsewhere = [Entity(Span(0, 2), "", 0.0, (), ())] * others
    row = shared_of(candidate(), *elsewhere, around=Neighbourhood(0.75, np.array([0.5, 0.25])))
    counted = {"candidates in the sentence": math.log(1 + others)} if others else {}
    assert row == pytest.approx(UNSURE | NEAR | counted | {"empty demonstrations": 0.75})


def test_what_speaks_for_each_type() -> None:
    entity = candidate(
        Vote("a", "x", 1.0, (0.0, -50.0)),  # far beyond what a model can be taken to be sure of
        Vote("b", "y", 0.5, (math.log(0.25), math.log(0.75))),
        Vote("c", "x", 1.0),  # of more labels than an engine scores
    )
    found = evidence_of(entity, around=Neighbourhood(0.0, np.array([0.75, 0.0]))).labelled[0]
    named = {name: found[:, column].tolist() for column, name in enumerate(names(MODELS)[1])}
    assert named == {
        "log-probability by a": pytest.approx([0.0, -8.0]),
        "log-probability by b": pytest.approx([math.log(0.25), math.log(0.75)]),
        "log-probability by c": pytest.approx([-math.log(2)] * 2),
        "votes": pytest.approx([2 / 3, 1 / 3]),
        "near the label": pytest.approx([0.5, 0.125]),
        "demonstrated": pytest.approx([0.75, 0.0]),
    }

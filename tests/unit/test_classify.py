"""Who is asked for the type of what, and what the answers amount to."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from el4ner_ray.config import JobConfig, load
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.labelled import LabelledText
from el4ner_ray.schema import (
    CANDIDATES,
    DEMONSTRATIONS,
    QUERY_SPANS,
    SENTENCES,
    TYPED,
    Candidate,
    Entity,
    Span,
    Vote,
    usage_column,
)  # fmt: skip
from el4ner_ray.stages.classify import Classify
from tests.scripted import Scripted, table_of

LABELS = {"person": "", "place": ""}
A, B, NONE = "person", "place", "?"
POOL = (LabelledText("0", "It rained.", ()),)


def config_of(count: int, method: str = "paper") -> JobConfig:
    models = [{"name": f"m{number}", "source": "fake", "gpus": 0} for number in range(count)]
    return load(profile="fake", overrides={"models": models, "verifier": "m0", "method": method})


def typed(
    config: JobConfig, ensemble: Scripted, text: str, spans: Sequence[tuple[int, int]], listed: Sequence[Candidate] = ()
) -> list[Entity]:
    """What the stage makes of these candidates of a text of one sentence."""
    columns = {
        SENTENCES: [[Span(0, len(text))]],
        QUERY_SPANS: [[list(listed)]],
        DEMONSTRATIONS: [[[0]]],
        CANDIDATES: [[[Candidate(Span(*span), ("m0",)) for span in spans]]],
    }
    stage = Classify(config, LABELS, POOL, ensemble)
    [[entities]] = TYPED.decode(asyncio.run(stage.annotate(table_of([text], columns))))
    return list(entities)


def saying(answers: Mapping[str, str], slow: str = "") -> Scripted:
    """Models that give one answer each, whatever they are asked."""
    return Scripted(lambda model, _: Completion(answers[model]), slow)


@pytest.mark.parametrize(
    ("answers", "asked", "label"),
    [
        ([A], 1, A),
        ([A, A], 2, A),
        ([A, A, B], 2, A),  # the third cannot change it
        ([A, B, B], 3, B),
        ([A, NONE, B], 3, A),  # one vote for each: a tie, so the third was to be asked
        ([NONE, A, NONE], 3, A),
        ([NONE, NONE, B], 3, B),
        ([NONE, NONE, NONE], 3, None),
        ([A, A, B, B], 4, A),
        ([A, A, A, B], 3, A),
        ([A, A, A, B, B], 3, A),
        ([A, A, B, A, B], 4, A),
        ([A, A, NONE, NONE, B], 4, A),  # two more for another would have made a tie
        ([A, B, NONE, A, B], 5, A),
        ([A, A, B, B, B], 5, B),
        ([A, NONE, NONE, NONE, NONE], 5, A),
    ],
)
def test_models_are_asked_while_their_vote_can_change_the_majority(
    answers: list[str], asked: int, label: str | None
) -> None:
    config = config_of(len(answers))
    ensemble = saying(dict(zip(config.model_names, answers, strict=True)))
    entities = typed(config, ensemble, "Oslo slept.", [(0, 4)])
    assert ensemble.counts == Counter(config.model_names[:asked])
    assert [entity.label for entity in entities] == ([] if label is None else [label])
    for entity in entities:
        assert [vote.model for vote in entity.votes] == list(config.model_names[:asked])


@pytest.mark.parametrize(
    ("count", "method", "at_once"),
    [(1, "paper", 1), (2, "paper", 2), (3, "paper", 2), (4, "paper", 3), (5, "paper", 3), (5, "calibrated", 5)],
)
def test_those_whose_votes_are_needed_whatever_they_are_answer_at_once(count: int, method: str, at_once: int) -> None:
    config = config_of(count, method)
    ensemble = saying(dict.fromkeys(config.model_names, NONE))
    typed(config, ensemble, "Oslo slept.", [(0, 4)])
    assert ensemble.counts == dict.fromkeys(config.model_names, 1)
    assert ensemble.at_once == at_once


def test_the_last_model_is_asked_about_what_is_open_alone() -> None:
    def answer(model: str, request: Request) -> Completion:
        surface = request.turns[-1].removeprefix("Type of ").removesuffix(":")
        return Completion({"Anna": A, "Oslo": A if model == "m0" else B, "Ulm": NONE if model == "m0" else B}[surface])

    ensemble = Scripted(answer)
    entities = typed(config_of(3), ensemble, "Anna left Oslo, Oslo and Ulm.", [(0, 4), (10, 14), (16, 20), (25, 28)])
    assert ensemble.counts == {"m0": 3, "m1": 3, "m2": 2}  # both mentions of Oslo are one question
    assert [request.turns[-1] for request in ensemble.asked["m2"]] == ["Type of Oslo:", "Type of Ulm:"]
    assert [entity.label for entity in entities] == [A, B, B, B]


def test_votes_stand_in_the_order_of_the_models_whoever_answers_first() -> None:
    # A tie goes to the earlier one.
    config = config_of(3)
    ensemble = saying({"m0": A, "m1": B, "m2": NONE}, slow="m0")
    [entity] = typed(config, ensemble, "Oslo slept.", [(0, 4)])
    assert [(vote.model, vote.label) for vote in entity.votes] == [("m0", A), ("m1", B), ("m2", None)]
    assert entity.label == A


def sure(model: str, label: str, probability: float) -> Completion:
    logprobs = {label: math.log(probability), (A if label == B else B): math.log(1 - probability)}
    return Completion(label, choice_logprobs=(logprobs[A], logprobs[B]))


def test_the_score_is_the_mean_probability_that_the_models_gave() -> None:
    answers = {"m0": sure("m0", A, 0.9), "m1": sure("m1", B, 0.8), "m2": sure("m2", A, 0.6)}
    [entity] = typed(config_of(3), Scripted(lambda model, _: answers[model]), "Oslo slept.", [(0, 4)])
    assert entity.label == A
    assert entity.score == pytest.approx((0.9 + 0.6) / 3)
    assert [vote.probability for vote in entity.votes] == pytest.approx([0.9, 0.8, 0.6])
    assert {vote.logprobs for vote in entity.votes} == {()}


@pytest.mark.parametrize(
    ("completion", "vote"),
    [
        (Completion(A), Vote("m0", A, 1.0)),  # of more labels than an engine can score
        (Completion(f" {B}\n"), Vote("m0", B, 1.0)),
        (Completion("animal", choice_logprobs=(-0.1, -3.0)), Vote("m0", None, 0.0)),
        (Completion(A, choice_logprobs=(-0.1, -3.0), error="too long"), Vote("m0", None, 0.0)),
    ],
)
def test_what_is_no_label_is_an_abstention(completion: Completion, vote: Vote) -> None:
    ensemble = Scripted(lambda model, _: completion if model == "m0" else Completion(A))
    [entity] = typed(config_of(3), ensemble, "Oslo slept.", [(0, 4)])
    assert entity.votes[0] == vote


def test_the_calibrated_method_asks_all_and_keeps_what_each_thought() -> None:
    config = config_of(3, "calibrated")
    ensemble = Scripted(lambda model, _: sure(model, A, 0.75))
    listed = [Candidate(Span(5, 10), ("m1",))]
    oslo, slept = typed(config, ensemble, "Oslo slept.", [(0, 4)], listed)
    assert ensemble.counts == dict.fromkeys(config.model_names, 1)  # nobody is asked about what was listed alone
    assert {vote.logprobs for vote in oslo.votes} == {(math.log(0.75), math.log(0.25))}
    assert (oslo.label, oslo.score) == (A, 0.0)
    assert (slept.span, slept.votes, slept.extracted_by, slept.listed_by) == (Span(5, 10), (), (), ("m1",))
    [undecided] = typed(config, saying(dict.fromkeys(config.model_names, NONE)), "Oslo slept.", [(0, 4)])
    assert undecided.label == ""


def test_what_was_asked_is_counted_for_the_row_that_it_was_asked_for() -> None:
    config = config_of(3)
    ensemble = saying({"m0": A, "m1": A, "m2": A})
    columns = {
        SENTENCES: [[Span(0, 4), Span(5, 9)], [Span(0, 4)]],
        DEMONSTRATIONS: [[[0], [0]], [[0]]],
        CANDIDATES: [[[], [Candidate(Span(5, 9), ("m0",))]], [[Candidate(Span(0, 4), ("m1",))]]],
    }
    found = asyncio.run(Classify(config, LABELS, POOL, ensemble).annotate(table_of(["Rain Anna", "Oslo"], columns)))
    assert [[[e.span for e in of_sentence] for of_sentence in row] for row in TYPED.decode(found)] == [
        [[], [Span(5, 9)]],
        [[Span(0, 4)]],
    ]
    usage = usage_column("classify").decode(found)
    assert [{model: u.requests for model, u in of_row.items()} for of_row in usage] == [{"m0": 1, "m1": 1}] * 2

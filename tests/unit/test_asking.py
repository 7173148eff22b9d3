"""What the stages ask of the models: about which sentences, where an answer ends, and what goes first."""

from __future__ import annotations

import asyncio

import pytest

from el4ner_ray.config import load
from el4ner_ray.core.prompting import FALSE, TRUE
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.schema import CANDIDATES, DECIDED, QUERY_SPANS, Candidate, Span
from el4ner_ray.stages.base import Stage
from el4ner_ray.stages.classify import Classify
from el4ner_ray.stages.extract import Extract
from el4ner_ray.stages.given import Given
from el4ner_ray.stages.pre_extract import PreExtract
from el4ner_ray.stages.segment import Segment
from el4ner_ray.stages.verify import Verify
from tests.scripted import Scripted, table_of

CONFIG = load(profile="fake", overrides={"limits": {"answer_tokens": 50, "zero_shot_tokens": 20}})
LABELS = {"person": "", "place": ""}
POOL = (LabelledText("0", "Zoe slept.", (LabelledSpan(0, 3, "person"),)), LabelledText("1", "It rained.", ()))
ALL = CONFIG.model_names


def answer(model: str, request: Request) -> Completion:
    """Of models that find Anna and Oslo where they stand; only zero-shot lists have a line for each."""
    if request.choices == (TRUE, FALSE):
        return Completion(TRUE)
    if request.choices:
        return Completion("person" if "Anna" in request.turns[-1] else "place")
    sentence = request.turns[-1].rsplit("Sentence: ", 1)[-1].split("\n", 1)[0]
    names = [name for name in ("Anna", "Oslo") if name in sentence]
    return Completion("\n".join(f"- {name}" for name in names) if len(request.turns) == 1 else " | ".join(names))


def annotated(
    ensemble: Scripted, *texts: str, few_shot: bool = True
) -> tuple[dict[str, dict[str, list[Request]]], list]:
    """What each stage asked of each model about these texts, and the entities that the last one decided on."""
    steps: list[Stage] = [Segment(CONFIG), PreExtract(CONFIG, LABELS, ensemble), Given(len(POOL))]
    steps += [stage(CONFIG, LABELS, POOL, ensemble) for stage in (Extract, Classify, Verify)]
    asked: dict[str, dict[str, list[Request]]] = {}
    table = table_of(texts, {})
    for step in steps:
        ensemble.asked = {}
        table = asyncio.run(step.annotate(table))
        asked[step.name] = ensemble.asked
    return asked, table


def test_an_answer_ends_and_comes_first_as_its_stage_wants() -> None:
    asked, table = annotated(Scripted(answer), "Anna left Oslo. It rained.")
    shapes = {
        stage: {(r.stop, r.max_tokens, r.priority) for requests in by_model.values() for r in requests if not r.choices}
        for stage, by_model in asked.items()
    }
    # A list without demonstrations goes on over line breaks, as far as a blank line.
    assert shapes["pre_extract"] == {("\n\n", 20, 3)}
    assert shapes["extract"] == {("\n", 50, 2)}
    # What stands later in the conversation goes first: what it continues is still in the cache.
    priorities = {stage: {r.priority for rs in asked[stage].values() for r in rs} for stage in asked}
    assert [priorities[stage] for stage in ("pre_extract", "extract", "classify", "verify")] == [{3}, {2}, {1}, {0}]
    choices = {stage: {r.choices for rs in asked[stage].values() for r in rs} for stage in ("classify", "verify")}
    assert choices == {"classify": {("person", "place")}, "verify": {(TRUE, FALSE)}}
    [[first, second]] = DECIDED.decode(table)
    assert [(e.span, e.label, e.kept) for e in first] == [
        (Span(0, 4), "person", True),
        (Span(10, 14), "place", True),
    ]
    assert second == []


def test_everybody_extracts_and_one_verifies() -> None:
    asked, _ = annotated(Scripted(answer), "Anna left Oslo. It rained.")
    counts = {
        stage: {model: len(requests) for model, requests in by_model.items()} for stage, by_model in asked.items()
    }
    assert counts == {
        "segment": {},
        "pre_extract": dict.fromkeys(ALL, 2),
        "given": {},
        "extract": dict.fromkeys(ALL, 2),
        "classify": {"fake-a": 2, "fake-b": 2, "fake-c": 0},  # two agree on both
        "verify": {"fake-c": 2},
    }


@pytest.mark.parametrize(
    ("text", "asked_about"),
    [
        ("Anna left Oslo.\n\n* * *\n\nIt rained.", ["Anna left Oslo.", "It rained."]),
        ("-----", []),
        ("", []),
        (" \n\t ", []),
        ("!!! ???", []),
        ("1945", ["1945"]),
        ("王小明来了。", ["王小明来了。"]),
    ],
)
def test_nobody_is_asked_about_a_sentence_without_letter_or_digit(text: str, asked_about: list[str]) -> None:
    asked, _ = annotated(Scripted(answer), text)
    for model in ALL:
        requests = asked["pre_extract"].get(model, [])
        sentences = [request.turns[0].split("Sentence: ", 1)[1].split("\n", 1)[0] for request in requests]
        assert sentences == asked_about


def test_demonstrations_come_before_the_sentence_with_the_best_one_last() -> None:
    asked, _ = annotated(Scripted(answer), "Anna left Oslo.")
    [extraction] = asked["extract"]["fake-a"]
    # As they are given, which is best first reversed.
    shown = "".join(extraction.turns)
    assert shown.index("Zoe slept.") < shown.index("It rained.") < shown.index("Anna left Oslo.")
    assert all(request.turns[: len(extraction.turns)] == extraction.turns for request in asked["classify"]["fake-a"])
    [first, _] = asked["classify"]["fake-a"]
    [verification, _] = asked["verify"]["fake-c"]
    assert verification.turns[: len(first.turns)] == first.turns


def test_spans_count_from_the_start_of_the_text_and_name_who_found_them() -> None:
    def mine(model: str, request: Request) -> Completion:
        return Completion("Nobody", error="too long") if model == "fake-b" else answer(model, request)

    _, table = annotated(Scripted(mine), "It rained. Anna left.", "Oslo")
    by = ("fake-a", "fake-c")
    expected = [[[], [Candidate(Span(11, 15), by)]], [[Candidate(Span(0, 4), by)]]]
    assert QUERY_SPANS.decode(table) == CANDIDATES.decode(table) == expected

"""What the verifier's answers make of the typed candidates."""

from __future__ import annotations

import asyncio

import pytest

from el4ner_ray.config import load
from el4ner_ray.core.prompting import FALSE, TRUE
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.labelled import LabelledText
from el4ner_ray.schema import DECIDED, DEMONSTRATIONS, SENTENCES, TYPED, Entity, Span, failures_column
from el4ner_ray.stages.verify import Verify
from tests.scripted import Scripted, table_of

CONFIG = load(profile="fake", overrides={"verifier": "fake-b"})
LABELS = {"person": "", "place": ""}
POOL = (LabelledText("0", "It rained.", ()),)
TEXT = "Anna left Oslo. Ben saw Anna."


def entity(start: int, end: int, label: str) -> Entity:
    return Entity(Span(start, end), label, 0.75, (), ("fake-a",))


def decided(ensemble: Scripted) -> tuple[list[list[Entity]], list[str]]:
    """The entities of the text's two sentences, and the kinds of what failed."""
    typed = [[entity(0, 4, "person"), entity(10, 14, "place")], [entity(16, 19, "person"), entity(24, 28, "place")]]
    columns = {SENTENCES: [[Span(0, 15), Span(16, 29)]], DEMONSTRATIONS: [[[0], [0]]], TYPED: [typed]}
    table = asyncio.run(Verify(CONFIG, LABELS, POOL, ensemble).annotate(table_of([TEXT], columns)))
    [row], [failures] = DECIDED.decode(table), failures_column("verify").decode(table)
    return row, [failure.kind for failure in failures]


@pytest.mark.parametrize(
    ("completion", "verified", "kept", "kind"),
    [
        (Completion(TRUE), True, True, None),
        (Completion(FALSE), False, False, None),
        (Completion("", error="no answer after 7 tries"), False, True, "engine"),
        (Completion(FALSE, error="no answer after 7 tries"), False, True, "engine"),
        (Completion("perhaps"), False, True, "parse"),
        (Completion(""), False, True, "parse"),
    ],
)
def test_only_what_is_called_false_is_dropped_and_only_what_is_called_true_is_verified(
    completion: Completion, verified: bool, kept: bool, kind: str | None
) -> None:
    found, failures = decided(Scripted(lambda *_: completion))
    assert {(e.verified, e.kept) for sentence in found for e in sentence} == {(verified, kept)}
    assert failures == [kind] * 4 if kind else not failures


def test_each_answer_is_for_its_own_entity_and_nothing_else_changes() -> None:
    asked = {
        "True or false: Anna is a person in this sentence:": TRUE,
        "True or false: Oslo is a place in this sentence:": FALSE,
        "True or false: Ben is a person in this sentence:": TRUE,
        "True or false: Anna is a place in this sentence:": FALSE,
    }

    def answer(_: str, request: Request) -> Completion:
        return Completion(asked[request.turns[-1].strip()])

    ensemble = Scripted(answer)
    found, _ = decided(ensemble)
    assert [[(e.span, e.label, e.verified, e.kept) for e in sentence] for sentence in found] == [
        [(Span(0, 4), "person", True, True), (Span(10, 14), "place", False, False)],
        [(Span(16, 19), "person", True, True), (Span(24, 28), "place", False, False)],
    ]
    assert {(e.score, e.extracted_by) for sentence in found for e in sentence} == {(0.75, ("fake-a",))}
    assert ensemble.counts == {"fake-b": 4}  # the verifier alone
    assert all(request.choices == (TRUE, FALSE) for request in ensemble.asked["fake-b"])

"""What is learnt from annotated pool sentences: which of them, what of their candidates counts, and what for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from el4ner_ray import job
from el4ner_ray.calibration import Weighed, chosen, judged, learn, learn_from, overlapping
from el4ner_ray.config import Calibration, load
from el4ner_ray.core.evidence import Evidence
from el4ner_ray.core.fusion import fit, out_of_fold
from el4ner_ray.job import calibration_basis
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.pool import Pool
from el4ner_ray.schema import Annotated, Entity, Span
from el4ner_ray.stages import fuse
from tests.scripted import ByFirstLetter, index_of

LABELS = ("x", "y")
Spans = Sequence[tuple[int, int]]


def candidates(spans: Spans) -> list[Entity]:
    return [Entity(Span(start, end), "", 0.0, (), ("a",)) for start, end in spans]


def sentence(text: str, gold: Sequence[tuple[int, int, str]], found: Spans, values: Sequence[float]) -> Weighed:
    """A sentence with these gold entities and candidates; each candidate's evidence is one number, for label x."""
    labelled = np.zeros((len(values), 2, 1))
    labelled[:, 0, 0] = values
    entities = tuple(LabelledSpan(*entity) for entity in gold)
    return Weighed(LabelledText(text, text, entities), candidates(found), Evidence(np.ones((len(values), 1)), labelled))


def known() -> list[Weighed]:
    """Eleven texts, one of them three times: two without candidates, four with two in conflict."""
    texts = [f"Name {letter} and Other {letter}" for letter in "abcdefgh"]
    # Both candidates begin at 0 and overlap: the first, shorter one is gold, and has the better evidence.
    conflicts = [sentence(t, [(0, 4, "x")], [(0, 4), (0, 6)], [2.0 + i / 10, 1.0]) for i, t in enumerate(texts[:4])]
    # Apart from each other; the second is wrong.
    apart = [sentence(t, [(0, 4, "y")], [(0, 4), (11, 16)], [0.5, -1.0 - i / 10]) for i, t in enumerate(texts[4:])]
    same = sentence("Twice said", [(0, 5, "x")], [(0, 5), (6, 10)], [1.5, -2.0])
    nothing_found = [sentence("It Was", [(0, 2, "x"), (3, 6, "y")], [], []), sentence("It rained", [], [], [])]
    return [same, *conflicts, nothing_found[0], same, *apart, nothing_found[1], same]


def test_sentences_are_learnt_from_as_they_would_be_annotated() -> None:
    sentences = known()
    fusion = learn_from(sentences, LABELS, nested=False)
    assert (fusion.sentences, fusion.nested) == (13, False)
    assert fusion.gold == 3 + 4 + 2 + 4  # also what no model found
    assert fusion.candidates == 2 * 11

    with_candidates = [s for s in sentences if s.candidates]
    evidence = Evidence.concatenate([s.evidence for s in with_candidates])
    # Label x, label y, or nothing, in the order of `known`.
    truth = np.array([1, 0] * 6 + [2, 0] * 4 + [1, 0])
    # The three that are alike are held out together: a fit on two of them would know the third.
    numbers = {text: number for number, text in enumerate(sorted({s.gold.text for s in with_candidates}))}
    text_of = np.array([numbers[s.gold.text] for s in with_candidates for _ in s.candidates])
    held_out = out_of_fold(evidence, truth, text_of, fusion.penalty)
    assert not np.allclose(held_out, out_of_fold(evidence, truth, np.arange(len(truth)), fusion.penalty))
    assert fusion.weights == fit(evidence, truth, fusion.penalty)

    best = held_out[:, 1:].max(axis=1)
    left = np.array([not (i % 2 == 1 and 1 <= i // 2 <= 4) for i in range(22)])  # but for what lost a conflict
    assert fusion.scores == pytest.approx(fusion.scaling(best[left]).tolist())
    assert not np.allclose(fusion.scores, best[left], atol=0.01)
    labels = held_out[:, 1:].argmax(axis=1) + 1
    assert fusion.right == tuple((labels == truth)[left].tolist())
    assert {*fusion.right} == {True, False}


@pytest.mark.parametrize(
    ("nested", "scores", "right"),
    [(False, [0.7, 0.6, 0.4], [True, False, False]), (True, [0.7, 0.5, 0.6, 0.4], [True, False, False, False])],
)
def test_what_loses_a_conflict_is_not_judged(nested: bool, scores: list[float], right: list[bool]) -> None:
    sentences = [
        sentence("Anna Berg", [(0, 9, "x"), (5, 9, "y")], [(0, 9), (0, 4)], [0, 0]),
        sentence("It rained", [], [], []),
        sentence("Oslo and Rome", [(0, 4, "y")], [(0, 4), (9, 13)], [0, 0]),
    ]
    # Oslo is taken for an x, and is a y.
    probabilities = [
        np.array([[0.1, 0.7, 0.2], [0.4, 0.1, 0.5]]),
        np.empty((0, 3)),
        np.array([[0.2, 0.6, 0.2], [0.4, 0.2, 0.4]]),
    ]
    found, truth = judged(sentences, probabilities, LABELS, nested=nested)
    assert found == pytest.approx(scores, abs=1e-9)
    assert truth.tolist() == right


@pytest.mark.parametrize(
    ("spans", "overlap"),
    [
        ([], False),
        ([[(0, 4)], [(2, 6)]], False),  # in two texts
        ([[(0, 4), (4, 8)]], False),
        ([[(5, 8), (0, 4)]], False),
        ([[], [(0, 9), (5, 9)]], True),
        ([[(5, 9), (0, 6)]], True),
        ([[(0, 20), (2, 4), (6, 8)]], True),
        ([[(0, 4), (0, 4)]], True),  # of two types
        ([[(0, 2), (3, 9), (4, 5)], [(0, 1)]], True),
    ],
)
def test_entities_of_the_pool_overlap(spans: Sequence[Spans], overlap: bool) -> None:
    texts = [
        LabelledText(str(number), "x" * 20, tuple(LabelledSpan(*span, f"t{i}") for i, span in enumerate(of_text)))
        for number, of_text in enumerate(spans)
    ]
    assert overlapping(texts) is overlap


@pytest.mark.parametrize(
    ("pool", "most", "numbers"),
    [
        (1000, 100, list(range(0, 1000, 10))),
        (150, 100, [i * 3 // 2 for i in range(100)]),
        (120, 300, list(range(120))),
        (250, 100, [i * 5 // 2 for i in range(100)]),
    ],
)
def test_what_is_learnt_from_is_spread_over_the_pool(pool: int, most: int, numbers: list[int]) -> None:
    assert chosen(pool, Calibration(sentences=most)) == numbers


@pytest.mark.parametrize("inner", [None, LabelledSpan(0, 2, "y")])
def test_learning_looks_at_the_whole_pool_but_for_the_sentence_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: LabelledSpan | None
) -> None:
    config = load(profile="fake", overrides={"method": "calibrated"})
    names = ("Anna", "Berta", "Clara", "Dora", "Elsa", "Fina")
    pool = [LabelledText(name, f"{name} and us", (LabelledSpan(0, len(name), "x"),)) for name in names]
    if inner:  # in a sentence that nobody annotated
        pool.append(LabelledText("last", "Gina left", (LabelledSpan(0, 4, "x"), inner)))
    folder = index_of(tmp_path / "index", pool, [[name] for name in names] + [["Gina"]] * (inner is not None))
    monkeypatch.setattr(fuse, "Embedder", lambda _: ByFirstLetter())
    of_pool: list[bool] = []
    weigh = fuse.Weigher.weigh

    def noted(*arguments: object, **options: bool) -> Evidence:
        of_pool.append(options["of_pool"])
        return weigh(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fuse.Weigher, "weigh", noted)
    annotated = [Annotated(i, candidates([(0, len(name))]), [(i + 1) % 6]) for i, name in enumerate(names)]
    fusion = learn(config, dict.fromkeys(LABELS, ""), folder, annotated)
    assert fusion.nested is (inner is not None)
    assert (fusion.sentences, fusion.gold, fusion.candidates) == (6, 6, 6)
    assert of_pool == [True] * 6


def test_what_was_learnt_holds_for_what_it_was_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(profile="fake", overrides={"method": "calibrated"})

    def basis(**calibration: object) -> str:
        other = load(profile="fake", overrides={"method": "calibrated", "calibration": calibration})
        return calibration_basis(other, pool)

    pool = Pool("index", {"x": ""}, {"sentences": 400}, None)
    before = calibration_basis(config, pool)
    assert basis(target_precision=0.9) == basis(target_recall=0.5) == before  # is chosen afterwards
    assert basis(sentences=200) != before
    assert calibration_basis(config, Pool("index", {"x": ""}, {"sentences": 401}, None)) != before
    monkeypatch.setattr(job, "VERSION", job.VERSION + 1)
    assert calibration_basis(config, pool) != before

"""Calibrated fusion: what is learnt, what is kept, and whether scores mean what they say."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from el4ner_ray.calibration import Weighed, learn_from, read_fusion, write_fusion
from el4ner_ray.core.evidence import Evidence, Neighbourhood, names, shape, weigh
from el4ner_ray.core.fusion import (
    Fusion,
    OperatingPoint,
    Weights,
    best_penalty,
    choose,
    fit,
    operating_points,
    out_of_fold,
    resolve,
)
from el4ner_ray.core.lexicon import NOT_AN_ENTITY, Lexicon
from el4ner_ray.core.reliability import reliability
from el4ner_ray.core.scaling import Scaling, fit_scaling
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.schema import Candidate, Entity, Span, Vote
from el4ner_ray.stages.classify import with_listed

MODELS = ("a", "b")
LABELS = ("x", "y")


def simulated(n: int, seed: int = 0) -> tuple[Evidence, np.ndarray, np.ndarray]:
    """Candidates whose truth is drawn from a known conditional logit over no entity and two labels."""
    random = np.random.default_rng(seed)
    shared, labelled = random.normal(size=(n, 2)), random.normal(size=(n, 2, 1))
    utilities = np.c_[np.zeros(n), (shared @ [1.5, 0.0])[:, None] + 2.0 * labelled[:, :, 0] + [0.5, -0.5]]
    probabilities = np.exp(utilities) / np.exp(utilities).sum(axis=1, keepdims=True)
    truth = np.array([random.choice(3, p=row) for row in probabilities])
    return Evidence(shared, labelled), truth, np.arange(n) // 3


def test_fit_finds_the_weights_that_made_the_truth():
    evidence, truth, _ = simulated(20_000)
    weights = fit(evidence, truth, penalty=1.0)
    assert weights.shared == pytest.approx((1.5, 0.0), abs=0.1)
    assert weights.labelled == pytest.approx((2.0,), abs=0.1)
    assert weights.bias[0] - weights.bias[1] == pytest.approx(1.0, abs=0.15)


def test_units_and_zeros_of_features_change_no_probability():
    # Percentages, logarithms and counts stand beside each other, and some never change: all models list everything.
    evidence, truth, _ = simulated(600)
    moved = Evidence(
        np.c_[evidence.shared * [50.0, 0.02] + 7, np.full(600, 3.0)],
        np.concatenate([evidence.labelled * 50 + 7, np.full((600, 2, 1), -2.0)], axis=2),
    )
    for penalty in (1.0, 100.0):
        before, after = fit(evidence, truth, penalty), fit(moved, truth, penalty)
        assert after.probabilities(moved) == pytest.approx(before.probabilities(evidence), abs=1e-4)
        assert (after.shared[-1], after.labelled[-1]) == (0.0, 0.0)
        assert after.labelled[0] == pytest.approx(before.labelled[0] / 50, rel=1e-3)


@pytest.mark.parametrize("rate", [0.03, 0.5, 0.95])
def test_the_rate_of_entities_is_not_shrunk(rate):
    # Most of what models list is no entity. The heaviest penalty leaves the mean probability where it was.
    random = np.random.default_rng(3)
    truth = np.where(random.random(2_000) < rate, random.integers(1, 3, 2_000), 0)
    evidence = Evidence(random.normal(size=(2_000, 2)) * 50 + 7, random.normal(size=(2_000, 2, 1)) + 7)
    for penalty in (1.0, 100.0, 1e6):
        probabilities = fit(evidence, truth, penalty).probabilities(evidence)
        assert 1 - probabilities[:, 0].mean() == pytest.approx((truth > 0).mean(), abs=1e-4)


def test_fit_is_deterministic_and_survives_json():
    evidence, truth, _ = simulated(300)
    weights = fit(evidence, truth, penalty=3.0)
    assert weights == fit(evidence, truth, penalty=3.0)
    again = msgspec.json.decode(msgspec.json.encode(weights), type=Weights)
    assert np.array_equal(again.probabilities(evidence), weights.probabilities(evidence))


def test_probabilities_are_distributions_even_for_extreme_evidence():
    evidence, truth, _ = simulated(300)
    extreme = Evidence(evidence.shared * 1e6, evidence.labelled * 1e6)
    found = fit(evidence, truth, penalty=1.0).probabilities(extreme)
    assert np.isfinite(found).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(300))


def test_held_out_scores_are_calibrated():
    evidence, truth, sentence_of = simulated(4_000)
    penalty, probabilities = best_penalty(evidence, truth, sentence_of)
    assert np.array_equal(probabilities, out_of_fold(evidence, truth, sentence_of, penalty))
    best = probabilities[:, 1:].argmax(axis=1)
    scores = probabilities[np.arange(len(truth)), 1 + best]
    assert reliability(scores, best + 1 == truth).error < 0.03


def test_a_held_out_sentence_has_no_part_in_its_own_fit():
    evidence, truth, sentence_of = simulated(300)
    before = out_of_fold(evidence, truth, sentence_of, 1.0)
    changed = truth.copy()
    changed[sentence_of == 7] = (changed[sentence_of == 7] + 1) % 3
    after = out_of_fold(evidence, changed, sentence_of, 1.0)
    assert np.array_equal(before[sentence_of == 7], after[sentence_of == 7])
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("spans", "scores", "flat", "nested"),
    [
        ([Span(0, 2), Span(3, 5)], [0.1, 0.9], [0, 1], [0, 1]),
        ([Span(0, 5), Span(0, 2)], [0.5, 0.9], [1], [0, 1]),
        ([Span(0, 3), Span(2, 5)], [0.5, 0.9], [1], [1]),
        ([Span(0, 2), Span(0, 5)], [0.5, 0.5], [1], [0, 1]),
        ([Span(0, 4), Span(3, 6), Span(5, 9)], [0.6, 0.9, 0.5], [1], [1]),
        ([Span(0, 4), Span(3, 6), Span(5, 9)], [0.9, 0.6, 0.5], [0, 2], [0, 2]),
        ([], [], [], []),
    ],
)
def test_conflicts_go_to_the_more_probable(spans, scores, flat, nested):
    assert resolve(spans, scores, nested=False) == flat
    assert resolve(spans, scores, nested=True) == nested


_spans = st.tuples(st.integers(0, 20), st.integers(1, 10)).map(lambda pair: Span(pair[0], sum(pair)))


@given(st.lists(st.tuples(_spans, st.floats(0, 1)), unique_by=lambda pair: pair[0]), st.booleans(), st.floats(0, 1))
def test_what_remains_above_a_threshold_does_not_depend_on_what_is_below(pairs, nested, threshold):
    spans, scores = [s for s, _ in pairs], [p for _, p in pairs]
    from_all = {spans[i] for i in resolve(spans, scores, nested) if scores[i] >= threshold}
    above = [(s, p) for s, p in pairs if p >= threshold]
    assert from_all == {above[i][0] for i in resolve([s for s, _ in above], [p for _, p in above], nested)}


SCORES, RIGHT = np.array([0.9, 0.8, 0.8, 0.4, 0.2]), np.array([True, True, False, True, False])


def test_operating_points_count_what_no_candidate_found():
    points = operating_points(SCORES, RIGHT, gold=5)
    assert [round(p.threshold, 1) for p in points] == [0.9, 0.8, 0.4, 0.2]
    assert [(p.precision, p.recall) for p in points] == [(1, 0.2), (2 / 3, 0.4), (3 / 4, 0.6), (3 / 5, 0.6)]
    assert points[2].f1 == pytest.approx(2 * 3 / (4 + 5))


def test_choose_takes_what_is_asked_for():
    points = operating_points(SCORES, RIGHT, gold=5)
    assert choose(points).threshold == 0.4
    assert choose(points, precision=0.9).threshold == 0.9
    assert choose(points, precision=0.7).threshold == 0.4
    assert choose(points, recall=0.3).threshold == 0.4
    with pytest.raises(ValueError, match="no threshold reaches recall"):
        choose(points, recall=0.9)


# Threshold, precision, recall, F1, mean score. The largest F1 is neither the most nor the surest.
STRICT = OperatingPoint(0.9, 1.0, 0.3, 0.46, 0.95)
BALANCED = OperatingPoint(0.6, 0.8, 0.6, 0.69, 0.85)
FLATTERED = OperatingPoint(0.5, 0.6, 0.65, 0.62, 0.82)
LOOSE = OperatingPoint(0.2, 0.5, 0.7, 0.58, 0.7)
POINTS = [STRICT, BALANCED, FLATTERED, LOOSE]


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({}, BALANCED),
        ({"precision": 0.96}, None),  # observed, but not expected
        ({"precision": 0.95}, STRICT),
        ({"precision": 0.82}, STRICT),
        ({"precision": 0.8}, BALANCED),
        ({"precision": 0.7}, BALANCED),  # the next is expected to have it, and had not
        ({"precision": 0.6}, FLATTERED),
        ({"precision": 0.5}, LOOSE),
        ({"recall": 0.3}, STRICT),
        ({"recall": 0.31}, BALANCED),
        ({"recall": 0.65}, FLATTERED),
        ({"recall": 0.7}, LOOSE),
        ({"recall": 0.71}, None),
    ],
)
def test_a_target_is_reached_with_as_much_of_the_other_as_can_be_had(asked, chosen):
    for points in (POINTS, POINTS[::-1]):
        if chosen is None:
            with pytest.raises(ValueError, match="no threshold reaches"):
                choose(points, **asked)
        else:
            assert choose(points, **asked) == chosen


def test_a_lucky_threshold_is_not_taken_for_a_precision():
    # Both of the first two are right, by luck: their scores expect less.
    points = operating_points(np.array([0.7, 0.6, 0.5]), np.array([True, True, False]), gold=3)
    assert [point.mean_score for point in points] == pytest.approx([0.7, 0.65, 0.6])
    assert choose(points, precision=0.64).threshold == 0.6
    with pytest.raises(ValueError, match="no threshold reaches precision"):
        choose(points, precision=0.9)


def promised_and_found(seed: int, target: float) -> tuple[float, float, float]:
    """What 900 candidates with shrunken scores promise for a target: precision, mean score; and what others show."""
    random = np.random.default_rng(seed)
    shrink = Scaling(-0.3, 0.8)
    true, others = random.beta(0.5, 1.5, 900), random.beta(0.5, 1.5, 20_000)
    right = random.random(900) < true
    scaling = fit_scaling(shrink(true), right)
    point = choose(operating_points(scaling(shrink(true)), right, int(right.sum())), precision=target)
    found = float(others[scaling(shrink(others)) >= point.threshold].mean())
    return point.precision, point.mean_score, found


def test_a_target_precision_is_reached_on_other_sentences():
    observed, expected, found = np.array([promised_and_found(seed, 0.9) for seed in range(30)]).T
    assert found.mean() > 0.9
    assert (found < 0.85).mean() < 0.05
    assert expected.mean() == pytest.approx(found.mean(), abs=0.01)
    assert observed.mean() > expected.mean()  # what was chosen on is flattered still


def test_reliability_is_the_weighted_gap():
    found = reliability([0.95, 0.95, 0.15, 1.0], [True, False, False, True])
    assert [(b.count, b.right) for b in found.bins] == [(1, 0.0), (3, pytest.approx(2 / 3))]
    assert found.error == pytest.approx((0.15 + abs((0.95 + 0.95 + 1) / 3 - 2 / 3) * 3) / 4)
    assert found.count == 4
    with pytest.raises(ValueError, match="no scores"):
        reliability([], [])


def test_scores_of_the_output_lie_in_the_bins_that_begin_with_them():
    # As 32 bits, 0.7 and 0.9 are a little less.
    found = reliability(np.arange(10).astype(np.float32) / np.float32(10), [True] * 10)
    assert [(b.low, b.count) for b in found.bins] == [(i / 10, 1) for i in range(10)]


@pytest.mark.parametrize("n", [60, 600])
def test_chance_alone_makes_an_error(n):
    random = np.random.default_rng(1)
    scores = random.uniform(0.2, 1, n)
    errors = [reliability(scores, random.random(n) < scores).error for _ in range(300)]
    assert reliability(scores, scores > 0.5).by_chance == pytest.approx(np.mean(errors), rel=0.1)


def test_a_fusion_knows_its_own_reliability():
    weights = Weights((0.0,), (0.0,), (0.0,), (0.0,), (0.0,))
    fusion = Fusion(weights, Scaling(), False, 1.0, 5, 5, 5, tuple(SCORES), tuple(map(bool, RIGHT)))
    assert fusion.reliability(0.85).error == pytest.approx(0.1)
    assert choose(fusion.operating_points()).threshold == 0.4


def test_scaling_mends_scores_that_are_too_low():
    random = np.random.default_rng(2)
    true = random.uniform(0.05, 1, 4_000)
    right = random.random(4_000) < true
    shrunk = Scaling(intercept=-0.5, slope=0.6)(true)
    found = fit_scaling(shrunk, right)
    assert reliability(shrunk, right).error > 0.1
    assert reliability(found(shrunk), right).error < 0.03
    assert found.slope == pytest.approx(1 / 0.6, rel=0.1)


@pytest.mark.parametrize(("scores", "right"), [([], []), ([0.01, 0.02], [True, False])])
def test_scaling_without_anything_to_learn_from_changes_nothing(scores, right):
    found = fit_scaling(np.array(scores), np.array(right, bool))
    assert (found.intercept, found.slope) == pytest.approx((0.0, 1.0))
    assert Scaling()(np.array([0.0, 0.3, 1.0])) == pytest.approx(np.array([0.0, 0.3, 1.0]), abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_scaling_changes_no_order_and_leaves_probabilities(pairs):
    scores = np.sort(np.array([score for score, _ in pairs]))
    scaled = fit_scaling(scores, np.array([right for _, right in pairs], bool))(scores)
    assert (np.diff(scaled) >= 0).all()
    assert scaled.min() >= 0
    assert scaled.max() <= 1


def test_a_calibration_of_another_version_is_not_read(tmp_path):
    (tmp_path / "calibration.json").write_text('{"basis": "before", "fusion": {"weights": "of another kind"}}')
    assert read_fusion(str(tmp_path), "now") is None
    fusion = some_fusion()
    write_fusion(str(tmp_path), "now", fusion)
    assert read_fusion(str(tmp_path), "now") == fusion


def some_fusion() -> Fusion:
    weights = Weights((0.5,), (0.0,), (0.0,), (0.0,), (0.0,))
    return Fusion(weights, Scaling(0.1, 1.2), True, 1.0, 5, 5, 5, tuple(SCORES.tolist()), tuple(RIGHT.tolist()))


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"basis": "now", "fusion": {"weights": 1}}'])
def test_a_damaged_calibration_is_named_with_the_mend(tmp_path, content):
    (tmp_path / "calibration.json").write_bytes(content)
    with pytest.raises(
        UsageError, match=r"calibration\.json: damaged: .*; remove it, and what it held is learnt again$"
    ):
        read_fusion(str(tmp_path), "now")


def test_two_tries_of_one_calibration_do_not_touch_each_others_files(tmp_path, monkeypatch):
    fusion, replace = some_fusion(), Path.replace

    def overtaken(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        write_fusion(str(tmp_path), "other", fusion)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", overtaken)
    write_fusion(str(tmp_path), "now", fusion)
    assert read_fusion(str(tmp_path), "now") == fusion
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


def test_one_text_alone_teaches_nothing():
    oslo = LabelledText("0", "Oslo", (LabelledSpan(0, 4, "x"),))
    found = [Entity(Span(0, 4), "x", 0.0, (), ())]
    known = [Weighed(oslo, found, Evidence(np.zeros((1, 1)), np.zeros((1, 2, 1))))] * 10
    with pytest.raises(FatalError, match="in one text of the pool alone"):
        learn_from(known, LABELS, nested=False)


def test_lexicon_leaves_a_sentence_out_when_it_is_asked_about_itself():
    vectors = np.eye(3, dtype=np.float32)
    lexicon = Lexicon.of(vectors, [(0, 0, 0), (1, 1, 1), (NOT_AN_ENTITY, 2, 0), (0, 1, 2)], labels=3)
    assert lexicon.nearest(vectors).tolist() == [[0, 1, 0, -1], [0, 1, 1, -1], [1, 0, 0, -1]]
    assert lexicon.nearest(vectors, without=[0]).tolist() == [[-1, 0, 0, -1], [-1, 1, 1, -1], [-1, 0, 0, -1]]
    assert lexicon.nearest(vectors, without=[0, 2]).tolist() == [[-1, -1, 0, -1], [-1, -1, 1, -1], [-1, -1, 0, -1]]
    empty = Lexicon.of(np.empty((0, 3), np.float32), [], labels=2)
    assert empty.nearest(vectors).tolist() == [[-1, -1, -1]] * 3


def entity(start: int, end: int, logprobs: dict[str, tuple[float, ...]], extracted_by: tuple[str, ...]) -> Entity:
    votes = tuple(Vote(model, LABELS[int(np.argmax(values))], 0.5, values) for model, values in logprobs.items())
    return Entity(Span(start, end), "x", 0.0, votes, extracted_by)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda pair: Span(pair[0], sum(pair)))))
def test_candidates_lie_in_around_and_across_others(spans):
    relations = []
    for span in spans:
        others = [other for other in spans if other != span and other.start < span.end and span.start < other.end]
        inside = [other.start <= span.start and span.end <= other.end for other in others]
        around = [span.start <= other.start and other.end <= span.end for other in others]
        across = [not (within or outside) for within, outside in zip(inside, around, strict=True)]
        relations.append([float(any(found)) for found in (inside, around, across)])
    candidates = [entity(span.start, span.end, {}, ()) for span in spans]
    near, nothing = np.zeros((len(spans), 1 + len(LABELS)), np.float32), Neighbourhood(0.0, np.zeros(len(LABELS)))
    shared = weigh("x" * 20, candidates, MODELS, LABELS, near, nothing).shared
    columns = [names(MODELS)[0].index(name) for name in ("inside another", "around another", "crosses another")]
    assert shared[:, columns].tolist() == relations


def test_weigh_says_what_its_columns_are_named():
    text = "Anna Berg met the WHO in Oslo."
    candidates = [
        entity(0, 9, {"a": (math.log(0.9), math.log(0.1)), "b": (math.log(0.2), math.log(0.8))}, ("a", "b")),
        entity(0, 4, {"a": (math.log(0.6), math.log(0.4))}, ("a",)),
        entity(18, 21, {}, ("b",)),
    ]
    near = np.array([[0.1, 0.8, 0.3], [0.2, 0.7, 0.1], [0.5, -1, 0.4]], np.float32)
    evidence = weigh(text, candidates, MODELS, LABELS, near, Neighbourhood(0.5, np.array([0.5, 0.0])))
    shared, labelled = names(MODELS)
    column = {name: evidence.shared[:, i] for i, name in enumerate(shared)}
    assert column["extracted by a"].tolist() == [1, 1, 0]
    assert column["extracted by"].tolist() == [1, 0.5, 0.5]
    assert column["certainty of a"] == pytest.approx([0.9, 0.6, 0.5])
    assert column["inside another"].tolist() == [0, 1, 0]
    assert column["around another"].tolist() == [1, 0, 0]
    assert column["all capitals"].tolist() == [0, 0, 1]
    assert column["capitalised at the start"].tolist() == [1, 1, 0]
    assert column["near an entity"] == pytest.approx([0.8, 0.7, 0.4])
    by_label = {name: evidence.labelled[:, :, i] for i, name in enumerate(labelled)}
    assert by_label["votes"].tolist() == [[0.5, 0.5], [0.5, 0.0], [0.0, 0.0]]
    assert by_label["log-probability by b"][1] == pytest.approx([-math.log(2)] * 2)
    assert by_label["demonstrated"].tolist() == [[0.5, 0.0]] * 3


def test_a_vote_counts_for_the_label_that_it_names():
    # "cell line" and "cell type" begin with the same token in two of the bundled models, and share its probability.
    votes = (Vote("a", "y", 0.5, (math.log(0.5), math.log(0.5))), Vote("b", None, 0.0, (math.log(0.9), math.log(0.1))))
    undecided = Entity(Span(0, 1), "y", 0.0, votes, ("a",))
    evidence = weigh("x", [undecided], MODELS, LABELS, np.zeros((1, 3), np.float32), Neighbourhood(0.0, np.zeros(2)))
    by_label = {name: evidence.labelled[0, :, i].tolist() for i, name in enumerate(names(MODELS)[1])}
    assert by_label["votes"] == [0, 0.5]


def test_what_was_listed_joins_what_was_extracted():
    extracted = entity(5, 9, {"a": (0.0, -9.0)}, ("a",))
    joined = with_listed([extracted], [Candidate(Span(0, 4), ("b",)), Candidate(Span(5, 9), ("a", "b"))])
    assert [(e.span, e.extracted_by, e.listed_by, len(e.votes)) for e in joined] == [
        (Span(0, 4), (), ("b",), 0),
        (Span(5, 9), ("a",), ("a", "b"), 1),
    ]
    near = np.zeros((2, 3), np.float32)
    evidence = weigh("Anna Berg", joined, MODELS, LABELS, near, Neighbourhood(0.0, np.zeros(2)))
    column = {name: evidence.shared[:, i].tolist() for i, name in enumerate(names(MODELS)[0])}
    assert column["listed by a"] == [0, 1]
    assert column["listed by"] == [0.5, 1]
    assert column["extracted at all"] == [0, 1]
    assert column["listed by, if extracted"] == [0, 1]


def test_what_a_span_is_to_one_candidate_hides_nothing_of_another():
    text = "Anna Berg Hansen"
    spans = [(0, 9), (0, 4), (5, 16)]
    near = np.zeros((3, 3), np.float32)
    for order in ([0, 1, 2], [2, 1, 0]):
        candidates = [entity(*spans[i], {}, ("a",)) for i in order]
        evidence = weigh(text, candidates, MODELS, LABELS, near, Neighbourhood(0.0, np.zeros(2)))
        column = {name: evidence.shared[np.argsort(order), i].tolist() for i, name in enumerate(names(MODELS)[0])}
        assert column["around another"] == [1, 0, 0]
        assert column["inside another"] == [0, 1, 0]
        assert column["crosses another"] == [1, 0, 1]


def test_weigh_of_nothing_has_the_same_columns():
    evidence = weigh("x", [], MODELS, LABELS, np.empty((0, 3), np.float32), Neighbourhood(0.0, np.zeros(2)))
    assert evidence.shared.shape == (0, len(names(MODELS)[0]))
    assert evidence.labelled.shape == (0, 2, len(names(MODELS)[1]))


@given(st.text(min_size=1, max_size=30), st.data())
def test_shape_is_finite_for_any_text(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    assert all(math.isfinite(value) for value in shape(text, Span(start, end)))


@pytest.mark.parametrize("text", ["东京都在日本", "القاهرة مدينة", "አዲስ አበባ", "12:30"])
def test_scripts_without_case_have_no_capitals(text):
    values = shape(text, Span(0, 3))
    assert values[2:7] == (0, 0, 0, 0, 0)

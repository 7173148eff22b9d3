"""Retrieval equals a plain-Python reading of the formula."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from el4ner_ray.core.similarity import nearest, span_similarity
from tests.conftest import DATA


def reference(query: list, weights: list, pool: list[list]) -> list[float]:
    """Sim(X, X^c) = sum_s w(s) max cos(e(s), e(s^c)) / sum_s w(s), word for word."""
    similarities = []
    for sentence in pool:
        total = 0.0
        for vector, weight in zip(query, weights, strict=True):
            cosines = [sum(float(a) * float(b) for a, b in zip(vector, other, strict=True)) for other in sentence]
            total += weight * max(cosines, default=-1.0)
        similarities.append(total / sum(weights))
    return similarities


def flatten(pool: list[list]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vectors = [vector for sentence in pool for vector in sentence]
    distinct = np.array(vectors, np.float32).reshape(len(vectors), -1) if vectors else np.empty((0, 3), np.float32)
    starts = np.cumsum([0, *map(len, pool)], dtype=np.int64)
    return distinct, np.arange(len(vectors), dtype=np.int64), starts


unit = hnp.arrays(np.float32, 3, elements=st.floats(-1, 1, width=32)).filter(lambda v: np.linalg.norm(v) > 0.1)
vectors = unit.map(lambda v: v / np.linalg.norm(v))


@settings(max_examples=150)
@given(
    st.lists(vectors, min_size=1, max_size=4),
    st.lists(st.lists(vectors, max_size=3), min_size=1, max_size=6),
    st.data(),
)
def test_equals_the_reference(query: list, pool: list[list], data: st.DataObject) -> None:
    weights = data.draw(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, 4.0]), min_size=len(query), max_size=len(query)).filter(any)
    )
    distinct, span_of, starts = flatten(pool)
    if not len(distinct):
        return
    found = span_similarity(np.array(query, np.float32), np.array(weights, np.float32), distinct, span_of, starts)
    assert found.tolist() == pytest.approx(reference(query, weights, pool), abs=1e-5)


def test_repeated_surfaces_are_stored_once_and_count_in_every_sentence() -> None:
    distinct = np.eye(2, dtype=np.float32)
    similarities = span_similarity(
        distinct[:1], np.ones(1, np.float32), distinct, np.array([0, 1, 0]), np.array([0, 1, 2, 2, 3])
    )
    assert similarities.tolist() == [1.0, 0.0, -1.0, 1.0]


def test_weights_without_a_positive_one_are_refused() -> None:
    with pytest.raises(ValueError, match="positive weight"):
        span_similarity(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), *flatten([[np.ones(2)]]))


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), max_size=12), st.integers(0, 14))
def test_nearest_is_a_stable_sort(values: list[float], k: int) -> None:
    expected = sorted(range(len(values)), key=lambda i: -np.float32(values[i]))[:k]
    assert nearest(np.array(values, np.float32), k) == expected


@pytest.mark.skipif(not DATA.is_dir(), reason="the NER data sets are not here")
def test_equals_the_reference_on_real_text() -> None:
    """Gold spans of real sentences, embedded by hashed character trigrams, real numbers of spans and repetitions."""

    def embed(surface: str) -> np.ndarray:
        vector = np.zeros(32, np.float32)
        for i in range(len(surface) + 2):
            vector[sum(map(ord, f"  {surface} "[i : i + 3])) % 32] += 1
        return vector / math.sqrt(float(vector @ vector))

    lines = (DATA / "genia" / "dev.jsonl").read_text("utf-8").splitlines()[:120]
    surfaces = [[entity["text"] for entity in json.loads(line)["entities"]] for line in lines]
    queries, pool = [s for s in surfaces[:20] if s], surfaces[20:]
    distinct = list(dict.fromkeys(surface for sentence in pool for surface in sentence))
    number = {surface: i for i, surface in enumerate(distinct)}
    span_of = np.array([number[surface] for sentence in pool for surface in sentence])
    starts = np.cumsum([0, *map(len, pool)])
    matrix = np.stack([embed(surface) for surface in distinct])
    for query in queries:
        weights = [4.0 if i % 2 else 2.0 for i in range(len(query))]
        embedded = [embed(surface) for surface in query]
        found = span_similarity(np.stack(embedded), np.array(weights, np.float32), matrix, span_of, starts)
        expected = reference(embedded, weights, [[embed(s) for s in sentence] for sentence in pool])
        assert found.tolist() == pytest.approx(expected, abs=1e-5)

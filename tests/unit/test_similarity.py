"""Retrieval equals a plain-Python reading of the formula."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from el4ner_ray.core.similarity import PoolSpans, nearest, span_similarities
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


queries = st.lists(
    st.lists(st.tuples(vectors, st.sampled_from([0.0, 1.0, 2.0, 4.0])), min_size=1, max_size=4).filter(
        lambda spans: any(weight for _, weight in spans)
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150)
@given(queries, st.lists(st.lists(vectors, max_size=3), min_size=1, max_size=6))
def test_equals_the_reference(asked: list[list[tuple]], pool: list[list]) -> None:
    embedded = [np.array([vector for vector, _ in spans], np.float32) for spans in asked]
    weights = [np.array([weight for _, weight in spans], np.float32) for spans in asked]
    found = span_similarities(embedded, weights, PoolSpans.of(*flatten(pool)))
    expected = [reference(query, list(of_query), pool) for query, of_query in zip(embedded, weights, strict=True)]
    assert found.tolist() == [pytest.approx(of_query, abs=1e-5) for of_query in expected]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.data())
def test_a_sentence_gets_the_same_whatever_is_asked_with_it(seed: int, asked: int, data: st.DataObject) -> None:
    """To the bit, or a run would depend on where its batches were cut."""
    random = np.random.default_rng(seed)

    def units(count: int) -> np.ndarray:
        found = random.standard_normal((count, 48), np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    starts = np.cumsum([0, *random.integers(0, 4, 40)])
    pool = PoolSpans.of(units(30), random.integers(0, 30, starts[-1]), starts)
    embedded = [units(count) for count in random.integers(1, 6, asked)]
    weights = [random.choice(np.array([1, 2, 4], np.float32), len(query)) for query in embedded]
    together = span_similarities(embedded, weights, pool)
    first = data.draw(st.integers(0, asked - 1))
    last = data.draw(st.integers(first + 1, asked))
    assert np.array_equal(span_similarities(embedded[first:last], weights[first:last], pool), together[first:last])


def test_repeated_surfaces_are_stored_once_and_count_in_every_sentence() -> None:
    distinct = np.eye(2, dtype=np.float32)
    pool = PoolSpans.of(distinct, np.array([0, 1, 0]), np.array([0, 1, 2, 2, 3]))
    assert span_similarities([distinct[:1]], [np.ones(1, np.float32)], pool).tolist() == [[1.0, 0.0, -1.0, 1.0]]


def test_weights_without_a_positive_one_are_refused() -> None:
    pool = PoolSpans.of(*flatten([[np.ones(2)]]))
    with pytest.raises(ValueError, match="positive weight"):
        span_similarities([np.eye(2, dtype=np.float32)], [np.zeros(2, np.float32)], pool)


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
    laid_out = PoolSpans.of(matrix, span_of, starts)
    embedded = [np.stack([embed(surface) for surface in query]) for query in queries]
    weights = [np.array([4.0 if i % 2 else 2.0 for i in range(len(query))], np.float32) for query in queries]
    found = span_similarities(embedded, weights, laid_out)
    vectors_of_pool = [[embed(s) for s in sentence] for sentence in pool]
    for query, of_query, similarities in zip(embedded, weights, found, strict=True):
        assert similarities.tolist() == pytest.approx(reference(query, of_query.tolist(), vectors_of_pool), abs=1e-5)

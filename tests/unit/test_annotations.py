"""Rows of the output: offsets into the document, what a failure costs, and what is told of it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from el4ner_ray.annotations import annotation_rows, entity_row, error_rows, failures_of, status_of, worst
from el4ner_ray.schema import (
    DECIDED,
    ENTITY_TYPE,
    Entity,
    Failure,
    Span,
    Usage,
    Vote,
    failures_column,
    usage_column,
)  # fmt: skip
from tests.scripted import table_of

ENGINE = Failure("engine", "extract", "a", "no answer", "", Span(2, 9))
PARSE = Failure("parse", "pre_extract", "b", "empty", "???", Span(0, 1))
INPUT = Failure("input", "read", "", "line 3: not JSON")
NOTHING = pa.schema([])
STAGES = ("pre_extract", "retrieve", "extract")


@pytest.mark.parametrize(
    ("failures", "requests", "status"),
    [
        ([], 0, "ok"),
        ([], 5, "ok"),
        ([PARSE], 5, "ok"),
        ([PARSE] * 5, 5, "ok"),
        ([ENGINE], 5, "partial"),
        ([PARSE, ENGINE], 2, "partial"),
        ([ENGINE] * 4, 5, "partial"),
        ([ENGINE] * 5, 5, "failed"),
        ([ENGINE], 1, "failed"),
        ([INPUT], 0, "failed"),
        ([INPUT], 5, "failed"),
        ([PARSE, INPUT], 5, "failed"),
    ],
)
def test_status(failures: list[Failure], requests: int, status: str) -> None:
    assert status_of(failures, requests) == status


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([], None),
        ([PARSE, PARSE], None),
        ([ENGINE], "extract a: no answer"),
        ([PARSE, ENGINE], "extract a: no answer"),
        ([PARSE, ENGINE, PARSE, ENGINE, ENGINE], "extract a: no answer (and 2 more)"),
        ([INPUT], "read: line 3: not JSON"),
        ([INPUT, ENGINE], "read: line 3: not JSON (and 1 more)"),
    ],
)
def test_the_reason_of_a_row_is_what_cost_it_its_status(failures: list[Failure], told: str | None) -> None:
    assert worst(failures) == told


def rows(failures: dict[str, list[Failure]], usage: dict[str, dict[str, Usage]], entities: list[Entity]) -> pa.Table:
    """The second part of a document, whose text starts at 100, after a first of which there is nothing to tell."""
    columns: dict[Any, Any] = {DECIDED: [[], [entities]]}
    for stage in STAGES:
        columns[usage_column(stage)] = [{}, usage.get(stage, {})]
        columns[failures_column(stage)] = [[], failures.get(stage, [])]
    return table_of(["It rained.", "Anna left Oslo."], columns, starts=[0, 100])


@pytest.mark.parametrize(
    ("usage", "status"),
    [
        ({"extract": {"a": Usage(requests=1)}}, "failed"),
        ({"extract": {"a": Usage(requests=2)}}, "partial"),
        ({"extract": {"a": Usage(requests=1, merged=1)}}, "partial"),  # an equal question paid for it
        ({"extract": {"a": Usage(requests=1), "b": Usage(requests=1)}}, "partial"),
        ({"pre_extract": {"a": Usage(requests=1)}, "extract": {"a": Usage(requests=1)}}, "partial"),
        # What embeds is asked in vain: it finds nothing.
        ({"retrieve": {"embedder": Usage(requests=9)}, "extract": {"a": Usage(requests=1)}}, "failed"),
    ],
)
def test_a_row_has_failed_when_none_of_its_requests_was_answered(
    usage: dict[str, dict[str, Usage]], status: str
) -> None:
    table = rows({"pre_extract": [PARSE], "extract": [ENGINE]}, usage, [])
    found = annotation_rows(table, failures_of(table, STAGES), STAGES, NOTHING)
    assert found.column("status").to_pylist() == ["ok", status]
    assert found.column("error").to_pylist() == [None, "extract a: no answer"]


def test_errors_tell_where_in_the_document_and_what_was_answered() -> None:
    table = rows({"pre_extract": [PARSE], "extract": [ENGINE, Failure("engine", "extract", "", "gone")]}, {}, [])
    columns = ("doc_id", "part", "kind", "stage", "model", "sentence_start", "sentence_end", "reason", "raw")
    assert [tuple(row[column] for column in columns) for row in error_rows(table, failures_of(table, STAGES))] == [
        ("d1", 1, "parse", "pre_extract", "b", 100, 101, "empty", "???"),
        ("d1", 1, "engine", "extract", "a", 102, 109, "no answer", None),
        ("d1", 1, "engine", "extract", None, None, None, "gone", None),
    ]


def test_what_could_not_be_read_is_the_first_failure_of_its_row() -> None:
    table = rows({"extract": [ENGINE]}, {}, [])
    number = table.column_names.index("error")
    table = table.set_column(number, "error", pa.array([None, "line 3: not JSON"], pa.string()))
    assert failures_of(table, STAGES) == [[], [INPUT, ENGINE]]


OSLO = Entity(
    Span(10, 14), "place", 0.75, (Vote("a", "place", 0.5), Vote("b", None, 0.0)), ("b", "a"), True, ("c", "a"), True
)


def test_an_entity_is_told_with_who_found_it_in_either_way() -> None:
    row = entity_row(OSLO, "Anna left Oslo.", 100)
    assert row == {
        "start": 110,
        "end": 114,
        "text": "Oslo",
        "type": "place",
        "score": 0.75,
        "votes": [{"model": "a", "type": "place"}, {"model": "b", "type": None}],
        "extracted_by": ["b", "a", "c"],
        "verified": True,
    }
    assert row.keys() == {field.name for field in ENTITY_TYPE}


def test_what_is_not_kept_is_told_apart() -> None:
    anna = Entity(Span(0, 4), "place", 0.25, (), ("a",), kept=False)
    table = rows({}, {}, [anna, OSLO])
    found = annotation_rows(table, failures_of(table, STAGES), STAGES, NOTHING)
    assert found.column("status").to_pylist() == ["ok", "ok"]
    kept, dropped = (found.column(name).to_pylist() for name in ("entities", "dropped"))
    assert [[(e["start"], e["end"], e["text"]) for e in of_row] for of_row in kept] == [[], [(110, 114, "Oslo")]]
    assert [[(e["start"], e["end"], e["text"]) for e in of_row] for of_row in dropped] == [[], [(100, 104, "Anna")]]


def test_other_columns_of_the_input_go_along() -> None:
    table = rows({}, {}, []).append_column("year", pa.array([1931, 1932]))
    found = annotation_rows(table, failures_of(table, STAGES), STAGES, pa.schema([("year", pa.int64())]))
    assert found.column_names[-1] == "year"
    assert found.column("year").to_pylist() == [1931, 1932]

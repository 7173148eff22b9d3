"""The Python API on real Ray with the scripted engine: texts at hand, and data sets of Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data

from el4ner_ray import Ensemble, JobConfig, annotate
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.schema import ANNOTATION_SCHEMA
from tests.conftest import ROOT
from tests.integration import test_fake_run

pytestmark = pytest.mark.timeout(1200)

POOL = ROOT / "examples" / "pool.jsonl"
UGLY = test_fake_run.UGLY | {"book": test_fake_run.BOOK[:30_000], "one-line": "Anna met Ben and " * 500}


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    """An ensemble of scripted engines; small parts, so that a long text has many."""
    limits = {"part_characters": 4000}
    with Ensemble(JobConfig.load(profile="fake", demonstrations={"pool_spans": "gold"}, limits=limits)) as running:
        yield running
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def annotated(ensemble: Ensemble) -> dict[str, Any]:
    return dict(zip(UGLY, ensemble.annotate(list(UGLY.values()), POOL), strict=True))


def test_texts_come_back_untouched_with_exact_offsets(annotated: dict[str, Any]) -> None:
    found = 0
    for key, document in annotated.items():
        assert document.text == UGLY[key]
        assert (document.status, document.error) == ("ok", None)
        for entity in document.entities:
            assert document.text[entity.start : entity.end] == entity.text
            found += 1
    assert found > 500
    assert "Chapter" in {entity.text.split()[0] for entity in annotated["book"].entities}
    assert "王小明在" in {entity.text for entity in annotated["chinese"].entities}
    assert not annotated["empty"].entities


def test_a_data_set_of_ray_gets_the_same_annotations(ensemble: Ensemble, annotated: dict[str, Any]) -> None:
    rows = [{"id": key, "body": text, "n": len(text), "status": "mine"} for key, text in UGLY.items()]
    rows.append({"id": "null", "body": None, "n": 0, "status": "mine"})
    given = ray.data.from_items(rows, override_num_blocks=3)
    before = given.context.target_max_block_size
    table = pa.concat_tables(
        annotate(given, ensemble, POOL, text_column="body").iter_batches(batch_size=None, batch_format="pyarrow")
    )
    assert given.context.target_max_block_size == before
    assert table.schema.names == [*ANNOTATION_SCHEMA.names, "id", "n", "input_status"]
    assert table.schema.field("entities") == ANNOTATION_SCHEMA.field("entities")
    parts = table.to_pylist()
    assert list(dict.fromkeys(part["doc_id"] for part in parts)) == [*UGLY, "null"]
    for key, text in UGLY.items():
        own = [part for part in parts if part["doc_id"] == key]
        assert [part["part"] for part in own] == list(range(len(own)))
        assert "".join(part["text"] for part in own) == text
        assert {(part["id"], part["n"], part["input_status"], part["status"]) for part in own} == {
            (key, len(text), "mine", "ok")
        }
        spans = [(e["start"], e["end"], e["type"]) for part in own for e in part["entities"]]
        assert spans == [(e.start, e.end, e.type) for e in annotated[key].entities]
    assert (parts[-1]["status"], parts[-1]["text"]) == ("failed", "")
    assert "column 'body' holds null, not a string" in parts[-1]["error"]


def test_data_frames_and_empty_data_sets(ensemble: Ensemble) -> None:
    import pandas as pd

    frame = pd.DataFrame({"id": [1, 2], "text": ["Anna met Ben.", "Nobody."]})
    rows = annotate(ray.data.from_pandas(frame), ensemble, POOL).take_all()
    assert [(row["doc_id"], row["id"], len(row["entities"])) for row in rows] == [("1", 1, 2), ("2", 2, 1)]
    assert annotate(ray.data.from_pandas(frame[:0]), ensemble, POOL).take_all() == []


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"text_column": "body"}, ["'body'", "text_column", "'id', 'n', 'text'"]),
        ({"id_column": "key"}, ["'key'", "id_column", "'id', 'n', 'text'"]),
        ({"text_column": "n"}, ["'n'", "int64", "text_column"]),
    ],
)
def test_wrong_columns_are_refused_at_once(ensemble: Ensemble, columns: dict[str, str], named: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        annotate(ray.data.from_items([{"id": "1", "n": 1, "text": "x"}]), ensemble, POOL, **columns)
    assert all(name in str(refused.value) for name in named), str(refused.value)


def test_pools_and_labels_of_ones_own(ensemble: Ensemble) -> None:
    rows = [json.loads(line) for line in POOL.read_text().splitlines()]
    [document] = ensemble.annotate(["Anna met Ben in Oslo."], rows)
    assert {entity.type for entity in document.entities} <= {e["type"] for row in rows for e in row["entities"]}
    unlabelled = [row | {"entities": [e | {"type": "thing"} for e in row["entities"]]} for row in rows]
    [document] = ensemble.annotate(["Anna met Ben in Oslo."], unlabelled, {"thing": "whatever has a name"})
    assert {entity.type for entity in document.entities} == {"thing"}


@pytest.mark.parametrize(
    ("texts", "pool", "labels", "named"),
    [
        ("one", POOL, None, ["texts", "list"]),
        (["a", None], POOL, None, ["texts[1]", "NoneType"]),
        (["a", "b\ud800"], POOL, None, ["texts[1]", "surrogate"]),
        (["a"], "nowhere.jsonl", None, ["nowhere.jsonl"]),
        (["a"], [{"text": "Anna"}], None, ["pool, item 0", "entities"]),
        (["a"], [{"text": "Anna", "entities": [{"start": 0, "end": 9, "type": "p"}]}], None, ["item 0", "end"]),
        (["a"], [{"text": "Anna", "entities": [{"start": 0, "end": 4, "type": "p"}]}], None, ["demonstrations.k"]),
        (["a"], POOL, {"a|b": ""}, ["'a|b'"]),
        (["a"], POOL, {"gene": ""}, ["not in the label set (gene)"]),
    ],
)
def test_wrong_use_is_told_with_the_mend(
    ensemble: Ensemble, texts: Any, pool: Any, labels: dict[str, str] | None, named: list[str]
) -> None:
    with pytest.raises(UsageError) as refused:
        ensemble.annotate(texts, pool, labels)
    assert all(name in str(refused.value) for name in named), str(refused.value)


def test_in_a_notebooks_loop_and_from_threads(ensemble: Ensemble) -> None:
    async def cell() -> Any:
        return ensemble.annotate(["Anna met Ben."], POOL)

    [document] = asyncio.run(cell())
    assert "<script" not in document._repr_html_()
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(ensemble.annotate, ["Anna met Ben."], POOL) for _ in range(8)]
        assert {call.result()[0] for call in calls} == {document}


def test_an_ensemble_that_does_not_run_says_so() -> None:
    with pytest.raises(FatalError, match="with"):
        Ensemble(JobConfig.load(profile="fake")).annotate(["Anna"], POOL)


def test_one_ensemble_at_a_time(ensemble: Ensemble) -> None:
    with pytest.raises(FatalError, match="another ensemble"):
        Ensemble(ensemble.config).start()
    assert ensemble.start() is ensemble

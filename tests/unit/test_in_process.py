"""Texts at hand in batches, without Ray Data and as rows of a data set."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from el4ner_ray import dataset
from el4ner_ray.config import Limits
from el4ner_ray.in_process import InProcess
from el4ner_ray.schema import BATCH


class Watched(InProcess):
    """Stages that find nothing, and what they get."""

    def __init__(self, limits: Limits) -> None:
        super().__init__([], limits)
        self.batches: list[list[int]] = []
        self.numbers: list[int] = []

    async def _batch(self, number: int, parts: Sequence[Any]) -> list[dict[str, Any]]:
        self.numbers.append(number)
        self.batches.append([len(part.text) for part in parts])
        await asyncio.sleep(0)
        found = {"status": "ok", "entities": [], "dropped": [], "error": None}
        return [
            {"doc_id": str(part.document), "part": part.part, "text_start": part.start, "text": part.text} | found
            for part in parts
        ]


@pytest.mark.parametrize(
    ("texts", "batches"),
    [
        ([], []),
        (["", "Anna met Ben."], [[0, 13]]),
        (["x" * 1000], [[100] * 4, [100] * 4, [100, 100]]),
        (["a", "x" * 450, "b", "c"], [[1, 100, 100, 100], [100, 50, 1, 1]]),
        (["a"] * 20, [[1] * 8, [1] * 8, [1] * 4]),
    ],
)
def test_what_travels_together_is_bounded_whatever_the_texts_are(texts: list[str], batches: list[list[int]]) -> None:
    stages = Watched(Limits(part_characters=100, sentence_characters=50, batch_documents=8))
    documents = asyncio.run(stages.annotate(texts))
    assert stages.batches == batches
    assert [document.text for document in documents] == texts
    assert [document.doc_id for document in documents] == list(map(str, range(len(texts))))


def test_calls_that_follow_each_other_take_the_replicas_in_turn() -> None:
    stages = Watched(Limits(batch_documents=2))

    async def annotated() -> None:
        for texts in (["a"], ["b", "c", "d"], [], ["e"]):
            await stages.annotate(texts)

    asyncio.run(annotated())
    assert stages.numbers == [0, 1, 2, 3]


def test_rows_of_a_data_set_travel_within_the_same_bounds() -> None:
    """All parts of a batch of documents had been one block, of any size, for one replica."""
    limits = Limits(part_characters=100, sentence_characters=50, batch_documents=8)
    documents = pa.table({"id": [7, 8, 9], "text": ["x" * 1000, None, "y" * 150], "year": [1931, 1932, 1933]})
    blocks = list(dataset._parts(documents, "text", "id", limits))
    lengths = [list(map(len, block.column("text").to_pylist())) for block in blocks]
    assert lengths == [[100] * 4, [100] * 4, [100, 100, 0, 100, 50]]
    assert [set(block.column("year").to_pylist()) for block in blocks] == [{1931}, {1931}, {1931, 1932, 1933}]
    assert blocks[-1].column("doc_id").to_pylist() == ["7", "7", "8", "9", "9"]
    assert blocks[-1].column("text_start").to_pylist() == [800, 900, 0, 0, 100]
    [first, *others] = [number for block in blocks for number in set(block.column(BATCH).to_pylist())]
    assert others == [first + 1, first + 2]


def test_a_text_of_a_data_set_that_is_not_utf8_fails_alone() -> None:
    """Arrow does not check what a writer calls a string, and one had ended the whole plan."""
    offsets = pa.array([0, 2, 4, 5], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"ab\xff\xfec")])
    whole = pa.array(["7", "8", "9"])
    for columns in ({"id": whole, "text": broken}, {"id": broken, "text": whole}):
        [block] = dataset._parts(pa.table(columns), "text", "id", Limits())
        name = "text" if columns["text"] is broken else "id"
        assert block.column("error").to_pylist() == [None, f"column '{name}': not UTF-8", None]
        assert block.column("doc_id").to_pylist() == (["7", "8", "9"] if name == "text" else ["ab", "", "c"])
        assert block.column("text").to_pylist() == (["ab", "", "c"] if name == "text" else ["7", "", "9"])

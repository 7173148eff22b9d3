"""Stages that compute in the server: what waits goes together, and everybody gets his own rows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from el4ner_ray import schema
from el4ner_ray.schema import SENTENCES, Span
from el4ner_ray.serve.computing import Computing
from el4ner_ray.stages.base import Batch, Stage


class Lengths(Stage):
    """A sentence as long as each text, once it is let go; fails at a text that says so."""

    name = "lengths"
    writes = SENTENCES

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.began, self.go = threading.Event(), threading.Event()

    async def run(self, batch: Batch) -> list[list[Span]]:
        self.batches.append(len(batch.texts))
        self.began.set()
        assert self.go.wait(60)
        if "fail" in batch.texts:
            raise ValueError("as told")
        return [[Span(0, len(text))] for text in batch.texts]


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def rows(*texts: str) -> pa.Table:
    ids, zeros = [f"d{i}" for i in range(len(texts))], [0] * len(texts)
    return pa.table({schema.DOC_ID: ids, schema.PART: zeros, schema.TEXT: list(texts), schema.BATCH: zeros})


def ends(table: pa.Table) -> list[int]:
    return [spans[0].end for spans in SENTENCES.decode(table)]


async def asked(stage: Lengths, computing: Computing, *tables: pa.Table) -> list[asyncio.Task[pa.Table]]:
    """The first table is being computed; the others wait."""
    first = asyncio.create_task(computing(tables[0]))
    await asyncio.to_thread(stage.began.wait, 60)
    others = [asyncio.create_task(computing(table)) for table in tables[1:]]
    await asyncio.sleep(0)  # lets them begin
    return [first, *others]


def test_what_waits_goes_together(thread: ThreadPoolExecutor) -> None:
    async def run() -> None:
        stage = Lengths()
        tasks = await asked(stage, Computing(stage, thread), rows("a"), rows("bb", "ccc"), *[rows("x" * 9)] * 16)
        stage.go.set()
        tables = await asyncio.gather(*tasks)
        assert [ends(table) for table in tables] == [[1], [2, 3], *[[9]] * 16]
        assert stage.batches == [1, 17, 1]
        assert [table.num_rows for table in tables] == [1, 2, *[1] * 16]

    asyncio.run(run())


def test_whoever_goes_away_takes_nobody_with_him(thread: ThreadPoolExecutor) -> None:
    async def run() -> None:
        stage = Lengths()
        computing = Computing(stage, thread)
        computed, waiting, last = await asked(stage, computing, rows("a"), rows("bb"), rows("ccc"))
        computed.cancel()
        waiting.cancel()
        stage.go.set()
        assert ends(await last) == [3]
        assert ends(await computing(rows("dddd"))) == [4]

    asyncio.run(run())


def test_an_error_reaches_all_that_waited_and_nobody_later(thread: ThreadPoolExecutor) -> None:
    async def run() -> None:
        stage = Lengths()
        computing = Computing(stage, thread)
        first, *others = await asked(stage, computing, rows("a"), rows("fail"), rows("bb"))
        stage.go.set()
        assert ends(await first) == [1]
        for task in others:
            with pytest.raises(ValueError, match="as told"):
                await task
        assert ends(await computing(rows("ccc"))) == [3]

    asyncio.run(run())

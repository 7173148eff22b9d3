"""The stages in this process, for texts at hand: no operator of Ray Data has to start for them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from el4ner_ray.annotations import annotation_rows, failures_of
from el4ner_ray.config import Limits
from el4ner_ray.parts import Part, batches_of, table_of_parts
from el4ner_ray.pipeline import Step, check_chain
from el4ner_ray.results import AnnotatedDocument, document_of


class InProcess:
    """The loaded stages of a method. Calls may overlap."""

    def __init__(self, steps: Sequence[Step], limits: Limits) -> None:
        """Load what the stages need, embedder and tagger above all: some seconds."""
        check_chain(stage for stage, _ in steps)
        self._stages = [stage(*arguments) for stage, arguments in steps]
        self._limits = limits
        # Over all calls: each of short texts has one batch, which would always go to the first replica.
        self._numbers = itertools.count()

    async def annotate(self, texts: Sequence[str]) -> list[AnnotatedDocument]:
        """One document a text, in order; `doc_id` is its number from 0."""
        limits = self._limits
        in_flight = asyncio.Semaphore(limits.batches_in_flight)

        async def annotated(parts: list[Part], number: int) -> list[dict[str, Any]]:
            async with in_flight:
                return await self._batch(number, parts)

        done = await asyncio.gather(*map(annotated, batches_of(texts, limits), self._numbers))
        rows = itertools.groupby(itertools.chain.from_iterable(done), key=lambda row: row["doc_id"])
        return [document_of(list(own), "annotate") for _, own in rows]

    async def _batch(self, number: int, parts: Sequence[Part]) -> list[dict[str, Any]]:
        documents, of_documents, starts, texts = zip(*parts, strict=True)
        table = table_of_parts(
            list(map(str, documents)), of_documents, starts, texts, [None] * len(parts), batch=number
        )
        for stage in self._stages:
            table = await stage.annotate(table)
        names = [stage.name for stage in self._stages]
        rows: list[dict[str, Any]] = annotation_rows(table, failures_of(table, names), names, pa.schema([])).to_pylist()
        return rows

"""The stages in this process, for texts at hand: no operator of Ray Data has to start for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pyarrow as pa

from el4ner_ray.annotations import annotation_rows, failures_of
from el4ner_ray.config import Limits
from el4ner_ray.parts import part_rows
from el4ner_ray.pipeline import Step, check_chain
from el4ner_ray.results import AnnotatedDocument, document_of


class InProcess:
    """The loaded stages of a method. Calls may overlap."""

    def __init__(self, steps: Sequence[Step], limits: Limits) -> None:
        """Load what the stages need, embedder and tagger above all: some seconds."""
        check_chain(stage for stage, _ in steps)
        self._stages = [stage(*arguments) for stage, arguments in steps]
        self._limits = limits

    async def annotate(self, texts: Sequence[str]) -> list[AnnotatedDocument]:
        """One document a text, in order; `doc_id` is its number from 0."""
        size = self._limits.batch_documents
        in_flight = asyncio.Semaphore(self._limits.batches_in_flight)

        async def batch(first: int) -> list[AnnotatedDocument]:
            async with in_flight:
                return await self._batch(texts[first : first + size], first)

        done = await asyncio.gather(*(batch(first) for first in range(0, len(texts), size)))
        return [document for documents in done for document in documents]

    async def _batch(self, texts: Sequence[str], first: int) -> list[AnnotatedDocument]:
        ids = [str(first + number) for number in range(len(texts))]
        table, numbers = part_rows(ids, texts, [None] * len(texts), self._limits.part_characters)
        for stage in self._stages:
            table = await stage(table)
        names = [stage.name for stage in self._stages]
        rows = annotation_rows(table, failures_of(table, names), names, pa.schema([])).to_pylist()
        of_document: list[list[dict[str, object]]] = [[] for _ in texts]
        for number, row in zip(numbers, rows, strict=True):
            of_document[number].append(row)
        return [document_of(own, "annotate") for own in of_document]

"""Documents that are at hand, in a data set or a list, as rows for the stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from el4ner_ray.config import Limits
from el4ner_ray.core.grouping import grouped
from el4ner_ray.schema import PART_SCHEMA, SENTENCES, Span
from el4ner_ray.splitting import split_parts

PARTS_TOGETHER = 4
"""Parts that travel together have at most this many times the characters of the longest that there may be."""


class Part(NamedTuple):
    """A part of a document: the document's number, its own, where its text starts, in code points, and the text."""

    document: int
    part: int
    start: int
    text: str


def batches_of(texts: Iterable[str], limits: Limits) -> Iterator[list[Part]]:
    """The parts of the texts in order, in batches no larger than the blocks of a run.

    All parts of long texts at once would be asked about at once, and no prefix be cached until it is asked for again.
    """
    parts = (
        Part(document, part, start, text[start:end])
        for document, text in enumerate(texts)
        for part, (start, end) in enumerate(split_parts(text, limits.part_characters))
    )
    most = PARTS_TOGETHER * limits.part_characters
    return grouped(parts, lambda part: len(part.text), most, limits.batch_documents)


def table_of_parts(
    ids: Sequence[str],
    parts: Sequence[int],
    starts: Sequence[int],
    texts: Sequence[str],
    errors: Sequence[str | None],
    batch: int,
) -> pa.Table:
    """A table of PART_SCHEMA: rows that travel together, under the number `batch`."""
    columns = [ids, parts, starts, texts, errors, [batch] * len(ids)]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, PART_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PART_SCHEMA)


def sentence_rows(ids: Sequence[str], parts: Sequence[int], texts: Sequence[str], batch: int) -> pa.Table:
    """Rows whose text is one sentence each, with the column SENTENCES."""
    table = table_of_parts(ids, parts, [0] * len(ids), texts, [None] * len(ids), batch)
    return table.append_column(SENTENCES.name, SENTENCES.encode([[Span(0, len(text))] for text in texts]))

"""Documents that are at hand, in a data set or a list, as rows for the stages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from el4ner_ray.schema import PART_SCHEMA, SENTENCES, Span
from el4ner_ray.splitting import split_parts

PARTS_TOGETHER = 4
"""Parts that travel together have at most this many times the characters of the longest that there may be."""


def part_rows(
    ids: Sequence[str], texts: Sequence[str], errors: Sequence[str | None], part_characters: int
) -> tuple[pa.Table, list[int]]:
    """Rows of PART_SCHEMA for documents that travel together, and for each row the number of its document.

    A text longer than `part_characters` code points has several. `errors` says why a text, then empty, is not there.
    """
    of_document = [split_parts(text, part_characters) for text in texts]
    numbers = [number for number, parts in enumerate(of_document) for _ in parts]
    spans = [span for parts in of_document for span in parts]
    batch = int.from_bytes(hashlib.blake2b(ids[0].encode("utf-8", "replace"), digest_size=8).digest()) >> 1
    table = table_of_parts(
        [ids[number] for number in numbers],
        [part for parts in of_document for part in range(len(parts))],
        [start for start, _ in spans],
        [texts[number][start:end] for number, (start, end) in zip(numbers, spans, strict=True)],
        [errors[number] for number in numbers],
        batch,
    )
    return table, numbers


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

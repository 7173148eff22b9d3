"""The demonstration index: pool sentences, the spans that stand for them, and their embeddings.

Built once, read-only, memory-mapped: every retrieve actor on a node shares one copy in the page cache.

    pool.parquet     the labelled sentences
    spans.npy        (u, d) float32, unit embeddings of the distinct surfaces of the pool's spans and entities
    span_of.npy      (p,) int64, which distinct surface each pool span is, sentence by sentence
    starts.npy       (n + 1,) int64, sentence i has the spans [starts[i], starts[i + 1])
    occurrences.npy  (o, 3) int64: number of the type in index.json (-1: a span that is no entity), surface, sentence
    sentences.npy    (n, d) float32, unit embeddings of whole sentences, for queries without spans
    index.json       what it was built from
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from el4ner_ray.core.grouping import grouped
from el4ner_ray.core.lexicon import NOT_AN_ENTITY, Lexicon
from el4ner_ray.core.similarity import Floats, Ints, PoolSpans, nearest, span_similarities
from el4ner_ray.errors import UsageError
from el4ner_ray.files import to_disk
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.text_models import Embedder

FORMAT = 3

_POOL = "pool.parquet"

# Spans that are compared with the pool in one product: it reads the pool's embeddings once for all of them, and holds
# as many cosines with each distinct span and each sentence of the pool.
_SPANS_TOGETHER = 128
_ENTITY = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("type", pa.string())])
_POOL_SCHEMA = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("entities", pa.list_(_ENTITY))])


@dataclass(frozen=True)
class DemonstrationIndex:
    """An opened index."""

    spans: Floats
    span_of: Ints
    starts: Ints
    sentences: Floats
    occurrences: Ints

    @classmethod
    def open(cls, folder: str) -> DemonstrationIndex:
        """Map the arrays of `folder`; raises UsageError when it holds no index of this format, or a damaged one."""
        read_metadata(folder)

        def mapped(name: str) -> Any:
            path = Path(folder) / f"{name}.npy"
            with _whole(path):
                return np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]

        return cls(*map(mapped, ("spans", "span_of", "starts", "sentences", "occurrences")))

    @staticmethod
    def read_pool(folder: str) -> list[LabelledText]:
        """The pool sentences with their gold entities, in index order. Raises UsageError when they are damaged."""
        path = Path(folder) / _POOL
        with _whole(path):
            rows = pq.read_table(path, schema=_POOL_SCHEMA).to_pylist()
        return [LabelledText(row["id"], row["text"], tuple(LabelledSpan(**e) for e in row["entities"])) for row in rows]

    def lexicon(self, numbers: Mapping[int, int], labels: int) -> Lexicon:
        """What the pool knows of surfaces. `numbers` gives the job's number for the number of a type in the index."""
        numbers = {NOT_AN_ENTITY: NOT_AN_ENTITY, **numbers}
        rows = [(numbers[type_], surface, sentence) for type_, surface, sentence in self.occurrences.tolist()]
        return Lexicon.of(self.spans, rows, labels)

    @cached_property
    def pool_spans(self) -> PoolSpans:
        """The pool's spans as the similarity takes them."""
        return PoolSpans.of(self.spans, self.span_of, self.starts)

    def by_spans(self, queries: Sequence[Floats], weights: Sequence[Floats], ks: Sequence[int]) -> list[list[int]]:
        """For each query, the spans (q, d) of a sentence, its k most similar pool sentences, best first."""
        chosen: list[list[int]] = []
        asked = zip(queries, weights, ks, strict=True)
        for some in grouped(asked, lambda one: len(one[0]), _SPANS_TOGETHER):
            some_queries, some_weights, some_ks = zip(*some, strict=True)
            chosen += map(nearest, span_similarities(some_queries, some_weights, self.pool_spans), some_ks)
        return chosen

    def by_sentence(self, query: Floats, k: int) -> list[int]:
        """The k pool sentences most similar to a whole sentence (d,), best first."""
        return nearest(self.sentences @ query, k)


def check_whole(folder: str) -> None:
    """Raise UsageError, naming the file and the mend, where the index in `folder` does not open."""
    DemonstrationIndex.open(folder)
    path = Path(folder) / _POOL
    with _whole(path):
        pq.read_metadata(path)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:  # Arrow's own are ValueErrors
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path}: damaged: {' '.join(str(error).split())}; remove its folder and build the index again")


def read_metadata(folder: str, *, any_format: bool = False) -> dict[str, Any]:
    """What the index in `folder` was built from.

    Raises UsageError when there is none, or it has another format, unless `any_format` will do.
    """
    path = Path(folder) / "index.json"
    try:
        metadata = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise UsageError(
            f"--pool {folder}: no demonstration index here ({error}); build it with `el4ner index`"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None
    format_ = metadata.get("format")
    if not isinstance(format_, int):
        raise UsageError(f"{path}: of something else than a demonstration index; name another folder")
    if format_ != FORMAT and not any_format:
        raise UsageError(f"--pool {folder}: index format {format_}, need {FORMAT}; build it again with `el4ner index`")
    return metadata


def write_index(
    folder: str,
    pool: Sequence[LabelledText],
    surfaces: Sequence[Sequence[str]],
    embedder: Embedder,
    built_from: Mapping[str, Any],
) -> None:
    """Embed and write an index: `surfaces` stand for the pool sentences, `built_from` holds its FORMAT.

    The folder appears complete or not at all, and outlasts a power cut.
    """
    type_number = {type_: number for number, type_ in enumerate(built_from["types"])}
    occurrences = [
        (NOT_AN_ENTITY if type_ is None else type_number[type_], surface, i)
        for i, (text, of_sentence) in enumerate(zip(pool, surfaces, strict=True))
        for surface, type_ in _occurrences(text, of_sentence)
    ]
    number = {surface: i for i, surface in enumerate(dict.fromkeys(surface for _, surface, _ in occurrences))}
    arrays: dict[str, Floats | Ints] = {
        "spans": embedder.embed(list(number)),
        "span_of": np.array([number[surface] for of_sentence in surfaces for surface in of_sentence], np.int64),
        "starts": np.cumsum([0, *map(len, surfaces)], dtype=np.int64),
        "sentences": embedder.embed([text.text for text in pool]),
        "occurrences": np.array([(type_, number[s], i) for type_, s, i in occurrences], np.int64).reshape(-1, 3),
    }
    target = Path(folder)
    rows = [
        {
            "id": text.id,
            "text": text.text,
            "entities": [{"start": e.start, "end": e.end, "type": e.type} for e in text.entities],
        }
        for text in pool
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".building", dir=target.parent) as scratch:
        building = Path(scratch) / "index"
        building.mkdir()
        for name, array in arrays.items():
            np.save(building / f"{name}.npy", array, allow_pickle=False)
        pq.write_table(pa.Table.from_pylist(rows, _POOL_SCHEMA), building / _POOL)
        (building / "index.json").write_text(json.dumps(built_from, indent=2, ensure_ascii=False), "utf-8")
        for path in (*building.iterdir(), building):  # else the name might be on the disk before the content
            to_disk(str(path))
        if target.exists():
            target.rename(Path(scratch) / "replaced")
        building.replace(target)
        to_disk(str(target.parent))


def _occurrences(text: LabelledText, surfaces: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each distinct (surface, type) of the sentence's entities, then its other surfaces, of no type."""
    mentions = dict.fromkeys(text.mentions)
    yield from mentions
    of_entities = {surface for surface, _ in mentions}
    yield from ((surface, None) for surface in dict.fromkeys(surfaces) if surface not in of_entities)

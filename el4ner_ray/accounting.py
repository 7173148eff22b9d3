"""What an output folder holds: which documents are done, how they fared, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from el4ner_ray import parquet, schema
from el4ner_ray.corpus import Done
from el4ner_ray.sink import ANNOTATIONS, FileSummary, Place, read_summary

Digests = npt.NDArray[np.bytes_]

_STATUSES = ("ok", "partial", "failed")


@dataclass
class Accounts:
    """Documents by status, the rows that should not be, and the costs of all committed files."""

    ok: int = 0
    partial: int = 0
    failed: int = 0
    parts: int = 0
    duplicated_parts: int = 0
    summary: FileSummary = field(default_factory=FileSummary)

    @property
    def documents(self) -> int:
        """Documents with at least one committed part."""
        return self.ok + self.partial + self.failed


class Parts:
    """The (doc_id, part) of rows; as `corpus.Done`. Takes 16 bytes a row, where a set of tuples takes some 200.

    `unread` are documents that could not be read: their one row stands for all parts that they may have once mended.
    """

    def __init__(self, digests: Digests, unread: frozenset[str] = frozenset()) -> None:
        """`digests` are those of the rows, as `_digest` makes them, in any order."""
        self._sorted = np.unique(digests)
        self.unread = unread

    @classmethod
    def of(cls, texts: Mapping[tuple[str, int], int | None]) -> Parts:
        """Those of the rows with these keys, as `committed_texts` gives them."""
        return cls(_digests(texts), frozenset(doc_id for (doc_id, _), text in texts.items() if text is None))

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, key: tuple[str, int]) -> bool:
        if key[0] in self.unread:
            return True
        digest = _digest(*key)
        at = int(np.searchsorted(self._sorted, np.bytes_(digest)))
        return at < len(self._sorted) and bool(self._sorted[at] == digest)


def committed_parts(place: Place, unread: frozenset[str] = frozenset()) -> Parts:
    """The (doc_id, part) of every committed row. `unread` as in Parts."""
    tables = _tables(place, [schema.DOC_ID, schema.PART])
    keys = (zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True) for table in tables)
    return Parts(np.concatenate([np.array([], "S16"), *map(_digests, keys)]), unread)


def committed_texts(place: Place) -> dict[tuple[str, int], int | None]:
    """For the (doc_id, part) of every committed row, `hash` of its text; None where the document could not be read."""
    hashes: dict[tuple[str, int], int | None] = {}
    for table in _tables(place, [schema.DOC_ID, schema.PART, schema.TEXT, "status"]):
        # Only a document without any text can fail without having been read.
        unread = pc.and_(pc.equal(table.column("status"), "failed"), pc.equal(table.column(schema.TEXT), ""))
        of_rows = zip(*(column.to_pylist() for column in (*table.columns[:3], unread)), strict=True)
        hashes.update(((doc_id, part), None if failed else hash(text)) for doc_id, part, text, failed in of_rows)
    return hashes


@dataclass(frozen=True)
class Retried:
    """The documents of a run that are annotated again, those of which some part is not ok; as `corpus.Done`, the rest.

    `texts` has all their parts, as `committed_texts` gives them; `ok` those that need no further work, and neither do
    those that have been annotated `again`. `columns` are the extra columns of the run, as `Corpus.columns`.
    """

    texts: dict[tuple[str, int], int | None]
    documents: frozenset[str]
    ok: frozenset[tuple[str, int]]
    columns: Mapping[str, str]
    again: Done = frozenset()

    @classmethod
    def of(cls, place: Place, columns: Mapping[str, str]) -> Retried:
        """Those of the run in a folder."""
        failed: set[str] = set()
        ok: set[tuple[str, int]] = set()
        for table in _tables(place, [schema.DOC_ID, schema.PART, "status"]):
            for doc_id, part, status in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if status == "ok":
                    ok.add((doc_id, part))
                else:
                    failed.add(doc_id)
        texts = {key: text for key, text in committed_texts(place).items() if key[0] in failed}
        return cls(texts, frozenset(failed), frozenset(key for key in ok if key[0] in failed), columns)

    def without(self, parts: Done) -> Retried:
        """The same when these parts have been annotated again."""
        return replace(self, again=parts)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key[0] not in self.documents or key in self.ok or key in self.again


def take_stock(place: Place) -> Accounts:
    """Read the statuses and footers of all committed files."""
    accounts = Accounts()
    for summary in summaries(place):
        accounts.summary.add(summary)
    rows = [_row_numbers(table) for table in _tables(place, [schema.DOC_ID, schema.PART, "status"])]
    if not sum(len(of_file) for of_file, _, _ in rows):
        return accounts
    documents, parts, statuses = (np.concatenate(columns) for columns in zip(*rows, strict=True))
    order = np.lexsort((parts, documents))
    documents, parts, statuses = documents[order], parts[order], statuses[order]
    begins = np.concatenate([[True], documents[1:] != documents[:-1]])
    accounts.duplicated_parts = int(np.count_nonzero(~begins[1:] & (parts[1:] == parts[:-1])))
    accounts.parts = len(parts) - accounts.duplicated_parts
    first = np.flatnonzero(begins)
    lowest, highest = np.minimum.reduceat(statuses, first), np.maximum.reduceat(statuses, first)
    # The status that all parts share; where they differ, part of the document is there.
    shared = np.where(lowest == highest, lowest, _STATUSES.index("partial"))
    accounts.ok, accounts.partial, accounts.failed = np.bincount(shared, minlength=len(_STATUSES)).tolist()
    return accounts


def summaries(place: Place) -> Iterator[FileSummary]:
    """What the footer of each committed file says."""
    for path in place.files(ANNOTATIONS, ".parquet"):
        with parquet.whole(path), place.open(path) as file:
            yield read_summary(pq.read_metadata(file))


def together(*costs: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of costs by stage and model, each as run.json has them."""
    total = FileSummary()
    for some in costs:
        total.add(msgspec.convert({"stages": some}, FileSummary))
    summed: dict[str, Any] = msgspec.to_builtins(total.stages)
    return summed


def _row_numbers(table: pa.Table) -> tuple[Digests, npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """Of each row the digest of its document, its part, and the number of its status: 21 bytes, whatever its id."""
    documents = _digests((doc_id, 0) for doc_id in table.column(0).to_pylist())
    status = pc.index_in(table.column(2), value_set=pa.array(_STATUSES))
    return documents, table.column(1).to_numpy().astype(np.int32), status.to_numpy().astype(np.int8)


def _digests(keys: Iterable[tuple[str, int]]) -> Digests:
    return np.array([_digest(doc_id, part) for doc_id, part in keys], "S16")


def _digest(doc_id: str, part: int) -> bytes:
    """16 bytes. Of a billion rows, two have the same with a probability of 4e-19 (birthday bound on 120 bits)."""
    # NumPy's strings of bytes end before zeros, so that a digest must not end with one.
    return blake2b(f"{part} {doc_id}".encode("utf-8", "surrogatepass"), digest_size=15).digest() + b"."


def _tables(place: Place, columns: list[str]) -> Iterator[pa.Table]:
    for path in place.files(ANNOTATIONS, ".parquet"):
        with parquet.whole(path), place.open(path) as file:
            table = parquet.valid(parquet.table(file, columns))
        yield table

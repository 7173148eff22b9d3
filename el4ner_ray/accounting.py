"""What an output folder holds: which documents are done, how they fared, and what they cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from el4ner_ray import parquet, schema
from el4ner_ray.corpus import Done
from el4ner_ray.sink import ANNOTATIONS, FileSummary, Place, read_summary

Keys = npt.NDArray[np.bytes_]
Taken = TypeVar("Taken")

_STATUSES = ("ok", "partial", "failed")
_WITH_TEXTS = [schema.DOC_ID, schema.PART, schema.TEXT, "status"]
_KEY, _PARTS_OF_KEY = np.dtype("S20"), np.dtype([("document", "S15"), ("part", "S5")])

# An object store takes some 60 ms to open a file, whatever else it is asked for meanwhile.
_AT_ONCE = 32


class Parts:
    """The (doc_id, part) of rows; as `corpus.Done`. Takes 20 bytes a row, where a set of tuples takes some 200.

    `unread` are documents that could not be read: their one row stands for all parts that they may have once mended.
    """

    def __init__(self, keys: Keys, unread: frozenset[str] = frozenset()) -> None:
        """`keys` are those of the rows, as `_key` makes them, sorted, each once."""
        self._sorted = keys
        self.unread = unread

    @classmethod
    def of(cls, texts: Mapping[tuple[str, int], int | None]) -> Parts:
        """Those of the rows with these keys, as `Committed` has them."""
        unread = frozenset(doc_id for (doc_id, _), text in texts.items() if text is None)
        return cls(np.unique(_keys(texts)), unread)

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, key: tuple[str, int]) -> bool:
        if key[0] in self.unread:
            return True
        wanted = _key(*key)
        at = int(np.searchsorted(self._sorted, np.bytes_(wanted)))
        return at < len(self._sorted) and bool(self._sorted[at] == wanted)


@dataclass
class Accounts:
    """Documents by status, the rows that should not be, the costs of all committed files, and which rows they hold."""

    ok: int = 0
    partial: int = 0
    failed: int = 0
    parts: int = 0
    duplicated_parts: int = 0
    summary: FileSummary = field(default_factory=FileSummary)
    done: Parts = field(default_factory=lambda: Parts(_keys(())))

    @property
    def documents(self) -> int:
        """Documents with at least one committed part."""
        return self.ok + self.partial + self.failed


@dataclass(frozen=True)
class Committed:
    """What a folder holds when a run begins there, from one pass over its files.

    `texts` has, for the (doc_id, part) of every row, `hash` of its text, None where the document could not be read;
    `documents` is how many of them begin in the `files`; `sentences` are those that were annotated for them.
    """

    texts: dict[tuple[str, int], int | None] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    documents: int = 0
    sentences: int = 0

    @classmethod
    def of(cls, place: Place) -> Committed:
        """That of a folder."""
        texts: dict[tuple[str, int], int | None] = {}
        files, sentences = set(), 0
        for path, summary, batches in _read(place, _WITH_TEXTS, _texts):
            files.add(path)
            sentences += summary.sentences
            for of_batch in batches:
                texts.update(of_batch)
        return cls(texts, frozenset(files), sum(part == 0 for _, part in texts), sentences)


@dataclass(frozen=True)
class Retried:
    """The documents of a run that are annotated again, those of which some part is not ok; as `corpus.Done`, the rest.

    `texts` has all their parts, as those of `Committed`; `ok` those that need no further work, and neither do
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
        texts: dict[tuple[str, int], int | None] = {}
        for _, _, batches in _read(place, _WITH_TEXTS, lambda rows: (_texts(rows), rows.column(3).to_pylist())):
            for of_batch, statuses in batches:
                texts.update(of_batch)
                for key, status in zip(of_batch, statuses, strict=True):
                    if status == "ok":
                        ok.add(key)
                    else:
                        failed.add(key[0])
        texts = {key: text for key, text in texts.items() if key[0] in failed}
        return cls(texts, frozenset(failed), frozenset(key for key in ok if key[0] in failed), columns)

    def without(self, parts: Done) -> Retried:
        """The same when these parts have been annotated again."""
        return replace(self, again=parts)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key[0] not in self.documents or key in self.ok or key in self.again


def take_stock(place: Place, unread: frozenset[str] = frozenset()) -> Accounts:
    """Read the rows' keys and statuses, and the footers, of all committed files. `unread` as in Parts."""
    accounts = Accounts()
    of_files = []
    for _, summary, batches in _read(place, [schema.DOC_ID, schema.PART, "status"], _statuses):
        accounts.summary.add(summary)
        of_files += batches
    if not sum(len(keys) for keys, _ in of_files):
        return accounts
    keys, statuses = (np.concatenate(columns) for columns in zip(*of_files, strict=True))
    del of_files  # else all of it is there three times
    order = np.argsort(keys)
    keys, statuses = keys[order], statuses[order]
    documents = keys.view(_PARTS_OF_KEY)["document"]
    first = np.flatnonzero(np.concatenate([[True], documents[1:] != documents[:-1]]))
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    accounts.parts = int(np.count_nonzero(new))
    accounts.duplicated_parts = len(keys) - accounts.parts
    accounts.done = Parts(keys[new] if accounts.duplicated_parts else keys, unread)
    lowest, highest = np.minimum.reduceat(statuses, first), np.maximum.reduceat(statuses, first)
    # The status that all parts share; where they differ, part of the document is there.
    shared = np.where(lowest == highest, lowest, _STATUSES.index("partial"))
    accounts.ok, accounts.partial, accounts.failed = np.bincount(shared, minlength=len(_STATUSES)).tolist()
    return accounts


def summaries(place: Place) -> Iterator[FileSummary]:
    """What the footer of each committed file says."""

    def read(path: str) -> FileSummary:
        with parquet.whole(path), place.open(path) as file:
            return read_summary(pq.read_metadata(file))

    return _in_threads(read, place.files(ANNOTATIONS, ".parquet"))


def together(*costs: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of costs by stage and model, each as run.json has them."""
    total = FileSummary()
    for some in costs:
        total.add(msgspec.convert({"stages": some}, FileSummary))
    summed: dict[str, Any] = msgspec.to_builtins(total.stages)
    return summed


def _texts(rows: pa.RecordBatch) -> dict[tuple[str, int], int | None]:
    # Only a document without any text can fail without having been read.
    unread = pc.and_(pc.equal(rows.column(3), "failed"), pc.equal(rows.column(2), ""))
    of_rows = zip(*(column.to_pylist() for column in (*rows.columns[:3], unread)), strict=True)
    return {(doc_id, part): None if failed else hash(text) for doc_id, part, text, failed in of_rows}


def _statuses(rows: pa.RecordBatch) -> tuple[Keys, npt.NDArray[np.int8]]:
    """Of each row the key and the number of its status: 21 bytes, whatever its id."""
    keys = _keys(zip(rows.column(0).to_pylist(), rows.column(1).to_pylist(), strict=True))
    return keys, pc.index_in(rows.column(2), value_set=pa.array(_STATUSES)).to_numpy().astype(np.int8)


def _keys(rows: Iterable[tuple[str, int]]) -> Keys:
    return np.fromiter((_key(doc_id, part) for doc_id, part in rows), _KEY)


def _key(doc_id: str, part: int) -> bytes:
    """20 bytes, which sort by document, then part. Of a billion documents, two have the same with a probability of
    4e-19 (birthday bound on 120 bits).
    """
    # NumPy's strings of bytes end before zeros, so that a key must not end with one.
    digest = blake2b(doc_id.encode("utf-8", "surrogatepass"), digest_size=15).digest()
    return digest + part.to_bytes(4, "big") + b"."


def _read(
    place: Place, columns: list[str], take: Callable[[pa.RecordBatch], Taken]
) -> Iterator[tuple[str, FileSummary, list[Taken]]]:
    """Of each committed file the path, the footer, and what `take` makes of its rows, batch by batch.

    Each is opened once, and `take` runs in the thread that reads it, so that no more of its rows than a batch is held.
    """

    def read(path: str) -> tuple[str, FileSummary, list[Taken]]:
        with parquet.whole(path), place.open(path) as file:
            footer, batches = parquet.footer_and_batches(file, columns)
            found = path, read_summary(footer), [take(parquet.valid(rows)) for rows in batches]
        # Arrow keeps for each thread what it has let go of: over a million rows, some 0.1 to 0.2 x 10^9 bytes.
        pa.default_memory_pool().release_unused()
        return found

    return _in_threads(read, place.files(ANNOTATIONS, ".parquet"))


def _in_threads(read: Callable[[str], Taken], paths: Iterable[str]) -> Iterator[Taken]:
    """What `read` gives for each of these, in their order; so many at once are read, or wait to be taken."""
    with ThreadPoolExecutor(_AT_ONCE, "el4ner-accounts") as pool:
        ahead: deque[Future[Taken]] = deque()
        try:
            for path in paths:
                if len(ahead) == _AT_ONCE:
                    yield ahead.popleft().result()
                ahead.append(pool.submit(read, path))
            while ahead:
                yield ahead.popleft().result()
        finally:
            for unwanted in ahead:
                unwanted.cancel()

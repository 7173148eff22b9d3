"""What an output folder holds: which documents are done, how they fared, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from el4ner_ray import parquet, schema
from el4ner_ray.sink import ANNOTATIONS, FileSummary, Place, read_summary

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


def committed_parts(place: Place) -> set[tuple[str, int]]:
    """The (doc_id, part) of every committed row."""
    keys: set[tuple[str, int]] = set()
    for table in _tables(place, [schema.DOC_ID, schema.PART]):
        keys.update(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))
    return keys


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

    `texts` has all their parts, as `committed_texts` gives them; `done` those that need no further work.
    """

    texts: dict[tuple[str, int], int | None]
    documents: frozenset[str]
    done: frozenset[tuple[str, int]]

    @classmethod
    def of(cls, place: Place) -> Retried:
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
        return cls(texts, frozenset(failed), frozenset(key for key in ok if key[0] in failed))

    def without(self, parts: set[tuple[str, int]]) -> Retried:
        """The same with these parts done, too."""
        return replace(self, done=self.done | parts)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key[0] not in self.documents or key in self.done


def take_stock(place: Place) -> Accounts:
    """Read the statuses and footers of all committed files."""
    accounts = Accounts()
    for path in place.files(ANNOTATIONS, ".parquet"):
        with place.open(path) as file:
            accounts.summary.add(read_summary(pq.read_metadata(file)))
    tables = list(_tables(place, [schema.DOC_ID, schema.PART, "status"]))
    if not tables:
        return accounts
    rows = pa.concat_tables(tables)
    accounts.parts = rows.group_by([schema.DOC_ID, schema.PART]).aggregate([]).num_rows
    accounts.duplicated_parts = rows.num_rows - accounts.parts
    number = pc.index_in(rows.column("status"), value_set=pa.array(_STATUSES))
    documents = rows.append_column("number", number).group_by(schema.DOC_ID)
    extremes = documents.aggregate([("number", "min"), ("number", "max")])
    # The status that all parts share; where they differ, part of the document is there.
    same = pc.equal(extremes.column("number_min"), extremes.column("number_max"))
    status = pc.if_else(same, extremes.column("number_min"), _STATUSES.index("partial"))
    for row in status.value_counts().to_pylist():
        setattr(accounts, _STATUSES[row["values"]], row["counts"])
    return accounts


def _tables(place: Place, columns: list[str]) -> Iterator[pa.Table]:
    for path in place.files(ANNOTATIONS, ".parquet"):
        with place.open(path) as file:
            yield parquet.table(file, columns)

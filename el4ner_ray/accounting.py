"""What an output folder holds: which documents are done, how they fared, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from el4ner_ray import schema
from el4ner_ray.sink import ANNOTATIONS, FileSummary, Place, read_summary

# A document is as well off as the worst of its parts.
_SEVERITY = ("ok", "partial", "failed")


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
    severity = pc.index_in(rows.column("status"), value_set=pa.array(_SEVERITY))
    worst = rows.append_column("severity", severity).group_by(schema.DOC_ID).aggregate([("severity", "max")])
    for row in worst.column("severity_max").value_counts().to_pylist():
        setattr(accounts, _SEVERITY[row["values"]], row["counts"])
    return accounts


def _tables(place: Place, columns: list[str]) -> Iterator[pa.Table]:
    for path in place.files(ANNOTATIONS, ".parquet"):
        with place.open(path) as file:
            yield pq.read_table(file, columns=columns)

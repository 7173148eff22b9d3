"""Parquet out: annotation and error rows, each file complete or absent, with its own costs in its footer."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor

from el4ner_ray import schema
from el4ner_ray.schema import DECIDED, SENTENCES, Entity, Failure, Span, Usage

ANNOTATIONS, ERRORS = "annotations", "errors"
_FOOTER = b"el4ner"


class FileSummary(msgspec.Struct):
    """What an annotation file cost. It stands in the file's footer, so that it is committed with the rows."""

    sentences: int = 0
    entities: int = 0
    stages: dict[str, dict[str, Usage]] = msgspec.field(default_factory=dict)

    def add(self, other: FileSummary) -> None:
        self.sentences += other.sentences
        self.entities += other.entities
        for stage, models in other.stages.items():
            for model, usage in models.items():
                self.stages.setdefault(stage, {}).setdefault(model, Usage()).add(usage)


@dataclass(frozen=True)
class Place:
    """A folder of any file system that fsspec knows."""

    uri: str

    def _resolved(self) -> tuple[Any, str]:
        filesystem, path = fsspec.core.url_to_fs(self.uri)
        return filesystem, path

    def write(self, name: str, content: bytes) -> None:
        """Write `name` below the folder, complete or not at all: temporary file, then rename.

        The temporary name starts with a dot, which readers of Parquet folders skip.
        """
        filesystem, root = self._resolved()
        target = posixpath.join(root, name)
        folder, base = posixpath.split(target)
        temporary = posixpath.join(folder, f".{base}.part")
        filesystem.makedirs(folder, exist_ok=True)
        with filesystem.open(temporary, "wb") as file:
            file.write(content)
        filesystem.mv(temporary, target)

    def move_aside(self, names: Sequence[str], folder: str) -> None:
        """Move what exists of `names` into `folder`, both below this one."""
        filesystem, root = self._resolved()
        filesystem.makedirs(posixpath.join(root, folder), exist_ok=True)
        for name in names:
            if filesystem.exists(posixpath.join(root, name)):
                source, target = posixpath.join(root, name), posixpath.join(root, folder, name)
                filesystem.mv(source, target, recursive=True)

    def files(self, folder: str, suffix: str) -> list[str]:
        """Paths of the committed files of a folder below this one, sorted."""
        filesystem, root = self._resolved()
        path = posixpath.join(root, folder)
        # Workers write, the driver lists: what it saw before does not count.
        filesystem.invalidate_cache()
        # Not a glob: the folder's own name may hold its special characters.
        found = filesystem.ls(path, detail=False) if filesystem.exists(path) else []
        return sorted(f for f in found if f.endswith(suffix) and not posixpath.basename(f).startswith("."))

    def open(self, path: str) -> Any:
        """A file as `files` names it, for reading."""
        return self._resolved()[0].open(path, "rb")

    def read(self, name: str) -> bytes | None:
        """Content of `name` below the folder; None when it does not exist."""
        filesystem, root = self._resolved()
        path = posixpath.join(root, name)
        if not filesystem.exists(path):
            return None
        content: bytes = filesystem.cat_file(path)
        return content


class AnnotationSink(Datasink[None]):  # type: ignore[misc]  # ray has no type stubs
    """Writes the rows that leave the last stage."""

    def __init__(self, place: Place, stages: Sequence[str], extra: pa.Schema, documents_per_file: int) -> None:
        """`stages` are the names whose ledgers are read, `extra` the input's other columns."""
        self._place = place
        self._stages = tuple(stages)
        self._extra = extra
        self._documents_per_file = documents_per_file

    def get_name(self) -> str:
        """Name in Ray's progress bars."""
        return "sink"

    @property
    def min_rows_per_write(self) -> int:
        """Rows that are collected for a file; a crash loses at most what is not yet in one."""
        return self._documents_per_file

    def write(self, blocks: Iterable[Block], ctx: Any) -> None:
        """Commit one annotation file and, if anything failed, one error file."""
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [table for table in tables if table.num_rows]
        if not tables:
            return
        annotations, errors = [], []
        summary = FileSummary()
        for table in tables:
            failures = self._failures(table)
            annotations.append(self._annotations(table, failures, summary))
            errors.extend(_error_rows(table, failures))
        output = pa.concat_tables(annotations)
        # A task that Ray runs again writes the same rows: the same name makes that an overwrite, not a duplicate.
        keys = zip(output.column(schema.DOC_ID).to_pylist(), output.column(schema.PART).to_pylist(), strict=True)
        name = hashlib.sha256(msgspec.msgpack.encode(sorted(keys))).hexdigest()[:24] + ".parquet"
        if errors:
            self._place.write(f"{ERRORS}/{name}", to_parquet(pa.Table.from_pylist(errors, schema.ERROR_SCHEMA)))
        # The annotations are the commit, so they come last.
        footer = {_FOOTER: msgspec.json.encode(summary)}
        self._place.write(f"{ANNOTATIONS}/{name}", to_parquet(output.replace_schema_metadata(footer)))

    def _failures(self, table: pa.Table) -> list[list[Failure]]:
        of_rows: list[list[Failure]] = [
            [Failure("input", "read", "", error)] if error else [] for error in table.column(schema.ERROR).to_pylist()
        ]
        for stage in self._stages:
            for row, failures in zip(of_rows, schema.failures_column(stage).decode(table), strict=True):
                row.extend(failures)
        return of_rows

    def _annotations(self, table: pa.Table, failures: list[list[Failure]], summary: FileSummary) -> pa.Table:
        texts = table.column(schema.TEXT).to_pylist()
        starts = table.column(schema.TEXT_START).to_pylist()
        entities: list[list[dict[str, Any]]] = []
        dropped: list[list[dict[str, Any]]] = []
        for row, text, start in zip(DECIDED.decode(table), texts, starts, strict=True):
            candidates = [candidate for sentence in row for candidate in sentence]
            entities.append([entity_row(c, text, start) for c in candidates if c.kept])
            dropped.append([entity_row(c, text, start) for c in candidates if not c.kept])
        asked = [self._requests(table, row) for row in range(table.num_rows)] if any(failures) else None
        summary.sentences += sum(map(len, SENTENCES.decode(table)))
        summary.entities += sum(map(len, entities))
        for stage in self._stages:
            for usage in schema.usage_column(stage).decode(table):
                summary.add(FileSummary(stages={stage: usage}))
        columns = {
            "status": pa.array([status_of(found, asked[i] if asked else 0) for i, found in enumerate(failures)]),
            "entities": pa.array(entities, pa.list_(schema.ENTITY_TYPE)),
            "dropped": pa.array(dropped, pa.list_(schema.ENTITY_TYPE)),
            schema.ERROR: pa.array([worst(found) for found in failures], pa.string()),
        }
        arrays = [columns.get(field.name) for field in schema.ANNOTATION_SCHEMA]
        arrays = [
            table.column(field.name) if array is None else array
            for field, array in zip(schema.ANNOTATION_SCHEMA, arrays, strict=True)
        ]
        arrays += [table.column(field.name) for field in self._extra]
        return pa.Table.from_arrays(arrays, schema=pa.schema([*schema.ANNOTATION_SCHEMA, *self._extra]))

    def _requests(self, table: pa.Table, row: int) -> int:
        stages = [stage for stage in self._stages if stage in schema.ASKING_STAGES]
        ledgers = (schema.usage_column(stage).decode(table.slice(row, 1))[0] for stage in stages)
        return sum(usage.requests + usage.merged for ledger in ledgers for usage in ledger.values())


def to_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def read_summary(metadata: pq.FileMetaData) -> FileSummary:
    """The costs in an annotation file's footer."""
    return msgspec.json.decode(metadata.metadata[_FOOTER], type=FileSummary)


def entity_row(entity: Entity, text: str, start: int) -> dict[str, Any]:
    """An entity as it stands in the output: `ENTITY_TYPE`. `text` is its row's, which starts at `start`."""
    span: Span = entity.span
    return {
        "start": start + span.start,
        "end": start + span.end,
        "text": text[span.start : span.end],
        "type": entity.label,
        "score": entity.score,
        "votes": [{"model": vote.model, "type": vote.label} for vote in entity.votes],
        "extracted_by": list(dict.fromkeys(entity.extracted_by + entity.listed_by)),
        "verified": entity.verified,
    }


def status_of(failures: list[Failure], requests: int) -> str:
    """`failed`: nothing could be done; `partial`: some request found no answer. Parse failures cost no status."""
    if any(failure.kind == "input" for failure in failures):
        return "failed"
    unanswered = sum(failure.kind == "engine" for failure in failures)
    if not unanswered:
        return "ok"
    return "failed" if unanswered >= requests else "partial"


def worst(failures: list[Failure]) -> str | None:
    """The reason in the annotation row: the first failure that cost the document its status."""
    telling = [failure for failure in failures if failure.kind != "parse"]
    if not telling:
        return None
    first = telling[0]
    where = f"{first.stage} {first.model}".strip()
    more = f" (and {len(telling) - 1} more)" if len(telling) > 1 else ""
    return f"{where}: {first.reason}{more}"


def _error_rows(table: pa.Table, failures: list[list[Failure]]) -> list[dict[str, Any]]:
    ids = table.column(schema.DOC_ID).to_pylist()
    parts = table.column(schema.PART).to_pylist()
    starts = table.column(schema.TEXT_START).to_pylist()
    return [
        {
            schema.DOC_ID: ids[row],
            schema.PART: parts[row],
            "kind": failure.kind,
            "stage": failure.stage,
            "model": failure.model or None,
            "sentence_start": starts[row] + failure.span.start if failure.span else None,
            "sentence_end": starts[row] + failure.span.end if failure.span else None,
            "reason": failure.reason,
            "raw": failure.raw or None,
        }
        for row, of_row in enumerate(failures)
        for failure in of_row
    ]

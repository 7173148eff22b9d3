"""Parquet out: annotation and error rows, each file complete or absent, with its own costs in its footer."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor

from el4ner_ray import schema
from el4ner_ray.annotations import annotation_rows, error_rows, failures_of
from el4ner_ray.errors import FatalError
from el4ner_ray.files import file_system, is_local, reading, to_disk
from el4ner_ray.schema import SENTENCES, Usage

ANNOTATIONS, ERRORS = "annotations", "errors"
_FOOTER = b"el4ner"


class FileSummary(msgspec.Struct):
    """What an annotation file cost. It stands in the file's footer, so that it is committed with the rows.

    `retry` is the number of the last retry that replaced rows of the file, 0 for none.
    """

    sentences: int = 0
    entities: int = 0
    stages: dict[str, dict[str, Usage]] = msgspec.field(default_factory=dict)
    retry: int = 0

    def add(self, other: FileSummary) -> None:
        self.sentences += other.sentences
        self.entities += other.entities
        for stage, models in other.stages.items():
            for model, usage in models.items():
                self.stages.setdefault(stage, {}).setdefault(model, Usage()).add(usage)


@dataclass(frozen=True)
class Place:
    """A folder of any file system that fsspec knows.

    Methods raise UsageError where it has none such, and where what they list or read cannot be reached.
    """

    uri: str

    def write(self, name: str, content: bytes) -> None:
        """Write `name` below the folder, complete or not at all: temporary file, then rename.

        The temporary name starts with a dot, which readers of Parquet folders skip, and is never the same: two tries of
        one commit may overlap. Local files outlast a power cut. Raises FatalError, naming the file, when that fails.
        """
        filesystem, root = file_system(self.uri)
        target = posixpath.join(root, name)
        folder, base = posixpath.split(target)
        temporary = posixpath.join(folder, f".{base}.{uuid4().hex}.part")
        local = is_local(filesystem)
        try:
            filesystem.makedirs(folder, exist_ok=True)
            with filesystem.open(temporary, "wb") as file:
                file.write(content)
            if local:  # else the name might be on the disk before the content
                to_disk(temporary)
            filesystem.mv(temporary, target)
            if local:
                to_disk(folder)
        except OSError as error:
            with suppress(OSError):
                filesystem.rm(temporary)
            raise FatalError(f"{target}: cannot be written: {error.strerror or error}") from error

    def move_aside(self, names: Sequence[str], folder: str) -> None:
        """Move what exists of `names` into `folder`, both below this one."""
        filesystem, root = file_system(self.uri)
        filesystem.makedirs(posixpath.join(root, folder), exist_ok=True)
        for name in names:
            if filesystem.exists(posixpath.join(root, name)):
                source, target = posixpath.join(root, name), posixpath.join(root, folder, name)
                filesystem.mv(source, target, recursive=True)

    def files(self, folder: str, suffix: str) -> list[str]:
        """Paths of the committed files of a folder below this one, sorted."""
        return [f for f in self._listed(folder) if f.endswith(suffix) and not posixpath.basename(f).startswith(".")]

    def unfinished(self, folder: str) -> list[str]:
        """Paths of what killed writers left under temporary names in a folder below this one, "" for this, sorted."""
        ends = (".part", ".building")
        return [f for f in self._listed(folder) if f.endswith(ends) and posixpath.basename(f).startswith(".")]

    def _listed(self, folder: str) -> list[str]:
        filesystem, root = file_system(self.uri)
        path = posixpath.join(root, folder)
        # Workers write, the driver lists: what it saw before does not count.
        filesystem.invalidate_cache()
        # Not a glob: the folder's own name may hold its special characters.
        with reading(posixpath.join(self.uri, folder)):
            return sorted(filesystem.ls(path, detail=False)) if filesystem.exists(path) else []

    def remove(self, name: str) -> None:
        """Remove the file or folder `name` below this one, if it is there."""
        filesystem, root = file_system(self.uri)
        path = posixpath.join(root, name)
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def open(self, path: str) -> Any:
        """A file as `files` names it, for reading."""
        return file_system(self.uri)[0].open(path, "rb")

    def read(self, name: str) -> bytes | None:
        """Content of `name` below the folder; None when it does not exist."""
        filesystem, root = file_system(self.uri)
        path = posixpath.join(root, name)
        with reading(posixpath.join(self.uri, name)):
            content: bytes | None = filesystem.cat_file(path) if filesystem.exists(path) else None
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
            failures = failures_of(table, self._stages)
            rows = annotation_rows(table, failures, self._stages, self._extra)
            annotations.append(rows)
            errors.extend(error_rows(table, failures))
            summary.add(_summary(table, rows, self._stages))
        output = pa.concat_tables(annotations)
        # A task that Ray runs again writes the same rows, so it overwrites and does not duplicate.
        commit(self._place, file_name(output), output, summary, errors)


def commit(place: Place, name: str, rows: pa.Table, summary: FileSummary, errors: list[dict[str, Any]]) -> None:
    """Write or replace the annotation file `name`, and the error file of that name if there is any error.

    The annotations are the commit, so they come last: an error file without its annotation file does not count.
    """
    if errors:
        place.write(f"{ERRORS}/{name}", to_parquet(pa.Table.from_pylist(errors, schema.ERROR_SCHEMA)))
    else:
        place.remove(f"{ERRORS}/{name}")  # of an earlier try
    footer = {_FOOTER: msgspec.json.encode(summary)}
    place.write(f"{ANNOTATIONS}/{name}", to_parquet(rows.replace_schema_metadata(footer)))


def file_name(rows: pa.Table) -> str:
    """Name of the file with these rows: rows that are written again overwrite it, in whatever order they come."""
    keys = zip(rows.column(schema.DOC_ID).to_pylist(), rows.column(schema.PART).to_pylist(), strict=True)
    return hashlib.sha256(msgspec.msgpack.encode(sorted(keys))).hexdigest()[:24] + ".parquet"


def to_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def read_summary(metadata: pq.FileMetaData) -> FileSummary:
    """The costs in an annotation file's footer. Raises msgspec.DecodeError where they are not in it."""
    return msgspec.json.decode((metadata.metadata or {}).get(_FOOTER, b""), type=FileSummary)


def _summary(table: pa.Table, rows: pa.Table, stages: Sequence[str]) -> FileSummary:
    summary = spent_on(table, stages)
    summary.sentences = sum(map(len, SENTENCES.decode(table)))
    summary.entities = sum(map(len, rows.column("entities").to_pylist()))
    return summary


def spent_on(table: pa.Table, stages: Iterable[str]) -> FileSummary:
    """What the stages of these names spent on the rows of a table."""
    summary = FileSummary()
    for stage in stages:
        for usage in schema.usage_column(stage).decode(table):
            summary.add(FileSummary(stages={stage: usage}))
    return summary

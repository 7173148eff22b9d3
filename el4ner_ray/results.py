"""What a run wrote: its annotations, one record a document."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import IO, Any, Literal, SupportsIndex, TypeVar, overload

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from el4ner_ray import parquet
from el4ner_ray.errors import UsageError
from el4ner_ray.files import file_system, reading
from el4ner_ray.schema import ANNOTATION_SCHEMA, DOC_ID, ERROR, PART, TEXT, TEXT_START

RUN_FILE = "run.json"

# Hashes that two ids share; of so many, some are of the same id.
_SUSPECTS = 1_000

T = TypeVar("T")

Status = Literal["ok", "partial", "failed"]


class AnnotatedEntity(msgspec.Struct, frozen=True):
    """An entity: `text == document.text[start:end]`, the end exclusive. A vote is (model, type or None: abstained)."""

    start: int
    end: int
    text: str
    type: str
    score: float
    votes: tuple[tuple[str, str | None], ...]
    extracted_by: tuple[str, ...]
    verified: bool


class AnnotatedDocument(msgspec.Struct, frozen=True):
    """A document of the run, its parts put together. `error` is None, or what went wrong.

    `dropped` are the candidates that some model found and the ensemble did not keep.
    """

    doc_id: str
    text: str
    status: Status
    entities: tuple[AnnotatedEntity, ...]
    error: str | None
    dropped: tuple[AnnotatedEntity, ...] = ()

    def __repr__(self) -> str:
        """The text's beginning and the entities in a line."""
        found = ", ".join(f"{entity.text!r} {entity.type} {entity.score:.2f}" for entity in self.entities)
        beginning = self.text if len(self.text) <= 60 else f"{self.text[:59]}…"
        status = "" if self.status == "ok" else f" {self.status}: {self.error};"
        return f"<{self.doc_id}:{status} {beginning!r} [{found}]>"

    def _repr_html_(self) -> str:
        """For notebooks: the text with its entities marked."""
        from el4ner_ray.report.highlight import highlighted

        return highlighted([self])


class AnnotatedDocuments(list[AnnotatedDocument]):
    """A list of documents that a notebook shows with their entities marked, slices of it, too."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> AnnotatedDocument: ...

    @overload
    def __getitem__(self, index: slice, /) -> AnnotatedDocuments: ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> AnnotatedDocument | AnnotatedDocuments:
        return (
            AnnotatedDocuments(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)
        )

    def _repr_html_(self) -> str:
        from el4ner_ray.report.highlight import highlighted

        return highlighted(self)


class _Model(msgspec.Struct, frozen=True):
    name: str


class _Settings(msgspec.Struct, frozen=True):
    models: tuple[_Model, ...]
    language: str = "en"
    labels: dict[str, Any] | None = None


class _Deciding(msgspec.Struct, frozen=True):
    label_order: tuple[str, ...] = ()


class Account(msgspec.Struct, frozen=True):
    """How far a run came, with which models, in which language: what readers of annotations need of `run.json`."""

    status: str
    config: _Settings
    fingerprint_fields: _Deciding = _Deciding()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of the configuration."""
        return tuple(model.name for model in self.config.models)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set, in the order of the prompts, whether or not a type was found; empty where nothing tells it."""
        # The configuration names no labels where they are the pool's.
        return self.fingerprint_fields.label_order or tuple(self.config.labels or ())


def read_account(directory: str) -> Account | None:
    """The account in the folder of a run; as `read_run_file`."""
    return read_run_file(directory, Account)


def read_run_file(directory: str, type_: type[T]) -> T | None:
    """The `run.json` in the folder of a run, a local path or URI, as a struct; None where there is none.

    Raises UsageError where it cannot be read, or a field of it is not what a run writes.
    """
    # Not by `output` and `sink`: what these import takes two seconds, which `evaluate` and `export` need not wait.
    filesystem, root = file_system(directory)
    path = f"{root.rstrip('/')}/{RUN_FILE}"
    with reading(f"{directory}/{RUN_FILE}"):
        content = filesystem.cat_file(path) if filesystem.exists(path) else None
    return None if content is None else decoded_run(content, directory, type_)


def decoded_run(content: bytes, directory: str, type_: type[T]) -> T:
    """The content of the `run.json` in a folder. Raises UsageError where it is not what a run writes."""
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mend = "give the folder that `el4ner annotate` wrote, or annotate again with --force"
        raise UsageError(f"{directory}/{RUN_FILE}: {error}; {mend}") from None


def unfinished(account: Account | None) -> str | None:
    """That a run is not finished, what may be missing, and the mend, in a line; None for one that is finished."""
    missing = "documents may be missing, and long ones may lack their last parts"
    if account is None:
        return f"no {RUN_FILE} tells that this run is finished: {missing}; give the whole folder of the run"
    if account.status != "finished":
        state = f"this run is not finished, its state is “{account.status}”"
        return f"{state}: {missing}; the same `el4ner annotate` command finishes it"
    return None


def read_annotations(directory: str) -> Iterator[AnnotatedDocument]:
    """The documents under `directory/annotations`, a local path or URI, as they lie; long ones when complete.

    Status of a document in parts: that of its parts where they agree, else partial. Of a run that is not finished, a
    document that lacks parts is what stands before the first of them, if anything does. Streams: no more is held than a
    batch of rows, 8 bytes a document, and the parts of unfinished documents. Raises UsageError, at the call where there
    are no annotations, and while reading where a document stands there twice, one of a finished run lacks parts, or a
    file is damaged or cannot be read.
    """
    # Asked before the files are listed: a run that finishes meanwhile was read in part.
    finished = not unfinished(read_account(directory))
    filesystem, root = file_system(directory)
    folder = f"{root.rstrip('/')}/annotations"
    with reading(f"{directory}/annotations"):
        paths = filesystem.ls(folder, detail=False) if filesystem.isdir(folder) else []
    files = sorted(path for path in paths if path.endswith(".parquet"))
    if not files:
        raise UsageError(f"{directory}: no annotations/*.parquet in it; give the folder that `el4ner annotate` wrote")
    with parquet.whole(files[0]), filesystem.open(files[0], "rb") as file:
        absent = set(ANNOTATION_SCHEMA.names) - set(pq.read_schema(file).names)
    if absent:
        raise UsageError(f"{directory}: no annotations: {', '.join(sorted(absent))} missing; give DIR of a run")
    documents = _rows_of_documents(filesystem, files)
    if not finished:
        documents = filter(None, map(_before_gap, documents))
    return (document_of(rows, directory) for rows in documents)


def first_parts(file: IO[bytes]) -> Iterator[AnnotatedDocument]:
    """The documents that begin in one annotation file, as far as their first part goes."""
    for batch in parquet.batches(file, ANNOTATION_SCHEMA.names, rows=64):
        for row in batch.to_pylist():
            if row[PART] == 0:
                yield document_of([row], "")


def _rows_of_documents(filesystem: Any, files: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    # Parts need not lie side by side. Few documents have several: a pass over two small columns tells which.
    lacking: Counter[str] = Counter()
    hashes = array("q")
    for batch in _batches(filesystem, files, [DOC_ID, PART]):
        lacking.update(batch.filter(pc.field(PART) > 0).column(DOC_ID).to_pylist())
        hashes.extend(map(hash, _beginning(batch)))
    _check_once(filesystem, files, np.array(hashes))
    for doc_id in lacking:
        lacking[doc_id] += 1  # the first part
    waiting: dict[str, list[dict[str, Any]]] = {}
    for batch in _batches(filesystem, files, ANNOTATION_SCHEMA.names):
        for row in batch.to_pylist():
            doc_id = row[DOC_ID]
            if doc_id not in lacking:
                yield [row]
                continue
            waiting.setdefault(doc_id, []).append(row)
            if len(waiting[doc_id]) == lacking[doc_id]:
                yield waiting.pop(doc_id)
    yield from waiting.values()


def _beginning(batch: pa.RecordBatch) -> list[str]:
    """The documents of which the first part is in these rows."""
    doc_ids: list[str] = batch.filter(pc.field(PART) == 0).column(DOC_ID).to_pylist()
    return doc_ids


def _check_once(filesystem: Any, files: Sequence[str], hashes: npt.NDArray[np.int64]) -> None:
    """Raise UsageError where a document begins twice; `hashes` are those of all ids, in any order."""
    hashes.sort()
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]][:_SUSPECTS].tolist())
    found: dict[str, str] = {}
    for path in files if twice else ():
        for batch in _batches(filesystem, [path], [DOC_ID, PART]):
            for doc_id in (doc_id for doc_id in _beginning(batch) if hash(doc_id) in twice):
                if doc_id in found:
                    mend = "if files of two runs lie there together, remove those of one"
                    raise UsageError(f"{path}: document {doc_id!r}: stands in {found[doc_id]} already; {mend}")
                found[doc_id] = path


def _before_gap(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a document, by part, before the first part that is missing; one that is there twice stays."""
    rows.sort(key=lambda row: int(row[PART]))
    return [row for _, row in takewhile(lambda each: each[1][PART] <= each[0], enumerate(rows))]


def _batches(filesystem: Any, files: Sequence[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for path in files:
        with parquet.whole(path), filesystem.open(path, "rb") as file:
            yield from map(parquet.valid, parquet.batches(file, columns))


def document_of(rows: list[dict[str, Any]], directory: str) -> AnnotatedDocument:
    """A document from its output rows, in any order. Raises UsageError, naming the `directory`, when one is missing."""
    rows.sort(key=lambda row: int(row[PART]))
    text = ""
    for number, row in enumerate(rows):
        if row[PART] != number or row[TEXT_START] != len(text):
            gap = f"{PART} {number}, which starts at {len(text)}, is not there just once"
            raise UsageError(f"{directory}: document {row[DOC_ID]!r}: {gap}; finish the run with `el4ner annotate`")
        text += row[TEXT] or ""
    statuses = {row["status"] for row in rows}
    errors = dict.fromkeys(row[ERROR] for row in rows if row[ERROR])
    return AnnotatedDocument(
        doc_id=rows[0][DOC_ID],
        text=text,
        status=statuses.pop() if len(statuses) == 1 else "partial",
        entities=tuple(_entity(entity) for row in rows for entity in row["entities"] or ()),
        error="; ".join(errors) or None,
        dropped=tuple(_entity(entity) for row in rows for entity in row["dropped"] or ()),
    )


def _entity(fields: dict[str, Any]) -> AnnotatedEntity:
    votes = tuple((vote["model"], vote["type"]) for vote in fields["votes"] or ())
    return AnnotatedEntity(**fields | {"votes": votes, "extracted_by": tuple(fields["extracted_by"] or ())})

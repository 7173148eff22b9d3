"""The documents of a job: what there is (`survey`), and blocks of them to work on (`read_blocks`).

Both passes stream. The first, on the driver, reads everything once before any model loads, so that wrong use is told at
once, ids are unique and all blocks have one schema. The second, on the workers, reads some files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import pyarrow as pa

from el4ner_ray import readers
from el4ner_ray.core.grouping import grouped
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.extra_columns import ExtraColumns, cell, flat, is_text
from el4ner_ray.inputs import Found, find
from el4ner_ray.parts import PARTS_TOGETHER, table_of_parts
from el4ner_ray.splitting import split_parts

_DOCUMENTS_TOGETHER = 1000


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file. `name` (relative to the input, unique in the corpus) starts the ids that are made up for its rows.

    `documents` is how many rows are read, from the first; `id_column` is None where ids are made up.
    """

    uri: str
    format: str
    name: str
    documents: int
    id_column: str | None


@dataclass(frozen=True, slots=True)
class Corpus:
    """All documents of a job, as surveyed. Picklable; holds no document.

    `extra_schema` has the other columns of the input as they go out, `renamed` those of them (input name: output name)
    whose names the output needs itself, `json_columns` the input names of those that hold values as JSON text.
    """

    files: tuple[CorpusFile, ...]
    documents: int
    extra_schema: pa.Schema
    renamed: Mapping[str, str]
    json_columns: frozenset[str]
    text_column: str

    @property
    def columns(self) -> dict[str, str]:
        """What each extra column of the output holds: its Arrow type, or `JSON text`."""
        return {
            field.name: "JSON text" if name in self.json_columns else str(field.type)
            for field, name in self.extra_fields
        }

    @property
    def extra_fields(self) -> list[tuple[pa.Field, str]]:
        """The extra columns as they go out, each with its name in the input."""
        before = {new: old for old, new in self.renamed.items()}
        return [(field, before.get(field.name, field.name)) for field in self.extra_schema]


@dataclass(frozen=True, slots=True)
class Document:
    """One input row. `number` is its line (JSON lines, CSV) or row (Parquet) in the file, from 1.

    With an `error` (a reason that starts with file:line) the text is empty; `extra` has what could be read of the other
    columns, by input name, a `pa.Array` of length 1 each for Parquet.
    """

    uri: str
    number: int
    doc_id: str
    text: str
    error: str | None
    extra: Mapping[str, Any]


class Done(Protocol):
    """The (doc_id, part) pairs that need no further work; a `set` of them will do."""

    def __contains__(self, key: tuple[str, int], /) -> bool: ...


def survey(
    inputs: Sequence[str],
    text_column: str,
    id_column: str | None = None,
    limit: int | None = None,
    without: str | None = None,
) -> Corpus:
    """What there is to annotate: the first `limit` documents (default: all) of the inputs in their order.

    Files below the folder `without`, a run's output, are left out.

    A document's id is its value in `id_column`, else in the column `id` of a file that has one (that is: in one of the
    first 1,000 lines), else `{file}:{line or row}` (of a .txt file `{file}`), `{file}` being the path relative to the
    input, with as many of the folders above as tell it from other files. Rows that cannot be read count as documents.

    Raises UsageError, naming the file and the mend: an input names no file or no document, a file cannot be read or
    lacks the text or id column, two documents share an id, or Parquet columns of one name have types that do not unite.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be at least 1")
    found = find(inputs, without)
    files: list[CorpusFile] = []
    counts: Counter[str] = Counter()
    # 128-bit hashes take a fraction of the ids' memory, and no two ids of any archive will share one.
    seen: set[bytes] = set()
    extra = ExtraColumns()
    for origin, name in zip(found, _unique_names(found), strict=True):
        remaining = None if limit is None else limit - counts.total()
        if remaining == 0:
            break
        file = _open_file(origin.uri, name, text_column, id_column)
        files.append(file)
        if file.format == "parquet":
            extra.add_schema(origin.uri, readers.parquet_schema(origin.uri), {text_column, file.id_column})
        count = 0
        for document in islice(_documents(file, text_column, ids_only=True), remaining):
            count += 1
            digest = hashlib.blake2b(document.doc_id.encode(), digest_size=16).digest()
            if digest in seen:
                raise _duplicate(files, text_column, document)
            seen.add(digest)
            extra.add_values(document.extra)
        files[-1] = replace(file, documents=count)
        counts[origin.given] += count
    for given in inputs:
        if not counts[given] and (limit is None or counts.total() < limit):
            raise UsageError(f"{given}: holds no document; leave it out, or check that it is the right file")
    schema, renamed, json_columns = extra.settle()
    return Corpus(tuple(files), counts.total(), schema, renamed, json_columns, text_column)


def files_together(files: Sequence[CorpusFile]) -> list[tuple[CorpusFile, ...]]:
    """The files in groups that are read one after another, of at most 1,000 documents unless it is a single file.

    A batch ends with its group, so an archive of a document a file would have batches of one.
    """
    return [tuple(some) for some in grouped(files, lambda file: file.documents, _DOCUMENTS_TOGETHER)]


def read_blocks(
    corpus: Corpus,
    files: Sequence[CorpusFile],
    batch_documents: int,
    part_characters: int,
    done: Done | None = None,
    first_batch: int = 0,
) -> Iterator[pa.Table]:
    """The documents of some files in blocks of the schema PART_SCHEMA + `corpus.extra_schema`, one row a part.

    A block has at most `batch_documents` rows and `4 * part_characters` characters, and may have parts of several
    files. A document that could not be read is one row with the reason in `error` and no text. Parts in `done` are left
    out. The column BATCH counts the blocks from `first_batch`.

    Raises UsageError if a file cannot be read any more, FatalError if it has lost rows since the survey.
    """
    parts = (
        (document, part, start, end)
        for file in files
        for document in _surveyed(file, corpus.text_column)
        for part, (start, end) in enumerate(split_parts(document.text, part_characters))
        if done is None or (document.doc_id, part) not in done
    )
    blocks = grouped(parts, lambda part: part[3] - part[2], PARTS_TOGETHER * part_characters, batch_documents)
    for batch, rows in enumerate(blocks, first_batch):
        yield _table(corpus, rows, batch)


def _surveyed(file: CorpusFile, text_column: str) -> Iterator[Document]:
    count = 0
    for document in islice(_documents(file, text_column), file.documents):
        count += 1
        yield document
    if count < file.documents:
        raise FatalError(f"{file.uri}: had {file.documents} documents when the job started and has {count} now")


def check_unchanged(
    corpus: Corpus, part_characters: int, texts: Mapping[tuple[str, int], int | None], output: str, whole: bool
) -> None:
    """Raise UsageError, naming the document, unless the corpus still has the text of every part that was annotated.

    `texts` are hashes by (doc_id, part), as `accounting.Committed` has them; None compares equal to anything,
    and need not be there: a line that could not be read may have got the id that it has since. With `whole` false the
    corpus may lack other documents, too. Streams, and reads every text once.
    """
    mend = "restore the input, name another --output, or start anew with --force (the old output is kept beside)"
    annotated = {doc_id for doc_id, _ in texts}
    found: set[tuple[str, int]] = set()
    for file in corpus.files:
        for document in islice(_documents(file, corpus.text_column), file.documents):
            if document.doc_id not in annotated:
                continue
            for part, (start, end) in enumerate(split_parts(document.text, part_characters)):
                key = document.doc_id, part
                if key not in texts:
                    continue
                found.add(key)
                if texts[key] not in (None, hash(document.text[start:end])):
                    raise UsageError(
                        f"{file.uri}:{document.number}: the text of document {document.doc_id!r} is not the one "
                        f"that was annotated into {output}; {mend}"
                    )
    gone = [key for key, text in texts.items() if text is not None and key not in found] if whole else []
    if gone:
        doc_id, part = min(gone)
        raise UsageError(
            f"{len(gone)} rows of {output} are not in the input any more, the first is part {part} of "
            f"document {doc_id!r}; {mend}"
        )


def _unique_names(found: Sequence[Found]) -> list[str]:
    names = [file.name for file in found]
    while len(names) > len(set(names)):
        count = Counter(names)
        for i, file in enumerate(found):
            if count[names[i]] > 1:
                names[i] = "/".join(file.uri.split("/")[-names[i].count("/") - 2 :])
    return names


def _open_file(uri: str, name: str, text_column: str, id_column: str | None) -> CorpusFile:
    kind = readers.FORMATS[readers.suffix(uri) or ""][0]
    columns = readers.columns(uri)
    if kind == "txt" or columns is None:
        return CorpusFile(uri, kind, name, 0, None)
    for option, column in (("text_column", text_column), ("id_column", id_column)):
        if column is not None and column not in columns:
            if kind == "csv" and len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
                found = f"there is no column {column!r} but only {columns[0]!r}: columns are separated by commas here"
                raise UsageError(f"{uri}: {found}; write the file with commas")
            there = ", ".join(map(repr, columns)) or "none"
            raise UsageError(f"{uri}: there is no column {column!r}; set {option} to one of its columns: {there}")
    if kind == "parquet":
        type_ = flat(readers.parquet_schema(uri).field(text_column).type)
        if not is_text(type_):
            raise UsageError(
                f"{uri}: the column {text_column!r} holds {type_}, not strings; set text_column to another"
            )
    return CorpusFile(uri, kind, name, 0, id_column or ("id" if "id" in columns else None))


def _documents(file: CorpusFile, text_column: str, ids_only: bool = False) -> Iterator[Document]:
    """`ids_only` spares Parquet the other columns: texts and extra columns are then missing from its documents."""
    named = [file.id_column] if file.id_column else []
    if file.format == "txt" and ids_only:
        yield Document(file.uri, 1, file.name, "", None, {})
        return
    for row in readers.rows(file.uri, plain=[text_column, *named], only=named if ids_only else None):
        yield _document(file, row, readers.TXT_COLUMN if file.format == "txt" else text_column)


def _document(file: CorpusFile, row: readers.Row, text_column: str) -> Document:
    values = row.values or {}
    doc_id = file.name if file.format == "txt" else f"{file.name}:{row.number}"
    error = row.error
    if file.id_column is not None and row.values is not None:
        value = values.get(file.id_column)
        if value is None or value == "" or isinstance(value, list | dict | bytes):
            error = error or f"column {file.id_column!r} holds no id"
        else:
            doc_id = str(value)
    text = values.get(text_column)
    if error is None and not isinstance(text, str):
        error = f"column {text_column!r} holds {readers.a(text)}, not a string"
        error = error if text_column in values else f"column {text_column!r} is missing"
    return Document(
        uri=file.uri,
        number=row.number,
        doc_id=doc_id,
        text=text if error is None and isinstance(text, str) else "",
        error=error and f"{file.uri}:{row.number}: {error}",
        extra={name: value for name, value in values.items() if name not in (text_column, file.id_column)},
    )


def _duplicate(files: Sequence[CorpusFile], text_column: str, second: Document) -> UsageError:
    """Reads again up to the first document with the id: positions of all ids would not fit into memory."""
    documents = (document for file in files for document in _documents(file, text_column, ids_only=True))
    first = next(document for document in documents if document.doc_id == second.doc_id)
    return UsageError(
        f"the id {second.doc_id!r} is given twice, in {first.uri}:{first.number} and {second.uri}:{second.number}; "
        "make ids unique, or set id_column to a column whose values are"
    )


def _table(corpus: Corpus, parts: Sequence[tuple[Document, int, int, int]], batch: int) -> pa.Table:
    table = table_of_parts(
        [document.doc_id for document, *_ in parts],
        [part for _, part, *_ in parts],
        [start for *_, start, _ in parts],
        [document.text[start:end] for document, _, start, end in parts],
        [document.error for document, *_ in parts],
        batch,
    )
    for field, name in corpus.extra_fields:
        as_json = name in corpus.json_columns
        cells = [cell(document.extra.get(name), as_json, field.type) for document, *_ in parts]
        table = table.append_column(field, pa.concat_arrays(cells))
    return table

"""What a run wrote: its annotations, one record a document, and how they compare with gold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any, Literal

import fsspec
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from rich.table import Table

from el4ner_ray.core.evaluation import Evaluation, Score, evaluate
from el4ner_ray.core.reliability import reliability
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import read_labelled
from el4ner_ray.schema import ANNOTATION_SCHEMA, DOC_ID, ERROR, PART, TEXT, TEXT_START

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
    """A document of the run, its parts put together. `error` is None, or what went wrong."""

    doc_id: str
    text: str
    status: Status
    entities: tuple[AnnotatedEntity, ...]
    error: str | None


def read_annotations(directory: str) -> Iterator[AnnotatedDocument]:
    """The documents under `directory/annotations`, a local path or URI, as they lie; long ones when complete.

    Status of a document in parts: that of its parts where they agree, else partial. Streams: no more is held than a
    batch of rows and the parts of unfinished documents. Raises UsageError, at the call where there are no annotations,
    and while reading where a document lacks parts.
    """
    filesystem, root = fsspec.core.url_to_fs(directory)
    folder = f"{root.rstrip('/')}/annotations"
    paths = filesystem.ls(folder, detail=False) if filesystem.isdir(folder) else []
    files = sorted(path for path in paths if path.endswith(".parquet"))
    if not files:
        raise UsageError(f"{directory}: no annotations/*.parquet in it; give the folder that `el4ner annotate` wrote")
    try:
        absent = set(ANNOTATION_SCHEMA.names) - set(ds.dataset(files, filesystem=filesystem).schema.names)
    except pa.ArrowInvalid as error:
        raise UsageError(f"{directory}: not Parquet: {' '.join(str(error).split())}; annotate again") from None
    if absent:
        raise UsageError(f"{directory}: no annotations: {', '.join(sorted(absent))} missing; give DIR of a run")
    return _documents(ds.dataset(files, schema=ANNOTATION_SCHEMA, filesystem=filesystem), directory)


def first_parts(file: IO[bytes]) -> Iterator[AnnotatedDocument]:
    """The documents that begin in one annotation file, as far as their first part goes."""
    for batch in pq.ParquetFile(file).iter_batches(batch_size=64, columns=ANNOTATION_SCHEMA.names):
        for row in batch.to_pylist():
            if row[PART] == 0:
                yield _document([row], "")


def _documents(dataset: Any, directory: str) -> Iterator[AnnotatedDocument]:
    # Parts need not lie side by side. Few documents have several: a pass over two small columns tells which.
    later = dataset.to_table(columns=[DOC_ID], filter=pc.field(PART) > 0).column(DOC_ID)
    lacking = Counter({doc_id: count + 1 for doc_id, count in Counter(later.to_pylist()).items()})
    waiting: dict[str, list[dict[str, Any]]] = {}
    for batch in dataset.to_batches(columns=ANNOTATION_SCHEMA.names, batch_size=1024):
        for row in batch.to_pylist():
            doc_id = row[DOC_ID]
            if doc_id not in lacking:
                yield _document([row], directory)
                continue
            waiting.setdefault(doc_id, []).append(row)
            if len(waiting[doc_id]) == lacking[doc_id]:
                yield _document(waiting.pop(doc_id), directory)
    for rows in waiting.values():
        yield _document(rows, directory)


def _document(rows: list[dict[str, Any]], directory: str) -> AnnotatedDocument:
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
    )


def _entity(fields: dict[str, Any]) -> AnnotatedEntity:
    votes = tuple((vote["model"], vote["type"]) for vote in fields["votes"] or ())
    return AnnotatedEntity(**fields | {"votes": votes, "extracted_by": tuple(fields["extracted_by"] or ())})


def evaluate_run(directory: str, gold_source: str) -> dict[str, Evaluation]:
    """The run measured against gold, under 'ensemble'.

    Its output holds only what was verified, so that no earlier stage can be measured from it. Documents are
    matched by id. Failed ones, and those that the run lacks, count as without entities. Raises UsageError where no id
    of the gold is in the run, or a text differs, since its offsets would then mean something else.
    """
    gold = {text.id: text for text in read_labelled(gold_source, "gold")}
    predicted: dict[str, set[tuple[int, int, str]]] = {}
    scores: list[float] = []
    right: list[bool] = []
    for document in read_annotations(directory):
        wanted = gold.get(document.doc_id)
        if wanted and document.status != "failed" and document.text != wanted.text:
            mend = "evaluate against the gold of the very texts that were annotated"
            raise UsageError(f"--gold {gold_source}, id {wanted.id!r}: text: differs from that in {directory}; {mend}")
        predicted[document.doc_id] = {(entity.start, entity.end, entity.type) for entity in document.entities}
        if wanted:
            scores += [entity.score for entity in document.entities]
            right += [(entity.start, entity.end, entity.type) in wanted.typed for entity in document.entities]
    if not gold.keys() & predicted.keys():
        ids = f"{next(iter(gold))!r} in the gold, {next(iter(predicted), '')!r} in the run"
        raise UsageError(f"--gold {gold_source}: id: none of its ids is in {directory} ({ids}); give both the same ids")
    evaluation = evaluate({id_: text.typed for id_, text in gold.items()}, predicted)
    return {"ensemble": msgspec.structs.replace(evaluation, reliability=reliability(scores, right))}


def evaluation_table(evaluation: Evaluation, title: str | None = None) -> Table:
    """P, R, F1 and support: all types, spans alone, then each type. The interval is that of the first row's F1."""
    interval = evaluation.micro_f1_interval
    table = Table(title=title)
    table.add_column("entities")
    for name in ("P", "R", "F1", f"{interval.confidence:.0%} interval" if interval else "interval", "support"):
        table.add_column(name, justify="right")
    between = f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""
    _add_rows(table, [("all types", evaluation.micro)], between)
    _add_rows(table, [("span only", evaluation.spans)])
    table.add_section()
    _add_rows(table, evaluation.types.items())
    return table


def _add_rows(table: Table, scores: Iterable[tuple[str, Score]], interval: str = "") -> None:
    for name, score in scores:
        rates = (f"{rate:.3f}" for rate in (score.precision, score.recall, score.f1))
        table.add_row(name, *rates, interval, str(score.support))
